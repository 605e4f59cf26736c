# Nearest neighbours of the mean of AIM's patches: tools/test.py THIS_FILE CHECKPOINT.
_base_ = "../../saim/benchmarks/vit-b_knn_in1k.py"

model = dict(
    _delete_=True,
    type="ImageClassifier",
    backbone=dict(
        type="SAIMViT",
        arch="base",
        img_size=224,
        patch_size=16,
        with_cls_token=False,
        final_norm=False,
        out_type="raw",
    ),
)
