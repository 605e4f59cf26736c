# Table 3, smoothing none, which is also stochastic order and a decoder of 12 layers of
# its own: 83.40. Order and decoder are compared from here.
_base_ = "../saim/saim_vit-b_300e_in1k.py"

model = dict(head=dict(smoothing=None))
