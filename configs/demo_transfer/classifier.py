# Fine-tunes a classifier on a few textured shapes: the mean of the patches, as the
# release does by default. tools/demo_transfer.py gives encoder, seed and labels.
_base_ = [
    "../_base_/models/vit-b_classifier.py",
    "../_base_/datasets/in1k_cls_224.py",
    "../_base_/runtime.py",
]

__arch = dict(
    embed_dims=96, num_layers=4, num_heads=4, feedforward_channels=4 * 96
)
model = dict(
    backbone=dict(
        arch=__arch,
        img_size=64,
        patch_size=8,
        out_type="avg_featmap",
        final_norm=False,
    ),
    head=dict(num_classes=8, in_channels=96),
)
data_preprocessor = dict(num_classes=8)
