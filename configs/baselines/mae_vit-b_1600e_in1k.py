# Tables 1 and 2, MAE (He et al. 2021): fine-tune 83.6, linear 67.8.
_base_ = [
    "_base_/in1k_224_scale-0.2.py",
    "../_base_/schedules/adamw_bs2048.py",
    "../_base_/runtime.py",
]

model = dict(
    type="MAE",
    backbone=dict(
        type="MAEViT", arch="base", img_size=224, patch_size=16, mask_ratio=0.75
    ),
    neck=dict(
        type="MAEPretrainDecoder",
        num_patches=196,
        patch_size=16,
        embed_dim=768,
        decoder_embed_dim=512,
        decoder_depth=8,
        decoder_num_heads=16,
    ),
    head=dict(
        type="MAEPretrainHead",
        norm_pix=True,
        patch_size=16,
        loss=dict(type="PixelReconstructionLoss", criterion="L2"),
    ),
    init_cfg=[
        dict(type="Xavier", layer="Linear", distribution="uniform"),
        dict(type="Constant", layer="LayerNorm", val=1.0, bias=0.0),
    ],
)
train_dataloader = dict(batch_size=128)  # x 32 GPUs = 4096
optim_wrapper = dict(optimizer=dict(lr=1.5e-4 * 4096 / 256))
auto_scale_lr = dict(base_batch_size=4096)
param_scheduler = [
    {**_base_.param_scheduler[0], "end": 40},
    {**_base_.param_scheduler[1], "begin": 40},
]
train_cfg = dict(max_epochs=1600)
