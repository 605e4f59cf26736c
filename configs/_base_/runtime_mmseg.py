_base_ = "runtime.py"

custom_imports = dict(imports=["saim_mm", "saim_mm.models.dense.feature2pyramid"])
default_scope = "mmseg"

default_hooks = dict(
    logger=dict(interval=50, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=16_000),
    visualization=dict(type="SegVisualizationHook"),
)
log_processor = dict(by_epoch=False)
visualizer = dict(type="SegLocalVisualizer", name="visualizer")
