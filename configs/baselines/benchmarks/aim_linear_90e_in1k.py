# Linear probe of the mean of AIM's patches after its norm; all else as for SAIM.
_base_ = "../../saim/benchmarks/vit-b_linear_90e_in1k.py"

model = dict(backbone=dict(with_cls_token=False, out_type="avg_featmap"))
