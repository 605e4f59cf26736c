# k nearest neighbours, without training: tools/test.py THIS_FILE CHECKPOINT, where the
# checkpoint is one of pretraining or a bare encoder; a pretraining config does it, too.
_base_ = [
    "../../_base_/models/saim_vit-b.py",
    "../../_base_/datasets/in1k_knn_224.py",
    "../../_base_/runtime.py",
]

data_preprocessor = dict(
    type="ClsDataPreprocessor",  # the one that reads labels
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
    num_classes=1000,
)
