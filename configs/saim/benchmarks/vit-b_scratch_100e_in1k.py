# The control of fine-tuning: the same recipe from random weights.
_base_ = "vit-b_finetune_100e_in1k.py"

model = dict(backbone=dict(init_cfg=None))
