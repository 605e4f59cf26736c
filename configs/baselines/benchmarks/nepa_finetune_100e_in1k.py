# Fine-tuning of NEPA's encoder without a mask, its patch embedding frozen; schedule and
# augmentation as for SAIM. Its authors let the layer decay rise from 0.35 to 1, and
# give the norms of queries and keys a scale.
_base_ = "../../saim/benchmarks/vit-b_finetune-avgpool_100e_in1k.py"

model = dict(
    backbone=dict(
        type="RotaryViT",
        patch_size=14,
        position="rope",
        rope_rescale=2.0,
        qk_norm="plain",
        layer_scale_init_value=1e-5,
        norm_cfg=dict(type="LN", eps=1e-12),
        freeze_patch_embed=True,
    )
)
data_preprocessor = dict(mean=[127.5] * 3, std=[127.5] * 3)
custom_hooks = [dict(type="EMAHook", momentum=1e-4)]
