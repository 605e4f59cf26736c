# Table 4, head of two transformer layers: 83.50.
_base_ = "../saim/saim_vit-b_300e_in1k.py"

model = dict(head=dict(projector="transformer"))
