# Without relative position bias, which gave Li et al. 0.2 to 0.3 AP for a quarter more
# training time.
_base_ = "mask-rcnn_saim-vit-b_100e_coco.py"

model = dict(backbone=dict(use_rel_pos_bias=False))
optim_wrapper = dict(paramwise_cfg=dict(no_decay=["pos_embed"]))
