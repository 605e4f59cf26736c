# Fine-tuning of BEiT's encoder, whose layers are others than a plain ViT's; all else as
# for SAIM. Give model.backbone.init_cfg.checkpoint=FILE.
_base_ = "../../saim/benchmarks/vit-b_finetune-avgpool_100e_in1k.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="BEiTViT",
        arch="base",
        img_size=224,
        patch_size=16,
        drop_path_rate=0.1,
        out_type="avg_featmap",
        final_norm=False,
        layer_scale_init_value=0.1,
        use_abs_pos_emb=False,
        use_rel_pos_bias=True,  # the table of pretraining, once for each layer
        use_shared_rel_pos_bias=False,
        init_cfg=dict(type="Pretrained", checkpoint=None, prefix="backbone."),
    )
)
optim_wrapper = dict(
    paramwise_cfg=dict(_delete_=True, layer_decay_rate=0.65, no_decay=["cls_token"])
)
