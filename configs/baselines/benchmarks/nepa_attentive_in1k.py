# Attentive probe of NEPA's encoder, by attention to all.
_base_ = "../../saim/benchmarks/vit-b_attentive_in1k.py"

model = dict(
    backbone=dict(
        type="RotaryViT",
        patch_size=14,
        position="rope",
        qk_norm="plain",
        layer_scale_init_value=1e-5,
        norm_cfg=dict(type="LN", eps=1e-12),
    )
)
data_preprocessor = dict(mean=[127.5] * 3, std=[127.5] * 3)
