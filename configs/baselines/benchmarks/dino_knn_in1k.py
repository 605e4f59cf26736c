# Nearest neighbours of DINO's class token after its norm, as its authors judge it:
# tools/test.py THIS_FILE CHECKPOINT.
_base_ = "../../saim/benchmarks/vit-b_knn_in1k.py"

model = dict(
    _delete_=True,
    type="ImageClassifier",
    backbone=dict(
        type="SAIMViT",
        arch="base",
        img_size=224,
        patch_size=16,
        final_norm=True,
        out_type="raw",
    ),
)
test_cfg = dict(pool="cls", final_norm=True)
