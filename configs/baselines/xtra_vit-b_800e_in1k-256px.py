# XTRA (Amrani et al. 2024): blocks of 4 x 4 patches in raster order, each predicted as
# a whole from those before. Attentive probe 76.8, linear 70.2. What differs from XTRA:
# its predictor is 8 layers over the encoder's tokens, ours 8 layers of queries that
# read the encoder's output; no drop path.
_base_ = "../saim/saim_vit-b_800e_in1k.py"

model = dict(
    backbone=dict(img_size=256),
    neck=dict(depth=8, memory="last"),
    head=dict(_delete_=True, type="BlockHead"),
    order="segments",
    segment_size=(4, 4),
    segment_order="raster",
)
__sizes = {
    "LoadRandomResizedCrop": {"scale": 256, "crop_ratio_range": (0.3, 1.0)},
    "ResizeEdge": {"scale": 292},
    "CenterCrop": {"crop_size": 256},
}
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            {**step, **__sizes.get(step["type"], {})}
            for step in _base_.train_dataloader.dataset.pipeline
        ]
    )
)
__test_pipeline = [
    {**step, **__sizes.get(step["type"], {})}
    for step in _base_.test_dataloader.dataset.pipeline
]
test_dataloader = dict(dataset=dict(pipeline=__test_pipeline))
test_cfg = dict(bank_dataloader=dict(dataset=dict(pipeline=__test_pipeline)))
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    {**_base_.param_scheduler[0], "start_factor": 0.1, "end": 40},
    {**_base_.param_scheduler[1], "eta_min": 1e-6, "begin": 40},
]
