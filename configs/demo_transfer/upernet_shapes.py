# The ADE20K recipe, narrow. projects/transfer_shapes gives the encoder, the seed and
# the data, whose label maps have 0 for unlabelled, as ADE20K's.
_base_ = "../ade20k/upernet_saim-vit-b_160k_ade20k-512_whole.py"

__classes = ("background", "dotted_cross", "striped_disc")
__metainfo = dict(classes=__classes, palette=[[20 * i] * 3 for i in range(3)])
__root = "work_dirs/demo_transfer/data/scenes/"

model = dict(
    data_preprocessor=dict(size=(64, 64)),
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
        out_indices=[0, 1, 2, 3],
        drop_path_rate=0.0,
    ),
    neck=dict(embed_dim=96),
    decode_head=dict(in_channels=[96] * 4, channels=32, num_classes=3),
    auxiliary_head=dict(in_channels=96, channels=32, num_classes=3),
)

train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        type="BaseSegDataset",  # ADE20KDataset takes no other classes
        reduce_zero_label=True,
        data_root=__root,
        metainfo=__metainfo,
        pipeline=[
            dict(type="SeedSample"),
            dict(type="LoadImage"),
            dict(type="CheckLabels", num_classes=3),
            dict(type="LoadAnnotations", reduce_zero_label=True),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackSegInputs"),
        ],
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        type="BaseSegDataset",  # ADE20KDataset takes no other classes
        reduce_zero_label=True,
        data_root=__root,
        metainfo=__metainfo,
        pipeline=[
            dict(
                type="LoadImageFromFile",
                backend_args=dict(backend="checked_image"),
            ),
            dict(type="CheckLabels", num_classes=3),
            dict(type="LoadAnnotations", reduce_zero_label=True),
            dict(type="PackSegInputs"),
        ],
    ),
)
val_dataloader = val_evaluator = val_cfg = None

train_cfg = dict(max_iters=500)
optim_wrapper = dict(optimizer=dict(lr=3e-3), paramwise_cfg=dict(layer_decay_rate=1.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=20),
    dict(type="PolyLR", power=1.0, eta_min=0.0, by_epoch=False, begin=20),
]
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=-1))
