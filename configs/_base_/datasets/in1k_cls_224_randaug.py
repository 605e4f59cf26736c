# The augmentation of fine-tuning: RandAug (9, 0.5) of Table 7, and the random erasing
# of the release. Mixup and CutMix work on batches; they stand in the model.
_base_ = "in1k_cls_224.py"

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            *_base_.train_dataloader.dataset.pipeline[:-1],
            dict(
                type="RandAugment",
                policies="timm_increasing",
                num_policies=2,
                total_level=10,
                magnitude_level=9,
                magnitude_std=0.5,
                hparams=dict(
                    # Images are BGR until the data preprocessor.
                    pad_val=[round(x) for x in _base_.data_preprocessor.mean[::-1]],
                    interpolation="bicubic",
                ),
            ),
            dict(
                type="RandomErasing",
                erase_prob=0.25,
                mode="rand",
                min_area_ratio=0.02,
                max_area_ratio=1 / 3,
                fill_color=_base_.data_preprocessor.mean[::-1],
                fill_std=_base_.data_preprocessor.std[::-1],
            ),
            _base_.train_dataloader.dataset.pipeline[-1],
        ]
    )
)
