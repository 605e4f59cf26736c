# NEPA (Xu et al. 2025): each raster token predicts the embedding of the next patch, by
# cosine; no head, no query stream. Fine-tune 83.8 with attention to all, 82.5 causal;
# linear probe of the last layer 14.1. Judged by the averaged weights.
# What differs from NEPA: crops are bicubic, not bilinear.
_base_ = "../saim/saim_vit-b_1600e_in1k.py"

model = dict(
    type="NEPA",
    backbone=dict(
        type="RotaryViT",
        patch_size=14,
        position="rope",
        rope_rescale=2.0,
        qk_norm="plain",
        layer_scale_init_value=1e-5,
        norm_cfg=dict(type="LN", eps=1e-12),
    ),
    neck=dict(depth=0, norm_cfg=dict(type="LN", eps=1e-12)),
    head=dict(_delete_=True, type="EmbeddingHead"),
    order="raster",
)
data_preprocessor = dict(mean=[127.5] * 3, std=[127.5] * 3)
train_dataloader = dict(
    batch_size=128,  # x 32 GPUs = 4096
    dataset=dict(
        pipeline=[
            {**step, "crop_ratio_range": (0.08, 1.0)}
            if step["type"] == "LoadRandomResizedCrop"
            else step
            for step in _base_.train_dataloader.dataset.pipeline
        ]
    ),
)
optim_wrapper = dict(
    dtype="bfloat16",
    optimizer=dict(lr=3e-4 * 4096 / 256),
    clip_grad=dict(max_norm=1.0),
)
auto_scale_lr = dict(base_batch_size=4096)
param_scheduler = [
    {**_base_.param_scheduler[0], "end": 40},
    {**_base_.param_scheduler[1], "begin": 40},
]
custom_hooks = [dict(type="EMAHook", momentum=1e-4)]  # 0.9999 of the old weights
