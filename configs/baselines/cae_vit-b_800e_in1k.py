# Table 1, CAE (Chen et al. 2022): fine-tune 83.6, linear 68.3.
_base_ = [
    "_base_/in1k_224_dalle.py",
    "_base_/dalle_tokeniser.py",
    "../_base_/schedules/adamw_bs2048.py",
    "../_base_/runtime.py",
]

model = dict(
    type="CAE",
    backbone=dict(
        type="CAEPretrainViT",
        arch="b",
        img_size=224,
        patch_size=16,
        layer_scale_init_value=0.1,
        bias="qv_bias",
    ),
    neck=dict(
        type="CAENeck",
        embed_dims=768,
        num_heads=12,
        regressor_depth=4,
        decoder_depth=4,
        mlp_ratio=4,
        layer_scale_init_value=0.1,
    ),
    head=dict(type="CAEHead", loss=dict(type="CAELoss", lambd=2)),
    base_momentum=0.0,
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
