_base_ = "saim_vit-b.py"

# The usual ViT-S (384 wide, 12 layers, 6 heads); mmpretrain's own 'small' is another.
model = dict(backbone=dict(arch="deit-small"))
