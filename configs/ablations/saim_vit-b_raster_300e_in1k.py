# Table 3, raster order with a decoder: 82.76.
_base_ = "saim_vit-b_smoothing-none_300e_in1k.py"

model = dict(order="raster")
