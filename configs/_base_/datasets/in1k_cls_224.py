# ImageNet-1K with labels: data/imagenet/{train,val}/<class>/. Crop and flip only, as
# for linear probing. For other class folders set data_root, the datasets' `metainfo`
# (classes), and num_classes here and in the head.
dataset_type = "ImageNet"
data_root = "data/imagenet"
data_preprocessor = dict(
    num_classes=1000,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)

train_dataloader = dict(
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,  # every step sees a full batch, as in the release
    sampler=dict(type="ExactSampler", shuffle=True, round_up=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        split="train",
        pipeline=[
            dict(type="SeedSample"),
            dict(
                type="LoadRandomResizedCrop",
                scale=224,
                crop_ratio_range=(0.08, 1.0),
                aspect_ratio_range=(3 / 4, 4 / 3),
                flip_prob=0.5,
            ),
            dict(type="PackInputs"),
        ],
    ),
)

val_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        split="val",
        pipeline=[
            dict(type="LoadImage"),
            dict(
                type="ResizeEdge",
                scale=256,
                edge="short",
                backend="pillow",
                interpolation="bicubic",
            ),
            dict(type="CenterCrop", crop_size=224),
            dict(type="PackInputs"),
        ],
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="Accuracy", topk=(1, 5))
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()

del dataset_type, data_root  # an override of these would reach no dataset
