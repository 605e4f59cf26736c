# UperNet on ViT-B/16 at 512 px, as BEiT's: a pyramid from layers 4, 6, 8 and 12.
__norm = dict(type="SyncBNOrBN")

model = dict(
    type="EncoderDecoder",
    _scope_="mmseg",  # mmengine.hub.get_model reads no default_scope
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size=(512, 512),  # smaller than the crop is an image that was scaled down
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type="SAIMViT",
        arch="base",
        img_size=512,
        patch_size=16,
        out_type="featmap",
        out_indices=[3, 5, 7, 11],
        final_norm=False,  # the encoder has none in pretraining
        drop_path_rate=0.1,
        interpolate_mode="bilinear",
        # To be given: model.backbone.init_cfg.checkpoint=FILE. Without it training
        # stops; from scratch is model.backbone.init_cfg=None.
        init_cfg=dict(type="Pretrained", checkpoint=None),
    ),
    neck=dict(
        type="AnySizeFeature2Pyramid",
        embed_dim=768,
        rescales=[4, 2, 1, 0.5],
        norm_cfg=__norm,
    ),
    decode_head=dict(
        type="UPerHead",
        in_channels=[768] * 4,
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=768,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=__norm,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", loss_weight=1.0),
    ),
    auxiliary_head=dict(
        type="FCNHead",
        in_channels=768,
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=__norm,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", loss_weight=0.4),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341)),
)
