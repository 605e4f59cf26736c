# Attentive probe of a ViT-S; all else as for SAIM.
_base_ = "../../saim/benchmarks/vit-b_attentive_in1k.py"

model = dict(backbone=dict(arch="deit-small"), head=dict(in_channels=384, parts=6))
