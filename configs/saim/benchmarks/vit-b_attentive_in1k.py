# Attentive probing with AIM's probe: a learnt query reads the patches, in the mean of
# the last six layers. Its rate is the middle of the grid of XTRA's authors, 1e-4 to
# 4e-3. Efficient probing: model.head.kind="efficient" and out_indices=[11].
_base_ = [
    "../../_base_/models/vit-b_classifier.py",
    "../../_base_/datasets/in1k_cls_224_randaug.py",
    "../../_base_/schedules/attentive_bs1024.py",
    "../../_base_/runtime.py",
]

model = dict(
    backbone=dict(
        frozen_stages=12,
        out_type="featmap",
        out_indices=[6, 7, 8, 9, 10, 11],
        final_norm=False,
    ),
    head=dict(
        type="AttentiveClsHead",
        kind="aim",
        loss=dict(type="CrossEntropyLoss"),
        init_cfg=dict(type="TruncNormal", layer="Linear", std=0.01),
    ),
)
train_dataloader = dict(batch_size=128)  # x 8 GPUs = 1024
train_cfg = dict(max_epochs=100)
default_hooks = dict(checkpoint=dict(interval=1))
