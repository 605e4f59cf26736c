# SAIM on ViT-B/16 at 224 px with a decoder as deep as the encoder. What the paper
# fixes (MLP head, L2 on normalised patches, Gaussian 9/1, stochastic order) is the
# default of the parts; the sizes of neck and head follow from the backbone.
model = dict(
    type="SAIM",
    backbone=dict(
        type="SAIMViT",
        arch="base",
        img_size=224,
        patch_size=16,
        final_norm=False,  # the encoder has none in pretraining
    ),
    neck=dict(type="SAIMNeck", depth=12),
    head=dict(type="SAIMHead"),
)
