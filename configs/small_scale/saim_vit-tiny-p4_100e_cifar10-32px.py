# SAIM for small images on one GPU: a ViT of 12 layers and 192 channels, 8 x 8 patches.
# CIFAR-10 as a folder under data/cifar10/train; other folders by data_root.
# As the row `decoder-half` of projects/small_scale_cifar10, preset gpu; see
# docs/experiments.md.
_base_ = [
    "../_base_/models/saim_vit-b.py",
    "../_base_/datasets/in1k_224.py",
    "../_base_/schedules/adamw_bs2048.py",
    "../_base_/runtime.py",
]

model = dict(
    backbone=dict(arch="deit-tiny", img_size=32, patch_size=4),
    neck=dict(depth=6),  # with few steps a decoder of half the depth learns more
    # The paper's sigma is 1/16 of a patch; of these patches that is no filter at all.
    head=dict(smoothing=None),
)
train_dataloader = dict(
    batch_size=512,
    dataset=dict(
        data_root="data/cifar10",
        pipeline=[
            {**step, "scale": 32} if step["type"] == "LoadRandomResizedCrop" else step
            for step in _base_.train_dataloader.dataset.pipeline
        ],
    ),
)
# The rule of the paper's batch of 2048 would give 4e-4, too little for few steps.
optim_wrapper = dict(optimizer=dict(lr=1e-3))
auto_scale_lr = dict(base_batch_size=512)
param_scheduler = [
    {**_base_.param_scheduler[0], "end": 10},
    {**_base_.param_scheduler[1], "begin": 10},
]
train_cfg = dict(max_epochs=100)

# What is judged in place of training images, such as by FeatureExtractor.
__test_pipeline = [
    dict(type="LoadImage"),
    dict(type="Resize", scale=(32, 32), backend="pillow", interpolation="bicubic"),
    dict(type="PackInputs"),
]
test_dataloader = dict(dataset=dict(pipeline=__test_pipeline))
test_cfg = dict(bank_dataloader=dict(dataset=dict(pipeline=__test_pipeline)))
