# The crops of MAE and SimMIM are down to a fifth of the image.
_base_ = "../../_base_/datasets/in1k_224.py"

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            {**step, "crop_ratio_range": (0.2, 1.0)}
            if step["type"] == "LoadRandomResizedCrop"
            else step
            for step in _base_.train_dataloader.dataset.pipeline
        ]
    )
)
