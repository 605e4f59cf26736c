_base_ = "runtime.py"

custom_imports = dict(imports=["saim_mm", "saim_mm.datasets.checked_coco"])
default_scope = "mmdet"

default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(interval=1),  # an epoch takes long
    visualization=dict(type="DetVisualizationHook"),
    # With another number of classes than the heads, CUDA would only report an assert.
    num_classes=dict(type="NumClassCheckHook"),
)
env_cfg = dict(cudnn_benchmark=False)  # the number of RoIs changes at every step

visualizer = dict(type="DetLocalVisualizer", name="visualizer")
