# Fine-tuning (Table 7, Table 1: 83.6 / 83.9 / 83.9 after 300 / 800 / 1600 epochs).
_base_ = [
    "../../_base_/models/vit-b_classifier.py",
    "../../_base_/datasets/in1k_cls_224_randaug.py",
    "../../_base_/schedules/finetune_bs1024.py",
    "../../_base_/runtime.py",
]

model = dict(
    backbone=dict(drop_path_rate=0.1),
    head=dict(
        loss=dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original"),
        init_cfg=dict(type="TruncNormal", layer="Linear", std=2e-5),
    ),
    train_cfg=dict(
        augments=[dict(type="Mixup", alpha=0.8), dict(type="CutMix", alpha=1.0)]
    ),
)
train_dataloader = dict(batch_size=128)  # x 8 GPUs = 1024
train_cfg = dict(max_epochs=100)
# The release reports the best epoch.
default_hooks = dict(checkpoint=dict(interval=1, save_best="accuracy/top1"))
