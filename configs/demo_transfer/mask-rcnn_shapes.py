# The COCO recipe, without windows (64 patches are fewer than one) and narrow.
# projects/transfer_shapes gives the encoder, the seed and the data.
_base_ = "../coco/vitdet_saim-vit-b_100e_coco.py"

__classes = ("dotted_cross", "striped_disc")
__root = "work_dirs/demo_transfer/data/scenes/"
__strides = [2, 4, 8, 16]  # of patches of 8 pixels, not 16

model = dict(
    data_preprocessor=dict(pad_size_divisor=64),
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
        out_indices=[3],
        drop_path_rate=0.0,
        window_size=0,
        global_attn_indexes=[],
    ),
    neck=dict(embed_dims=96, out_channels=32),
    rpn_head=dict(
        in_channels=32,
        feat_channels=32,
        anchor_generator=dict(scales=[4], strides=[*__strides, 32]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=32, featmap_strides=__strides),
        bbox_head=dict(
            in_channels=32,
            conv_out_channels=32,
            fc_out_channels=128,
            num_classes=2,
        ),
        mask_roi_extractor=dict(out_channels=32, featmap_strides=__strides),
        mask_head=dict(
            in_channels=32, conv_out_channels=32, num_convs=2, num_classes=2
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=32)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=50), rcnn=dict(max_per_img=20)),
)
__load = dict(type="LoadImageFromFile", backend_args=dict(backend="checked_image"))

train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root=__root,
        ann_file="instances_training.json",
        data_prefix=dict(img="images/training/"),
        metainfo=dict(classes=__classes),
        filter_cfg=dict(min_size=0),
        pipeline=[
            dict(type="SeedSample"),
            __load,
            dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackDetInputs"),
        ],
    ),
)
test_dataloader = dict(
    batch_size=20,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root=__root,
        ann_file="instances_validation.json",
        data_prefix=dict(img="images/validation/"),
        metainfo=dict(classes=__classes),
        pipeline=[
            __load,
            dict(type="Resize", scale=(64, 64), keep_ratio=True),  # tells the scale
            dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
            dict(
                type="PackDetInputs",
                meta_keys=(
                    "img_id",
                    "img_path",
                    "ori_shape",
                    "img_shape",
                    "scale_factor",
                ),
            ),
        ],
    ),
)
test_evaluator = dict(ann_file=__root + "instances_validation.json")
val_dataloader = val_evaluator = val_cfg = None

train_cfg = dict(max_iters=150)
optim_wrapper = dict(optimizer=dict(lr=3e-3), paramwise_cfg=dict(layer_decay_rate=1.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=20),
    dict(type="CosineAnnealingLR", eta_min=0.0, by_epoch=False, begin=20),
]
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=-1))
