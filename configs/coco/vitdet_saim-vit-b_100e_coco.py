_base_ = [
    "../_base_/models/mask-rcnn_saim-vit-b_vitdet.py",
    "../_base_/datasets/coco_lsj_1024.py",
    "../_base_/schedules/adamw_vitdet_bs64.py",
    "../_base_/runtime_mmdet.py",
]

# The schedule counts iterations.
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=2000))
