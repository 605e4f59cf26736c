# What `make demo-transfer` pretrains: a small SAIM on textured shapes over photographs.
# projects/transfer_shapes makes the images and gives data_root.
_base_ = "../saim/saim_demo.py"

model = dict(
    backbone=dict(
        arch=dict(
            embed_dims=96, num_layers=4, num_heads=4, feedforward_channels=4 * 96
        ),
    ),
    neck=dict(depth=2),  # half the paper's share leaves time for more steps
    head=dict(smoothing=dict(kernel_size=9, sigma=1.0)),
)
train_dataloader = dict(
    # Small batches: in minutes, the number of steps counts.
    batch_size=32,
    dataset=dict(
        data_root="work_dirs/demo_transfer/data/unlabelled",
        pipeline=[
            # The objects keep their shape and most of their size.
            dict(
                type="LoadRandomResizedCrop",
                scale=64,
                crop_ratio_range=(0.6, 1.0),
                aspect_ratio_range=(1.0, 1.0),
                flip_prob=0.5,
            ),
            dict(type="PackInputs"),
        ],
    ),
)
train_cfg = dict(max_iters=1600)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
default_hooks = dict(logger=dict(interval=20))
