# Linear probe of the best layer of an encoder of raster order with the causal mask
# of its pretraining; all else as for SAIM.
_base_ = "../../saim/benchmarks/vit-b_linear-best-layer_90e_in1k.py"

model = dict(backbone=dict(visible="causal"))
