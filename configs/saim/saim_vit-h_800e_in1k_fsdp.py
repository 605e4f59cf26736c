_base_ = "saim_vit-h_800e_in1k.py"

model_wrapper_cfg = dict(type="FullyShardedModel")
default_hooks = dict(sharding=dict(type="ShardingHook"))
