# Table 3, decoder of 6 layers: 83.01.
_base_ = "saim_vit-b_smoothing-none_300e_in1k.py"

model = dict(neck=dict(depth=6))
