# What `make demo` runs: a small SAIM, under four minutes on two CPU cores, on a dozen
# photographs. tools/demo.py collects them and gives data_root.
_base_ = ["../_base_/datasets/in1k_knn_224.py", "../_base_/runtime.py"]

# Model: 8 x 8 patches of 8 pixels; 1.8 M parameters. A larger one learns more
# per step but less per minute: 720 steps of 6 layers, 192 wide, cost as much as 1,800
# of these and ended at a loss of 0.57 instead of 0.44. Otherwise as in the paper: a
# decoder as deep as the encoder, MLP head, L2 on normalised patches, stochastic order.
model = dict(
    type="SAIM",
    backbone=dict(
        type="SAIMViT",
        arch=dict(
            embed_dims=128, num_layers=4, num_heads=4, feedforward_channels=4 * 128
        ),
        img_size=64,
        patch_size=8,
        final_norm=False,  # the encoder has none in pretraining
        out_type="raw",
    ),
    neck=dict(type="SAIMNeck", depth=4),
    # The paper's 9/1 blurs a sixteenth of its patch width; half of it suits half the
    # patch: kernel 5 still reaches four deviations.
    head=dict(type="SAIMHead", smoothing=dict(kernel_size=5, sigma=0.5)),
)
data_preprocessor = dict(
    type="SelfSupDataPreprocessor",
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)

# Data: a dozen images cannot fill an epoch, so they are drawn without end.
train_dataloader = dict(
    batch_size=16,  # small: in so short a time steps are worth more than images in them
    num_workers=1,  # crops cost a tenth of a training step, which wants both cores
    persistent_workers=True,
    sampler=dict(type="ExactSampler", shuffle=True),
    collate_fn=dict(type="stack_samples"),
    dataset=dict(
        type="UnlabeledImages",
        data_root="work_dirs/demo/photographs",
        pipeline=[
            # ImageNet's recipe starts at 0.67; from a tenth of the area, a dozen
            # photographs give enough different crops that they are not learnt by heart.
            dict(
                type="LoadRandomResizedCrop",
                scale=64,
                crop_ratio_range=(0.1, 1.0),
                aspect_ratio_range=(3 / 4, 4 / 3),
                flip_prob=0.5,
            ),
            dict(type="PackInputs"),
        ],
    ),
)

# Schedule: few steps, so a high rate and a short warm-up.
train_cfg = dict(type="ExactIterLoop", max_iters=1200)
optim_wrapper = dict(
    type="OptimWrapper",  # float32: there is no mixed precision on a CPU
    constructor="SAIMOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=1.5e-3, betas=(0.9, 0.95), weight_decay=0.05),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", eta_min=0.0, by_epoch=False, begin=100),
]

# Log: every iteration as it is goes to the curve; of the lines, some.
log_processor = dict(by_epoch=False, window_size=1)
default_hooks = dict(
    logger=dict(interval=1, seconds_per_line=5),
    # The last weights only, to go on from; the optimiser's state is twice their size.
    checkpoint=dict(
        by_epoch=False, interval=-1, save_optimizer=False, save_param_scheduler=False
    ),
)

# What is judged in place of training images, such as by FeatureExtractor.
__test_pipeline = [
    dict(type="LoadImage"),
    dict(type="Resize", scale=(64, 64), backend="pillow", interpolation="bicubic"),
    dict(type="PackInputs"),
]
test_dataloader = dict(dataset=dict(pipeline=__test_pipeline))
test_cfg = dict(bank_dataloader=dict(dataset=dict(pipeline=__test_pipeline)))
