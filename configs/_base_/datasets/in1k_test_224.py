# ImageNet-1K with labels, the images that are judged: data/imagenet/val/<class>/.
test_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="stack_samples"),
    dataset=dict(
        type="ImageNet",
        data_root="data/imagenet",
        split="val",
        pipeline=[
            dict(type="LoadImage"),
            dict(
                type="ResizeEdge",
                scale=256,
                edge="short",
                backend="pillow",
                interpolation="bicubic",
            ),
            dict(type="CenterCrop", crop_size=224),
            dict(type="PackInputs"),
        ],
    ),
)
test_evaluator = dict(type="Accuracy", topk=(1, 5))
