# Table 1, RandSAC (Hua et al. 2022): random order of segments, whose patches see each
# other and are predicted together from earlier segments. Fine-tune 83.0, linear 68.3.
# What differs from RandSAC: segments are squares of a fixed size on a fixed grid, its
# decoder reads several encoder layers at each depth, and its queries of one segment see
# each other. The size of the segments is ours.
_base_ = "../saim/saim_vit-b_1600e_in1k.py"

model = dict(
    head=dict(smoothing=None),
    order="segments",
    segment_size=(2, 2),
)
