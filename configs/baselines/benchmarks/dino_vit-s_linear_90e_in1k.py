# Linear probe of a ViT-S; all else as for SAIM. Give
# model.backbone.init_cfg.checkpoint=FILE.
_base_ = "../../saim/benchmarks/vit-b_linear_90e_in1k.py"

model = dict(
    backbone=dict(arch="deit-small"),
    neck=dict(input_features=384),
    head=dict(in_channels=384),
)
