# Linear probe of the mean of NEPA's patches, by attention to all; its authors have
# 14.1.
_base_ = "../../saim/benchmarks/vit-b_linear_90e_in1k.py"

model = dict(
    backbone=dict(
        type="RotaryViT",
        patch_size=14,
        position="rope",
        qk_norm="plain",
        layer_scale_init_value=1e-5,
        norm_cfg=dict(type="LN", eps=1e-12),
        out_type="avg_featmap",
    )
)
data_preprocessor = dict(mean=[127.5] * 3, std=[127.5] * 3)
