# k nearest neighbours, without training: tools/test.py THIS_FILE CHECKPOINT, where the
# checkpoint is one of pretraining or a bare encoder.
_base_ = [
    "../../_base_/models/saim_vit-b.py",
    "../../_base_/datasets/in1k_cls_224.py",
    "../../_base_/runtime.py",
]

data_preprocessor = dict(type="ClsDataPreprocessor")  # the one that reads labels
test_cfg = dict(
    type="KNNLoop",
    k=20,
    temperature=0.07,
    pool="avg",
    # The neighbours: the training images, cropped like the test images.
    bank_dataloader={
        **_base_.test_dataloader,
        "dataset": {**_base_.test_dataloader.dataset, "split": "train"},
    },
)
train_dataloader = val_dataloader = val_cfg = val_evaluator = None
