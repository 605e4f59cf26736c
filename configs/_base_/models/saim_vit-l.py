_base_ = "saim_vit-b.py"

model = dict(backbone=dict(arch="large"), neck=dict(depth=24))
