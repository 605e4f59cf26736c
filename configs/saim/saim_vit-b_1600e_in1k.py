_base_ = [
    "../_base_/models/saim_vit-b.py",
    "../_base_/datasets/in1k_224.py",
    "../_base_/schedules/adamw_bs2048.py",
    "../_base_/runtime.py",
]

train_cfg = dict(max_epochs=1600)
