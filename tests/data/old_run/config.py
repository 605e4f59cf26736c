# The full config of the run beside it, as version 0.1 wrote it: in its spellings.
auto_scale_lr = dict(base_batch_size=32)
custom_imports = dict(
    allow_failed_imports=False, imports=[
        'saim_mm',
    ])
data_preprocessor = dict(
    mean=[
        123.675,
        116.28,
        103.53,
    ],
    std=[
        58.395,
        57.12,
        57.375,
    ],
    to_rgb=True,
    type='SelfSupDataPreprocessor')
default_hooks = dict(
    broken_images=dict(type='BrokenImageHook'),
    checkpoint=dict(
        by_epoch=False,
        interval=10,
        max_keep_ckpts=3,
        type='SafeCheckpointHook'),
    compile=dict(enabled=False, type='CompileLayersHook'),
    exact_resume=dict(type='ExactResumeHook'),
    finite_guard=dict(type='FiniteGuardHook'),
    logger=dict(interval=1, type='LoggerHook'),
    param_scheduler=dict(type='ParamSchedulerHook'),
    preemption=dict(type='PreemptionHook'),
    runtime_info=dict(type='DeferredRuntimeInfoHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    throughput=dict(type='ThroughputHook'),
    timer=dict(type='IterTimerHook'),
    watchdog=dict(type='WatchdogHook'))
default_scope = 'mmpretrain'
env_cfg = dict(
    cudnn_benchmark=True,
    dist_cfg=dict(backend='nccl'),
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
launcher = 'none'
load_from = None
log_level = 'INFO'
model = dict(
    backbone=dict(
        arch=dict(
            embed_dims=16, feedforward_channels=64, num_heads=2, num_layers=4),
        final_norm=False,
        img_size=32,
        patch_size=8,
        type='SAIMViT'),
    head=dict(type='SAIMHead'),
    neck=dict(coupled=True, depth=4, type='SAIMNeck'),
    type='SAIM')
optim_wrapper = dict(
    constructor='SAIMOptimWrapperConstructor',
    optimizer=dict(
        betas=(
            0.9,
            0.95,
        ), lr=0.001, type='AdamW', weight_decay=0.05),
    type='OptimWrapper')
param_scheduler = []
randomness = dict(diff_rank_seed=True, seed=0)
resume = False
train_cfg = dict(max_epochs=1, type='ExactEpochLoop')
train_dataloader = dict(
    batch_size=32,
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        num_images=640,
        pipeline=[
            dict(type='SeedSample'),
            dict(prob=0.5, type='RandomFlip'),
            dict(type='PackInputs'),
        ],
        size=(
            32,
            32,
        ),
        type='SyntheticImages'),
    drop_last=True,
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
    sampler=dict(round_up=False, shuffle=True, type='ExactSampler'))
vis_backends = [
    dict(type='LocalVisBackend'),
]
visualizer = dict(
    type='Visualizer', vis_backends=[
        dict(type='LocalVisBackend'),
    ])
