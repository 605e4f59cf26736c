# Linear probe of the best layer of the encoder that reads pixels, at its own 32 x 32.
_base_ = "../../saim/benchmarks/vit-b_linear-best-layer_90e_in1k.py"

model = dict(backbone=dict(img_size=32, patch_size=1))
__sizes = {"LoadRandomResizedCrop": {"scale": 32}, "ResizeEdge": {"scale": 36}}
__sizes = {**__sizes, "CenterCrop": {"crop_size": 32}}

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            {**step, **__sizes.get(step["type"], {})}
            for step in _base_.train_dataloader.dataset.pipeline
        ]
    )
)
val_dataloader = dict(
    dataset=dict(
        pipeline=[
            {**step, **__sizes.get(step["type"], {})}
            for step in _base_.val_dataloader.dataset.pipeline
        ]
    )
)
test_dataloader = dict(dataset=dict(pipeline=val_dataloader["dataset"]["pipeline"]))
