# Fine-tuning of AIM's encoder, which has no class token; all else as for SAIM.
_base_ = "../../saim/benchmarks/vit-b_finetune-avgpool_100e_in1k.py"

model = dict(backbone=dict(with_cls_token=False))
optim_wrapper = dict(paramwise_cfg=dict(no_decay=["pos_embed"]))
