# The two views of MoCo v3: as for BYOL, crops down to 8 % of the image.
_base_ = "../../_base_/datasets/in1k_224.py"

__crop = dict(
    type="RandomResizedCrop",
    scale=224,
    crop_ratio_range=(0.08, 1.0),
    backend="pillow",
    interpolation="bicubic",
)
__colour = [
    dict(
        type="RandomApply",
        transforms=[
            dict(
                type="ColorJitter",
                brightness=0.4,
                contrast=0.4,
                saturation=0.2,
                hue=0.1,
            )
        ],
        prob=0.8,
    ),
    dict(
        type="RandomGrayscale",
        prob=0.2,
        keep_channels=True,
        channel_weights=(0.114, 0.587, 0.2989),  # BGR
    ),
]
__blur = dict(type="GaussianBlur", magnitude_range=(0.1, 2.0), magnitude_std="inf")
__flip = dict(type="RandomFlip", prob=0.5)
__view_1 = [__crop, *__colour, {**__blur, "prob": 1.0}, __flip]
__view_2 = [
    __crop,
    *__colour,
    {**__blur, "prob": 0.1},
    dict(type="Solarize", thr=128, prob=0.2),
    __flip,
]

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadImage"),
            dict(type="MultiView", num_views=[1, 1], transforms=[__view_1, __view_2]),
            dict(type="PackInputs"),
        ]
    )
)
