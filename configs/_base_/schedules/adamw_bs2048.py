# Table 6. The cosine ends where train_cfg.max_epochs says: Runner fills in its `end`.
# A run too short for the warm-up has one of half its length: docs/reliable_training.md.
optim_wrapper = dict(
    type="AmpOptimWrapper",
    loss_scale="dynamic",
    constructor="SAIMOptimWrapperConstructor",
    optimizer=dict(
        type="AdamW",
        lr=2e-4 * 2048 / 256,
        betas=(0.9, 0.95),
        weight_decay=0.05,
    ),
)
auto_scale_lr = dict(base_batch_size=2048)

param_scheduler = [
    # From 0 in the release; MMEngine's factor must be positive.
    dict(
        type="LinearLR",
        start_factor=1e-8,
        by_epoch=True,
        begin=0,
        end=30,
        convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingLR",
        eta_min=0.0,
        by_epoch=True,
        begin=30,
        convert_to_iter_based=True,
    ),
]

train_cfg = dict(type="ExactEpochLoop")  # the recipe gives max_epochs
