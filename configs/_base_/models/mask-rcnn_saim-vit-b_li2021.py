# Mask R-CNN on a plain ViT-B as in Li et al. 2021, "Benchmarking Detection Transfer
# Learning with Vision Transformers". Written out rather than inherited from mmdet, so
# that it is the same with any version of it. Anchors, samplers and NMS are those that
# mmdet and Detectron2 have in common.
__norm = dict(type="SyncBNOrBN")
# In the RoI heads a GPU may have no instance: only in this mode does it then count
# right, in mixed precision too.
__head_norm = dict(type="SyncBNOrBN", stats_mode="N")

model = dict(
    type="MaskRCNN",
    _scope_="mmdet",  # mmengine.hub.get_model reads no default_scope
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_mask=True,
        # To 1024 x 1024, in test too: with less padding Li et al. lost 0.5 to 1 AP.
        pad_size_divisor=1024,
    ),
    backbone=dict(
        type="SAIMViT",
        arch="base",
        img_size=1024,
        patch_size=16,
        out_type="featmap",
        out_indices=[2, 5, 8, 11],
        final_norm=False,
        with_cls_token=False,
        drop_path_rate=0.1,
        interpolate_mode="bilinear",  # position embedding, 14 x 14 -> 64 x 64
        window_size=14,  # the grid of pretraining
        global_attn_indexes=[2, 5, 8, 11],
        use_rel_pos_bias=True,
        # Required: model.backbone.init_cfg.checkpoint=FILE (a SAIM checkpoint or a
        # bare encoder), or model.backbone.init_cfg=None to train from scratch.
        init_cfg=dict(type="Pretrained", checkpoint=None),
    ),
    neck=[
        dict(
            type="FourLayerPyramid",
            embed_dims=768,
            norm_cfg=dict(type="GN", num_groups=32),
        ),
        dict(
            type="FPN",
            in_channels=[768] * 4,
            out_channels=256,
            num_outs=5,
            norm_cfg=__norm,
        ),
    ],
    rpn_head=dict(
        type="RPNHead",
        in_channels=256,
        feat_channels=256,
        num_convs=2,
        anchor_generator=dict(
            type="AnchorGenerator",
            scales=[8],
            ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32, 64],
        ),
        bbox_coder=dict(
            type="DeltaXYWHBBoxCoder",
            target_means=[0.0, 0.0, 0.0, 0.0],
            target_stds=[1.0, 1.0, 1.0, 1.0],
        ),
        loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
        loss_bbox=dict(type="L1Loss", loss_weight=1.0),
    ),
    roi_head=dict(
        type="StandardRoIHead",
        bbox_roi_extractor=dict(
            type="SingleRoIExtractor",
            roi_layer=dict(type="RoIAlign", output_size=7, sampling_ratio=0),
            out_channels=256,
            featmap_strides=[4, 8, 16, 32],
        ),
        bbox_head=dict(
            type="Shared4Conv1FCBBoxHead",
            in_channels=256,
            conv_out_channels=256,
            fc_out_channels=1024,
            roi_feat_size=7,
            num_classes=80,
            norm_cfg=__head_norm,
            bbox_coder=dict(
                type="DeltaXYWHBBoxCoder",
                target_means=[0.0, 0.0, 0.0, 0.0],
                target_stds=[0.1, 0.1, 0.2, 0.2],
            ),
            reg_class_agnostic=False,
            loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type="L1Loss", loss_weight=1.0),
        ),
        mask_roi_extractor=dict(
            type="SingleRoIExtractor",
            roi_layer=dict(type="RoIAlign", output_size=14, sampling_ratio=0),
            out_channels=256,
            featmap_strides=[4, 8, 16, 32],
        ),
        mask_head=dict(
            type="FCNMaskHead",
            num_convs=4,
            in_channels=256,
            conv_out_channels=256,
            num_classes=80,
            norm_cfg=__head_norm,
            loss_mask=dict(type="CrossEntropyLoss", use_mask=True, loss_weight=1.0),
        ),
    ),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(
                type="MaxIoUAssigner",
                pos_iou_thr=0.7,
                neg_iou_thr=0.3,
                min_pos_iou=0.3,
                match_low_quality=True,
                ignore_iof_thr=-1,
            ),
            sampler=dict(
                type="RandomSampler",
                num=256,
                pos_fraction=0.5,
                neg_pos_ub=-1,
                add_gt_as_proposals=False,
            ),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
        rpn_proposal=dict(
            nms_pre=2000,
            max_per_img=1000,
            nms=dict(type="nms", iou_threshold=0.7),
            min_bbox_size=0,
        ),
        rcnn=dict(
            assigner=dict(
                type="MaxIoUAssigner",
                pos_iou_thr=0.5,
                neg_iou_thr=0.5,
                min_pos_iou=0.5,
                match_low_quality=True,
                ignore_iof_thr=-1,
            ),
            sampler=dict(
                type="RandomSampler",
                num=512,
                pos_fraction=0.25,
                neg_pos_ub=-1,
                add_gt_as_proposals=True,
            ),
            mask_size=28,
            pos_weight=-1,
            debug=False,
        ),
    ),
    test_cfg=dict(
        rpn=dict(
            nms_pre=1000,
            max_per_img=1000,
            nms=dict(type="nms", iou_threshold=0.7),
            min_bbox_size=0,
        ),
        rcnn=dict(
            score_thr=0.05,
            nms=dict(type="nms", iou_threshold=0.5),
            max_per_img=100,
            mask_thr_binary=0.5,
        ),
    ),
)
