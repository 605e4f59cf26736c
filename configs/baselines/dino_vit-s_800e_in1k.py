# DINO with ViT-S/16, in the settings of the released one; not in the paper's tables.
_base_ = "dino_vit-b_400e_in1k.py"

model = dict(
    backbone=dict(arch="deit-small"),
    neck=dict(in_channels=384, learn_gain=True),
    head=dict(warmup_epochs=30),
)
custom_hooks = [dict(type="DINOHook", max_norm=3.0)]
optim_wrapper = dict(optimizer=dict(lr=5e-4 * 1024 / 256))
param_scheduler = [
    _base_.param_scheduler[0],
    {**_base_.param_scheduler[1], "eta_min": 1e-6},
    _base_.param_scheduler[2],
]
train_cfg = dict(max_epochs=800)
