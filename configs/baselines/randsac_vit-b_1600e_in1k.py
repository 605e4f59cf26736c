# Table 1, RandSAC (Hua et al. 2022): random order of segments, whose patches see each
# other and are predicted together from earlier segments. Fine-tune 83.0, linear 68.3
# (as SAIM quotes it; its last version has 83.5 and 70.9). 192 pixels: 12 x 12 patches
# in 16 segments of 3 x 3, in 4 groups of 2 x 2. Queries see each other and read a
# learnt mix of the encoder's layers. What differs from RandSAC: a class token, from
# which the first segment is predicted. Its decoder's depth, rate and batch were not to
# be had; they are SAIM's.
_base_ = "../saim/saim_vit-b_1600e_in1k.py"

model = dict(
    backbone=dict(img_size=192),
    neck=dict(type="RandSACNeck"),
    head=dict(smoothing=None),
    order="segments",
    segment_size=(3, 3),
    segment_order=dict(type="HierarchicalSegments", group_size=(2, 2)),
)
__sizes = {"LoadRandomResizedCrop": {"scale": 192}, "ResizeEdge": {"scale": 219}}
__sizes = {**__sizes, "CenterCrop": {"crop_size": 192}}

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
