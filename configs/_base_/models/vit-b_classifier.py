# A classifier on the class token of a pretrained encoder, after its norm (which starts
# from the decoder's), as the release does.
model = dict(
    type="ImageClassifier",
    backbone=dict(
        type="SAIMViT",
        arch="base",
        img_size=224,
        patch_size=16,
        out_type="cls_token",
        final_norm=True,
        # To be given: model.backbone.init_cfg.checkpoint=FILE. Without it training
        # stops; from scratch is vit-b_scratch_100e_in1k.py, or init_cfg=None.
        init_cfg=dict(type="Pretrained", checkpoint=None),
    ),
    head=dict(type="VisionTransformerClsHead", num_classes=1000, in_channels=768),
)
