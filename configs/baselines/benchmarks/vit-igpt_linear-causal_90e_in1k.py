# Linear probe of an encoder of raster order with the causal mask of its pretraining.
# Its class token sees no patch, so the mean of the patches is read; all else as for
# SAIM.
_base_ = "../../saim/benchmarks/vit-b_linear_90e_in1k.py"

model = dict(backbone=dict(visible="causal", out_type="avg_featmap"))
