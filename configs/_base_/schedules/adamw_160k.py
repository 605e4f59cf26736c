# Table 9; where it is silent, BEiT: warm-up from 1e-6 of the rate, then linearly to 0.
# The decay ends where train_cfg.max_iters says: Runner fills in its `end`.
optim_wrapper = dict(
    type="AmpOptimWrapper",
    loss_scale="dynamic",
    constructor="SAIMOptimWrapperConstructor",
    paramwise_cfg=dict(layer_decay_rate=0.65, no_decay=["cls_token", "pos_embed"]),
    optimizer=dict(type="AdamW", lr=4e-4, betas=(0.9, 0.99), weight_decay=0.05),
)
auto_scale_lr = dict(base_batch_size=16)

param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", power=1.0, eta_min=0.0, by_epoch=False, begin=1500),
]

train_cfg = dict(type="ExactIterLoop", max_iters=160_000, val_interval=16_000)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
