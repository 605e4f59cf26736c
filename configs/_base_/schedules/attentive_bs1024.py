# Attentive probing, as XTRA's authors train AIM's probe but for the rate, which they
# choose from a grid. The cosine ends where train_cfg.max_epochs says.
optim_wrapper = dict(
    type="AmpOptimWrapper",
    loss_scale="dynamic",
    constructor="SAIMOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.999), weight_decay=0.1),
    clip_grad=dict(max_norm=3.0),
)
auto_scale_lr = dict(base_batch_size=1024)

param_scheduler = [
    # From 0; MMEngine's factor must be positive.
    dict(
        type="LinearLR",
        start_factor=1e-8,
        by_epoch=True,
        begin=0,
        end=10,
        convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingLR",
        eta_min=0.0,
        by_epoch=True,
        begin=10,
        convert_to_iter_based=True,
    ),
]

train_cfg = dict(type="ExactEpochLoop", val_interval=1)  # recipes: max_epochs
