# NEPA in SAIM's random order. The next patch is not known then, so a query stream asks
# for it. A member of the family that no paper has; all else is NEPA's.
_base_ = "nepa_vit-b-p14_1600e_in1k.py"

model = dict(neck=dict(depth=1), order="stochastic")
