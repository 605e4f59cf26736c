# Fine-tuning of CAE's encoder, which has an absolute position embedding and no relative
# one; CAE's authors add that one for fine-tuning.
_base_ = "beit_finetune_100e_in1k.py"

model = dict(backbone=dict(use_abs_pos_emb=True, use_rel_pos_bias=False))
optim_wrapper = dict(paramwise_cfg=dict(no_decay=["cls_token", "pos_embed"]))
