# Table 4, linear head: 83.55.
_base_ = "../saim/saim_vit-b_300e_in1k.py"

model = dict(head=dict(projector="linear"))
