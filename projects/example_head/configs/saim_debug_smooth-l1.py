# The debug recipe with the head of this project. For a real run take another recipe in
# _base_, such as saim_vit-b_300e_in1k.py beside it.
_base_ = "../../../configs/saim/saim_debug.py"

custom_imports = dict(
    imports=["saim_mm", "projects.example_head.head"], allow_failed_imports=False
)
model = dict(head=dict(type="SmoothL1Head", beta=0.5))
