# Twenty steps in a few seconds on a CPU, on made-up images: does the machinery run, and
# does it still give the same numbers? tests/data/saim_debug_losses.json holds them.
_base_ = ["saim_vit-b_300e_in1k.py"]

model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            embed_dims=64,
            num_layers=4,
            num_heads=4,
            feedforward_channels=256,
        ),
        img_size=32,
        patch_size=8,
    ),
    neck=dict(depth=4),
)
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        _delete_=True,
        type="SyntheticImages",
        num_images=640,
        size=(32, 32),
        pipeline=[
            dict(type="SeedSample"),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackInputs"),
        ],
    ),
)
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    constructor="SAIMOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05),
)
auto_scale_lr = dict(base_batch_size=32)
param_scheduler = []
train_cfg = dict(max_epochs=1)  # 640 images / 32
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1))

# What is judged in place of training images, such as by FeatureExtractor.
__test_pipeline = [
    dict(type="LoadImage"),
    dict(type="Resize", scale=(32, 32), backend="pillow", interpolation="bicubic"),
    dict(type="PackInputs"),
]
test_dataloader = dict(dataset=dict(pipeline=__test_pipeline))
test_cfg = dict(bank_dataloader=dict(dataset=dict(pipeline=__test_pipeline)))
