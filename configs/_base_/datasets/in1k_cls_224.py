# ImageNet-1K with labels: data/imagenet/{train,val}/<class>/. Crop and flip only, as
# for linear probing. For other class folders set data_root, the datasets' `metainfo`
# (classes), and num_classes here and in the head.
_base_ = "in1k_test_224.py"

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
    collate_fn=dict(type="stack_samples"),
    dataset=dict(
        type="ImageNet",
        data_root="data/imagenet",
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

val_dataloader = _base_.test_dataloader
val_evaluator = _base_.test_evaluator
val_cfg = dict()
test_cfg = dict()
