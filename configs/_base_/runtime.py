custom_imports = dict(imports=["saim_mm"], allow_failed_imports=False)
default_scope = "mmpretrain"

default_hooks = dict(
    runtime_info=dict(type="DeferredRuntimeInfoHook"),
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LiveLoggerHook", interval=100),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="SafeCheckpointHook", interval=10, max_keep_ckpts=3),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    throughput=dict(type="ThroughputHook"),
    # Here and not in custom_hooks, which a config that adds one would replace.
    broken_images=dict(type="BrokenImageHook"),
    classes=dict(type="CheckClassesHook"),
    exact_resume=dict(type="ExactResumeHook"),
    finite_guard=dict(type="FiniteGuardHook"),
    preemption=dict(type="PreemptionHook"),
    watchdog=dict(type="WatchdogHook"),
    compile=dict(type="CompileLayersHook", enabled=False),
)

env_cfg = dict(
    cudnn_benchmark=True,  # the image size never changes
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
# Ranks crop and flip differently; the sampler's seed is shared all the same.
randomness = dict(seed=0, diff_rank_seed=True)

vis_backends = [dict(type="LocalVisBackend")]
visualizer = dict(type="Visualizer", vis_backends=vis_backends)
log_level = "INFO"
load_from = None
resume = False
