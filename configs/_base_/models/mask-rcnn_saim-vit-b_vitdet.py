# Mask R-CNN on a plain ViT-B as in ViTDet (Li et al. 2022, "Exploring Plain Vision
# Transformer Backbones for Object Detection"): a pyramid from the last layer alone, and
# LayerNorm, which does not mind small batches, wherever the other model has BN.
_base_ = "mask-rcnn_saim-vit-b_li2021.py"

__norm = dict(type="mmpretrain.LN2d", eps=1e-6)

model = dict(
    backbone=dict(
        img_size=224,  # the position embedding stays 14 x 14, resized at each step
        out_indices=[11],
        # ViTDet has other tables; the fastest attention kernels take none. Li et al.
        # 2021 gained 0.2 to 0.3 AP by ours.
        use_rel_pos_bias=False,
    ),
    neck=dict(
        _delete_=True,
        type="SimpleFeaturePyramid",
        embed_dims=768,
        out_channels=256,
        norm_cfg=__norm,
    ),
    roi_head=dict(
        bbox_head=dict(norm_cfg=dict(_delete_=True, **__norm)),
        mask_head=dict(norm_cfg=dict(_delete_=True, **__norm)),
    ),
)
