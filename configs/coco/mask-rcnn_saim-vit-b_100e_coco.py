_base_ = [
    "../_base_/models/mask-rcnn_saim-vit-b_li2021.py",
    "../_base_/datasets/coco_lsj_1024.py",
    "../_base_/schedules/adamw_coco_bs64.py",
    "../_base_/runtime_mmdet.py",
]

train_cfg = dict(max_epochs=100)
