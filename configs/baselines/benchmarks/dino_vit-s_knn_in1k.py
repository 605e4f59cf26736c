# As dino_knn_in1k.py, of a ViT-S.
_base_ = "dino_knn_in1k.py"

model = dict(backbone=dict(arch="deit-small"))
