# Goes on from a pretrained SAIM, on images of another kind: give data_root, load_from.
# The file is loaded with its decoder, completely or not at all. No run of it was made;
# docs/pretrain_your_images.md has the reasons.
_base_ = "saim_vit-b_300e_in1k.py"

load_from = "data/saim_vit-b_800e_in1k.pth"
custom_hooks = [dict(type="CompleteLoadHook")]

# A quarter of the rate: what is there shall be moved, not learnt anew. A short warm-up,
# as AdamW's moments begin at zero.
optim_wrapper = dict(optimizer=dict(lr=2e-4 * 2048 / 256 / 4))
param_scheduler = [
    {**_base_.param_scheduler[0], "end": 5},
    {**_base_.param_scheduler[1], "begin": 5},
]
train_cfg = dict(max_epochs=100)
train_dataloader = dict(dataset=dict(data_root="data/images", data_prefix=""))
