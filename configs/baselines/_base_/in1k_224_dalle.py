# What BEiT and CAE read: the image at 224 pixels, the same crop at 112 pixels for
# DALL-E's tokeniser (which wants values from 0.1 to 0.9), and a mask of blocks.
_base_ = "../../_base_/datasets/in1k_224.py"

data_preprocessor = dict(
    type="TwoNormDataPreprocessor",
    second_mean=[-31.875, -31.875, -31.875],
    second_std=[318.75, 318.75, 318.75],
)

__crop = dict(
    type="RandomResizedCropAndInterpolationWithTwoPic",
    size=224,
    second_size=112,
    interpolation="bicubic",
    second_interpolation="lanczos",
    scale=(0.08, 1.0),
)
__mask = dict(
    type="BEiTMaskGenerator",
    input_size=(14, 14),
    num_masking_patches=75,
    max_num_patches=None,
    min_num_patches=16,
)

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadImage"),
            dict(type="RandomFlip", prob=0.5),
            __crop,  # last of those that change pixels: it makes two images of one
            __mask,
            dict(type="PackInputs"),
        ]
    )
)
