# Linear probing of the mean of the patches of every layer at once; layer and epoch are
# chosen on every 50th training image, which is held out. tools/test.py THIS_FILE
# best_accuracy_best_layer_epoch_N.pth then judges that layer, once.
_base_ = "vit-b_linear_90e_in1k.py"

model = dict(
    backbone=dict(out_type="featmap", out_indices=list(range(12)), final_norm=False),
    neck=None,
    head=dict(type="LayerwiseClsHead", num_layers=12),
)
train_dataloader = dict(dataset=dict(type="ImageNetPart", held_out=False))
val_dataloader = dict(dataset=dict(type="ImageNetPart", held_out=True, split="train"))
val_evaluator = dict(_delete_=True, type="LayerAccuracy")
custom_hooks = [dict(type="BestLayerHook")]
default_hooks = dict(checkpoint=dict(save_best="accuracy/best_layer"))
