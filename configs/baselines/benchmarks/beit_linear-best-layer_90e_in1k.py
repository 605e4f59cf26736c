# Linear probe of the best layer of BEiT's encoder; all but the encoder as for SAIM.
# Give model.backbone.init_cfg.checkpoint=FILE.
_base_ = "../../saim/benchmarks/vit-b_linear-best-layer_90e_in1k.py"

model = dict(
    backbone=dict(
        type="BEiTViT",
        layer_scale_init_value=0.1,
        use_abs_pos_emb=False,
        use_rel_pos_bias=True,  # the table of pretraining, once for each layer
        use_shared_rel_pos_bias=False,
        init_cfg=dict(prefix="backbone."),
    )
)
