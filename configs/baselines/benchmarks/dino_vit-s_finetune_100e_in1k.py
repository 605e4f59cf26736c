# Fine-tuning of a ViT-S; all else as for SAIM. Give
# model.backbone.init_cfg.checkpoint=FILE.
_base_ = "../../saim/benchmarks/vit-b_finetune_100e_in1k.py"

model = dict(backbone=dict(arch="deit-small"), head=dict(in_channels=384))
