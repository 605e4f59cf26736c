# ADE20K, the SceneParse150 release, in mmseg's layout. In a label map 0 is unlabelled
# and 1 to 150 are the classes; ADE20KDataset reduces them to 255 and 0 to 149.
train_dataloader = dict(
    batch_size=2,  # x 8 GPUs = 16 (Table 9)
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="ExactSampler", shuffle=True),
    dataset=dict(
        type="ADE20KDataset",
        data_root="data/ade/ADEChallengeData2016",
        data_prefix=dict(
            img_path="images/training", seg_map_path="annotations/training"
        ),
        pipeline=[
            dict(type="SeedSample"),
            dict(type="LoadImage"),
            dict(type="CheckLabels", num_classes=150),
            dict(type="LoadAnnotations", reduce_zero_label=True),
            dict(
                type="RandomResize",
                scale=(2048, 512),
                ratio_range=(0.5, 2.0),
                keep_ratio=True,
            ),
            dict(type="RandomCrop", crop_size=(512, 512), cat_max_ratio=0.75),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PhotoMetricDistortion"),
            dict(type="PackSegInputs"),
        ],
    ),
)

# By these two names mmseg finds the pipeline of a single image (inference_model) and
# its loader (MMSegInferencer, which knows no other loader).
test_pipeline = [
    dict(type="LoadImageFromFile", backend_args=dict(backend="checked_image")),
    dict(type="Resize", scale=(2048, 512), keep_ratio=True),
    # After Resize: the prediction is scaled back and judged at the original size.
    dict(type="CheckLabels", num_classes=150),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="PackSegInputs"),
]
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="ADE20KDataset",
        data_root="data/ade/ADEChallengeData2016",
        data_prefix=dict(
            img_path="images/validation", seg_map_path="annotations/validation"
        ),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
