# The release's linear probing: plain SGD (it imports LARS and does not use it), no
# warm-up. The cosine ends where train_cfg.max_epochs says.
optim_wrapper = dict(
    type="AmpOptimWrapper",
    optimizer=dict(type="SGD", lr=0.1 * 2048 / 256, momentum=0.9, weight_decay=0.0),
)
auto_scale_lr = dict(base_batch_size=2048)

param_scheduler = [
    dict(
        type="CosineAnnealingLR",
        eta_min=0.0,
        by_epoch=True,
        begin=0,
        convert_to_iter_based=True,
    ),
]

train_cfg = dict(type="ExactEpochLoop", val_interval=1)  # recipes: max_epochs
