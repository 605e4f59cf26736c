# Attentive probe of an encoder of raster order with the causal mask of its
# pretraining; all else as for SAIM.
_base_ = "../../saim/benchmarks/vit-b_attentive_in1k.py"

model = dict(backbone=dict(visible="causal"))
