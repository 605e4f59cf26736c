# Table 7. The cosine ends where train_cfg.max_epochs says: Runner fills in its `end`.
optim_wrapper = dict(
    type="AmpOptimWrapper",
    loss_scale="dynamic",
    constructor="SAIMOptimWrapperConstructor",
    optimizer=dict(
        type="AdamW",
        lr=5e-4 * 1024 / 256,
        betas=(0.9, 0.99),  # Table 7; the release runs with 0.999, AdamW's default
        weight_decay=0.05,
    ),
    paramwise_cfg=dict(layer_decay_rate=0.65, no_decay=["cls_token", "pos_embed"]),
)
auto_scale_lr = dict(base_batch_size=1024)

param_scheduler = [
    # From 0 in the release; MMEngine's factor must be positive.
    dict(
        type="LinearLR",
        start_factor=1e-8,
        by_epoch=True,
        begin=0,
        end=20,
        convert_to_iter_based=True,
    ),
    # A ratio, as the release scales its floor of 1e-6 by layer like the rate itself.
    dict(
        type="CosineAnnealingLR",
        eta_min_ratio=1e-6 / (5e-4 * 1024 / 256),
        by_epoch=True,
        begin=20,
        convert_to_iter_based=True,
    ),
]

train_cfg = dict(type="ExactEpochLoop", val_interval=1)  # recipes: max_epochs
