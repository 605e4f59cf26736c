# Attentive probe of CAE's encoder, which has an absolute position embedding
# and no table.
_base_ = "beit_attentive_in1k.py"

model = dict(backbone=dict(use_abs_pos_emb=True, use_rel_pos_bias=False))
