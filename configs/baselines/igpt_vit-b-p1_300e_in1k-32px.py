# Table 3, tokenisation by pixel: 32 x 32 images, a token for each pixel, raster order,
# no decoder. The paper quotes iGPT-L (72.9 in Table 3, 72.6 in Table 1), 1.36 billion
# parameters that classify 512 clusters of colours; here a ViT-B regresses the colours.
_base_ = "vit-igpt_vit-b_300e_in1k.py"

model = dict(
    backbone=dict(img_size=32, patch_size=1),
    head=dict(norm_pix=False),  # three values have hardly a deviation
)
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            {**step, "scale": 32} if step["type"] == "LoadRandomResizedCrop" else step
            for step in _base_.train_dataloader.dataset.pipeline
        ]
    )
)

# What is judged in place of training images, such as by FeatureExtractor.
__test_pipeline = [
    dict(type="LoadImage"),
    dict(type="Resize", scale=(32, 32), backend="pillow", interpolation="bicubic"),
    dict(type="PackInputs"),
]
test_dataloader = dict(dataset=dict(pipeline=__test_pipeline))
test_cfg = dict(bank_dataloader=dict(dataset=dict(pipeline=__test_pipeline)))
