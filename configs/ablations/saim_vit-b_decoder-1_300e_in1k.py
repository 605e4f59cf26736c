# Table 3, decoder of 1 layer: 82.76.
_base_ = "saim_vit-b_smoothing-none_300e_in1k.py"

model = dict(neck=dict(depth=1))
