# Nearest neighbours of the mean of NEPA's patches: tools/test.py THIS_FILE CHECKPOINT.
_base_ = "../../saim/benchmarks/vit-b_knn_in1k.py"

model = dict(
    _delete_=True,
    type="ImageClassifier",
    backbone=dict(
        type="RotaryViT",
        arch="base",
        img_size=224,
        patch_size=14,
        position="rope",
        qk_norm="plain",
        layer_scale_init_value=1e-5,
        norm_cfg=dict(type="LN", eps=1e-12),
        final_norm=False,
        out_type="raw",
    ),
)
data_preprocessor = dict(mean=[127.5] * 3, std=[127.5] * 3)
