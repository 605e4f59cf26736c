# Linear probe of the best layer of AIM's encoder, which has no class token; all else
# as for SAIM.
_base_ = "../../saim/benchmarks/vit-b_linear-best-layer_90e_in1k.py"

model = dict(backbone=dict(with_cls_token=False))
