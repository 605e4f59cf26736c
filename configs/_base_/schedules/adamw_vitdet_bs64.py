# ViTDet's schedule, in iterations as its authors give it: 100 epochs of 118,000 images,
# with steps at 8/9 and 26/27 of whatever max_iters says (here 163,889 and 177,546).
optim_wrapper = dict(
    type="AmpOptimWrapper",
    loss_scale="dynamic",
    constructor="SAIMOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
    # Norms and biases never decay.
    paramwise_cfg=dict(layer_decay_rate=0.7, no_decay=["pos_embed"]),
)
auto_scale_lr = dict(base_batch_size=64)

param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=250),
    dict(
        type="MultiStepShareLR",
        by_epoch=False,
        milestones=[8 / 9, 26 / 27],
        gamma=0.1,
    ),
]

train_cfg = dict(type="ExactIterLoop", max_iters=184375, val_interval=20000)
log_processor = dict(by_epoch=False)
