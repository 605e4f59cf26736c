# Linear probe of the best layer of CAE's encoder, which has an absolute position
# embedding and no table.
_base_ = "beit_linear-best-layer_90e_in1k.py"

model = dict(backbone=dict(use_abs_pos_emb=True, use_rel_pos_bias=False))
