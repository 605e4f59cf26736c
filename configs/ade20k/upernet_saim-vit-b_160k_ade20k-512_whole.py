# Tests each image in one piece instead of by a sliding window.
_base_ = "upernet_saim-vit-b_160k_ade20k-512.py"

model = dict(test_cfg=dict(_delete_=True, mode="whole"))
