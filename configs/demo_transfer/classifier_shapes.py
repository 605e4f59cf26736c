# Fine-tunes a classifier on few labels: the mean of the patches, which is the release's
# default. projects/transfer_shapes gives the encoder, the seed and the labelled images.
_base_ = ["../_base_/models/vit-b_classifier.py", "../_base_/runtime.py"]

__root = "work_dirs/demo_transfer/data/classes/"

model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            embed_dims=96,
            num_layers=4,
            num_heads=4,
            feedforward_channels=4 * 96,
        ),
        img_size=64,
        patch_size=8,
        out_type="avg_featmap",
        final_norm=False,
    ),
    # Means of patches are nearly the same for all images; this norm, and not one over
    # channels, makes the differences large. Without it the first 60 steps learn
    # nothing.
    neck=dict(type="ClsBatchNormNeck", input_features=96),
    head=dict(num_classes=8, in_channels=96),
)
data_preprocessor = dict(
    num_classes=8,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)

train_dataloader = dict(
    batch_size=32,
    num_workers=0,  # an image of 64 pixels is read in no time
    sampler=dict(type="ExactSampler", shuffle=True),
    collate_fn=dict(type="stack_samples"),
    dataset=dict(
        type="CustomDataset",
        data_root=__root + "train",
        pipeline=[
            dict(type="SeedSample"),
            dict(type="LoadImage"),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackInputs"),
        ],
    ),
)
test_dataloader = dict(
    batch_size=100,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="stack_samples"),
    dataset=dict(
        type="CustomDataset",
        data_root=__root + "val",
        pipeline=[dict(type="LoadImage"), dict(type="PackInputs")],
    ),
)
test_evaluator = dict(type="Accuracy", topk=1)
test_cfg = dict()

train_cfg = dict(type="ExactIterLoop", max_iters=150)
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="SAIMOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(no_decay=["cls_token", "pos_embed"]),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=10),
    dict(type="CosineAnnealingLR", eta_min=0.0, by_epoch=False, begin=10),
]
log_processor = dict(by_epoch=False)
default_hooks = dict(
    logger=dict(interval=20), checkpoint=dict(by_epoch=False, interval=-1)
)
