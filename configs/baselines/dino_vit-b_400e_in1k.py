# Table 1, DINO (Caron et al. 2021): fine-tune 83.3, linear 77.3. The settings are those
# that the authors published with the released ViT-B/16; what is evaluated is the
# teacher.
_base_ = [
    "_base_/in1k_224_multi-crop.py",
    "../_base_/schedules/adamw_bs2048.py",
    "../_base_/runtime.py",
]

model = dict(
    type="DINOPretraining",
    backbone=dict(
        type="VisionTransformer",
        arch="base",
        img_size=224,
        patch_size=16,
        drop_path_rate=0.1,
        out_type="cls_token",
    ),
    neck=dict(type="DINOProjector", in_channels=768),
    head=dict(type="DINOHead", warmup_epochs=50),
)
custom_hooks = [dict(type="DINOHook", max_norm=0.3, frozen_epochs=3)]

train_dataloader = dict(batch_size=32)  # x 32 GPUs = 1024
optim_wrapper = dict(
    # float32: with float16 a step of so small a temperature overflows now and then.
    _delete_=True,
    type="OptimWrapper",
    constructor="SAIMOptimWrapperConstructor",
    optimizer=dict(
        type="AdamW", lr=7.5e-4 * 1024 / 256, betas=(0.9, 0.999), weight_decay=0.04
    ),
)
auto_scale_lr = dict(base_batch_size=1024)
param_scheduler = [
    {**_base_.param_scheduler[0], "end": 10},
    {**_base_.param_scheduler[1], "begin": 10, "eta_min": 2e-6},
    # From 0.04 to 0.4. A ratio, so that what does not decay goes on not decaying.
    dict(
        type="CosineAnnealingParamScheduler",
        param_name="weight_decay",
        eta_min_ratio=10,
        by_epoch=True,
        begin=0,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=400)
