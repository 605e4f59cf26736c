# Table 8. The cosine ends where train_cfg.max_epochs says: Runner fills in its `end`.
# A quarter of an epoch, in iterations of 64 images: in epochs, MMEngine's warm-up would
# stay at its first rate for good where a small data set has only 7 iterations in one.
__warm_up = round(0.25 * 118_000 / 64)

optim_wrapper = dict(
    type="AmpOptimWrapper",
    loss_scale="dynamic",
    constructor="SAIMOptimWrapperConstructor",  # no layer decay unless asked
    optimizer=dict(
        type="AdamW",
        lr=8e-5,
        betas=(0.9, 0.99),  # Li et al. and PyTorch have 0.999
        weight_decay=0.1,
    ),
    # `table` is the relative position bias. Norms and biases never decay.
    paramwise_cfg=dict(no_decay=["pos_embed", "table"]),
)
auto_scale_lr = dict(base_batch_size=64)

param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=__warm_up),
    dict(type="CosineAnnealingLR", eta_min=0.0, by_epoch=False, begin=__warm_up),
]

# The recipe gives max_epochs.
train_cfg = dict(type="ExactEpochLoop", val_interval=10)
