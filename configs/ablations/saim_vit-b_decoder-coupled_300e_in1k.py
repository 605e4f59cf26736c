# Table 3, decoder of shared weights: 83.02.
_base_ = "saim_vit-b_smoothing-none_300e_in1k.py"

model = dict(neck=dict(tied_decoder=True))
