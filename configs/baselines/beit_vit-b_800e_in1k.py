# Tables 1 and 2, BEiT (Bao et al. 2021): fine-tune 83.2.
_base_ = [
    "_base_/in1k_224_dalle.py",
    "_base_/dalle_tokeniser.py",
    "../_base_/schedules/adamw_bs2048.py",
    "../_base_/runtime.py",
]

model = dict(
    type="BEiT",
    backbone=dict(
        type="BEiTPretrainViT",
        arch="base",
        img_size=224,
        patch_size=16,
        drop_path_rate=0.1,
        final_norm=True,
        out_type="raw",
        layer_scale_init_value=0.1,
        init_cfg=[
            dict(type="TruncNormal", std=0.02, layer="Linear"),
            dict(type="TruncNormal", std=0.02, layer="Conv2d"),
            dict(type="Constant", layer="LayerNorm", val=1.0, bias=0.0),
        ],
    ),
    neck=None,
    head=dict(
        type="BEiTV1Head",
        embed_dims=768,
        num_embed=8192,
        loss=dict(type="CrossEntropyLoss"),
    ),
)
__jitter = dict(
    type="ColorJitter", brightness=0.4, contrast=0.4, saturation=0.4, hue=0.0
)
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            new
            for step in _base_.train_dataloader.dataset.pipeline
            for new in ([__jitter] if step["type"] == "RandomFlip" else []) + [step]
        ]
    )
)
optim_wrapper = dict(
    optimizer=dict(lr=1.5e-3, betas=(0.9, 0.999)),
    clip_grad=dict(max_norm=3.0),
)
param_scheduler = [
    {**_base_.param_scheduler[0], "end": 10},
    {**_base_.param_scheduler[1], "begin": 10, "eta_min": 1e-5},
]
train_cfg = dict(max_epochs=800)
find_unused_parameters = True
