# Nearest neighbours on ImageNet-1K: what tools/test.py does with an encoder that has no
# classifier. mmpretrain's FeatureExtractor reads the pipeline.
_base_ = "in1k_test_224.py"

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
