# Table 1, SimMIM (Xie et al. 2021): fine-tune 83.8, linear 56.7. mmpretrain has it for
# Swin only, so the encoder is ours: a plain ViT with a fixed position embedding, where
# the authors' ViT-B has a relative position bias. Rate, betas, clipping and masks are
# mmpretrain's; the number of epochs is Table 1's, and the authors' is 800.
_base_ = [
    "_base_/in1k_224_scale-0.2.py",
    "../_base_/schedules/adamw_bs2048.py",
    "../_base_/runtime.py",
]

model = dict(
    type="SimMIM",
    backbone=dict(type="SimMIMViT", arch="base", img_size=224, patch_size=16),
    neck=dict(type="SimMIMLinearDecoder", in_channels=768, encoder_stride=16),
    head=dict(
        type="SimMIMHead",
        patch_size=16,
        loss=dict(type="PixelReconstructionLoss", criterion="L1", channel=3),
    ),
)
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            *_base_.train_dataloader.dataset.pipeline[:-1],
            dict(
                type="SimMIMMaskGenerator",
                input_size=224,
                mask_patch_size=32,
                model_patch_size=16,
                mask_ratio=0.6,
            ),
            dict(type="PackInputs"),
        ]
    )
)
optim_wrapper = dict(
    optimizer=dict(lr=1e-4 * 2048 / 512, betas=(0.9, 0.999)),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    {**_base_.param_scheduler[0], "end": 10},
    {**_base_.param_scheduler[1], "begin": 10},
]
train_cfg = dict(max_epochs=1600)
