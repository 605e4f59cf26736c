# CrossMAE (Fu et al. 2024): a quarter of the patches is read, without a mask, and all
# others are asked for by cross-attention alone. Fine-tune 83.7, linear 65.4. MAE's
# recipe.
_base_ = "../saim/saim_vit-b_800e_in1k.py"

model = dict(
    neck=dict(_delete_=True, type="CrossMAENeck"),
    head=dict(projector="linear", smoothing=None),
    reading=dict(type="FixedReading", read=49, asks="after", content="all"),
)
train_dataloader = dict(
    batch_size=128,  # x 32 GPUs = 4096
    dataset=dict(
        pipeline=[
            {**step, "crop_ratio_range": (0.2, 1.0)}
            if step["type"] == "LoadRandomResizedCrop"
            else step
            for step in _base_.train_dataloader.dataset.pipeline
        ]
    ),
)
optim_wrapper = dict(optimizer=dict(lr=1.5e-4 * 4096 / 256))
auto_scale_lr = dict(base_batch_size=4096)
param_scheduler = [
    {**_base_.param_scheduler[0], "end": 40},
    {**_base_.param_scheduler[1], "begin": 40},
]
