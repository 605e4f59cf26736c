# Linear probing as in the release (Table 1: 58.5 / 62.5 after 300 / 800 epochs).
_base_ = [
    "../../_base_/models/vit-b_classifier.py",
    "../../_base_/datasets/in1k_cls_224.py",
    "../../_base_/schedules/linear_bs2048.py",
    "../../_base_/runtime.py",
]

model = dict(
    backbone=dict(frozen_stages=12),  # all of them, and with them the final norm
    neck=dict(type="ClsBatchNormNeck", input_features=768),  # eps 1e-6, not affine
    head=dict(
        loss=dict(type="CrossEntropyLoss"),
        init_cfg=dict(type="TruncNormal", layer="Linear", std=0.01),
    ),
)
train_dataloader = dict(batch_size=64)  # x 32 GPUs = 2048
train_cfg = dict(max_epochs=90)
default_hooks = dict(checkpoint=dict(interval=1, save_best="accuracy/top1"))
