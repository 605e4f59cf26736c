# ImageNet-1K without labels: data/imagenet/train, any folders below it.
# Augmentation as in "Pretraining setup": crop [0.67, 1], ratio [3/4, 4/3], flip.
_base_ = "in1k_knn_224.py"  # beside training, a test of the encoder

data_preprocessor = dict(
    type="SelfSupDataPreprocessor",
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)

train_dataloader = dict(
    batch_size=64,  # x 32 GPUs = 2048 (Table 6)
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,  # every step sees a full batch, as in the release
    sampler=dict(type="ExactSampler", shuffle=True, round_up=False),
    collate_fn=dict(type="stack_samples"),
    dataset=dict(
        type="UnlabeledImages",
        data_root="data/imagenet",
        data_prefix="train",
        pipeline=[
            # LoadImage, RandomResizedCrop (Pillow, bicubic) and RandomFlip in one.
            dict(
                type="LoadRandomResizedCrop",
                scale=224,
                crop_ratio_range=(0.67, 1.0),
                aspect_ratio_range=(3 / 4, 4 / 3),
                flip_prob=0.5,
            ),
            dict(type="PackInputs"),
        ],
    ),
)
