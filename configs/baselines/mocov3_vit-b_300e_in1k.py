# Tables 1 and 2, MoCo v3 (Chen, Xie and He 2021): fine-tune 83.0, linear 76.2.
_base_ = [
    "_base_/in1k_224_two-views.py",
    "../_base_/schedules/adamw_bs2048.py",
    "../_base_/runtime.py",
]

__temperature = 0.2
__projector = dict(
    type="NonLinearNeck",
    in_channels=768,
    hid_channels=4096,
    out_channels=256,
    num_layers=3,
    with_bias=False,
    with_last_bn=True,
    with_last_bn_affine=False,
    with_last_bias=False,
    with_avg_pool=False,
)

model = dict(
    type="MoCoV3",
    base_momentum=0.01,
    backbone=dict(
        type="MoCoV3ViT",
        arch="base",
        img_size=224,
        patch_size=16,
        stop_grad_conv1=True,
    ),
    neck=__projector,
    head=dict(
        type="MoCoV3Head",
        predictor={**__projector, "in_channels": 256, "num_layers": 2},
        loss=dict(type="CrossEntropyLoss", loss_weight=2 * __temperature),
        temperature=__temperature,
    ),
)
train_dataloader = dict(batch_size=128)  # x 32 GPUs = 4096
optim_wrapper = dict(
    optimizer=dict(lr=1.5e-4 * 4096 / 256, betas=(0.9, 0.999), weight_decay=0.1)
)
auto_scale_lr = dict(base_batch_size=4096)
param_scheduler = [
    {**_base_.param_scheduler[0], "end": 40},
    {**_base_.param_scheduler[1], "begin": 40},
]
train_cfg = dict(max_epochs=300)
find_unused_parameters = True
