# AIM (El-Nouby et al. 2024): raster order, a prefix of random length that sees itself,
# no query stream, a deep residual MLP as head. 125,000 steps of 4096 images. Its
# authors have no ViT-B; their 0.6B has linear 70.0, attentive 78.2 on ImageNet-1K
# alone. The head costs 4.5 times the encoder. What differs from AIM: patches of 16
# pixels, not 14; linear layers have biases; no norm after the patch projection; one
# prefix for a batch, drawn so that the mean loss is that of a prefix for each image.
_base_ = "../saim/saim_vit-b_800e_in1k.py"

model = dict(
    backbone=dict(with_cls_token=False, out_type="featmap"),
    neck=dict(_delete_=True, type="AIMNeck"),
    head=dict(_delete_=True, type="AIMHead", num_blocks=12, width=2048),
    order="raster",
    reading=dict(type="PrefixReading", prefix="uniform", weight="patches"),
)
train_dataloader = dict(
    batch_size=128,  # x 32 GPUs = 4096
    dataset=dict(
        pipeline=[
            {**step, "crop_ratio_range": (0.4, 1.0)}
            if step["type"] == "LoadRandomResizedCrop"
            else step
            for step in _base_.train_dataloader.dataset.pipeline
        ]
    ),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=1.0))
auto_scale_lr = dict(base_batch_size=4096)
param_scheduler = [
    {**_base_.param_scheduler[0], "start_factor": 1e-3, "end": 10},  # 2.5 %
    {**_base_.param_scheduler[1], "begin": 10},
]
train_cfg = dict(max_epochs=400)
