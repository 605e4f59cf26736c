_base_ = "saim_vit-b.py"

model = dict(backbone=dict(arch="huge", patch_size=14), neck=dict(depth=32))
