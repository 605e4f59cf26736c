# COCO 2017 instances in data/coco: {train2017,val2017,annotations}. Training: large-
# scale jitter (LSJ) from 0.1 to 2.0, crop and flip. The model's data_preprocessor pads
# to the square, in training and in test.
# Names with two underscores are none of the config's keys.
__size = (1024, 1024)
__root = "data/coco/"
__load = dict(type="LoadImageFromFile", backend_args=dict(backend="checked_image"))

train_dataloader = dict(
    batch_size=2,  # x 32 GPUs = 64 (Table 8)
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="ExactSampler", shuffle=True),
    dataset=dict(
        type="CheckedCocoDataset",
        data_root=__root,
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=[
            dict(type="SeedSample"),
            __load,
            dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
            dict(
                type="RandomResize",
                scale=__size,
                ratio_range=(0.1, 2.0),
                keep_ratio=True,
            ),
            dict(
                type="RandomCrop",
                crop_type="absolute",
                crop_size=__size,
                recompute_bbox=True,
                allow_negative_crop=True,
            ),
            dict(type="FilterAnnotations", min_gt_bbox_wh=(1e-2, 1e-2)),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackDetInputs"),
        ],
    ),
)

val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CheckedCocoDataset",
        data_root=__root,
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="val2017/"),
        test_mode=True,
        pipeline=[
            __load,
            dict(type="Resize", scale=__size, keep_ratio=True),
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
test_dataloader = val_dataloader

val_evaluator = dict(
    type="CocoMetric",
    ann_file=__root + "annotations/instances_val2017.json",
    metric=["bbox", "segm"],
)
test_evaluator = val_evaluator
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
