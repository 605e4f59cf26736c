# Mean of the patches with a norm of its own: the release's default without --cls_token.
_base_ = "vit-b_finetune_100e_in1k.py"

model = dict(backbone=dict(out_type="avg_featmap", final_norm=False))
