# Table 1, DeiT (Touvron et al. 2021), supervised: 81.8. Table 2's "supervised" starts
# from a ViT-B that Li et al. (2021) trained themselves.
_base_ = [
    "../_base_/models/vit-b_classifier.py",
    "../_base_/datasets/in1k_cls_224_randaug.py",
    "../_base_/schedules/finetune_bs1024.py",
    "../_base_/runtime.py",
]

model = dict(
    backbone=dict(
        _delete_=True,
        type="VisionTransformer",
        arch="deit-base",
        img_size=224,
        patch_size=16,
        drop_path_rate=0.1,
    ),
    head=dict(
        loss=dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original"),
    ),
    train_cfg=dict(
        augments=[dict(type="Mixup", alpha=0.8), dict(type="CutMix", alpha=1.0)]
    ),
    init_cfg=[
        dict(type="TruncNormal", layer="Linear", std=0.02),
        dict(type="Constant", layer="LayerNorm", val=1.0, bias=0.0),
    ],
)
train_dataloader = dict(
    batch_size=128,  # x 8 GPUs = 1024
    sampler=dict(num_repeats=3),
)
optim_wrapper = dict(
    optimizer=dict(lr=5e-4 * 1024 / 512, betas=(0.9, 0.999)),
    paramwise_cfg=dict(layer_decay_rate=1.0),
)
param_scheduler = [
    {**_base_.param_scheduler[0], "end": 5},
    {**_base_.param_scheduler[1], "begin": 5, "eta_min_ratio": 1e-5 / 1e-3},
]
train_cfg = dict(max_epochs=300)
default_hooks = dict(checkpoint=dict(interval=10, save_best="accuracy/top1"))
