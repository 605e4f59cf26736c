# What `make demo-transfer` pretrains: a small SAIM on textured shapes over photographs.
# tools/demo_transfer.py makes the images and gives data_root.
_base_ = "../saim/saim_demo.py"

model = dict(
    backbone=dict(
        arch=dict(
            embed_dims=96, num_layers=4, num_heads=4, feedforward_channels=4 * 96
        ),
    ),
    neck=dict(depth=2),  # half the paper's share leaves time for more steps
)
train_dataloader = dict(
    batch_size=64,
    dataset=dict(data_root="work_dirs/demo_transfer/data/unlabelled"),
)
train_cfg = dict(max_iters=1000)
