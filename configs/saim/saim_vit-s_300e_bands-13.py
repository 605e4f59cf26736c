# SAIM on images of 13 bands of 16 bits, such as Sentinel-2's, level 1C: TIFF or .npy.
# Not run. One GPU fits: lower the batch and add --auto-scale-lr.
_base_ = [
    "../_base_/models/saim_vit-s.py",
    "../_base_/schedules/adamw_bs2048.py",
    "../_base_/runtime.py",
]

# The one place that says how many channels there are: mean and deviation of each, in
# the order of the files. These are of SSL4EO-S12, level 1C (Wang et al. 2023, values of
# its authors' code); measure your own by tools/analysis_tools/channel_statistics.py.
__bands = dict(
    B1=(1605.575, 786.787),
    B2=(1390.782, 850.348),
    B3=(1314.873, 875.065),
    B4=(1363.524, 1138.850),
    B5=(1549.444, 1122.178),
    B6=(2091.749, 1161.592),
    B7=(2371.717, 1274.392),
    B8=(2299.905, 1248.429),
    B8A=(2560.295, 1345.527),
    B9=(830.066, 577.316),
    B10=(22.104, 51.154),
    B11=(2177.072, 1336.099),
    B12=(1524.065, 1136.538),
)
data_preprocessor = dict(
    type="ChannelDataPreprocessor",
    mean=[mean for mean, _ in __bands.values()],
    std=[std for _, std in __bands.values()],
    shown=[3, 2, 1],  # B4, B3, B2: pictures look nearly natural
)

# Patches of 8 pixels of images of 128: 16 x 16 patches of 80 m.
model = dict(
    backbone=dict(img_size=128, patch_size=8, in_channels=len(__bands)),
    # The paper's 9/1 blurs a sixteenth of its patch; half of it suits half the patch.
    head=dict(smoothing=dict(kernel_size=5, sigma=0.5)),
)

train_dataloader = dict(
    batch_size=64,  # x 32 GPUs = 2048
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type="ExactSampler", shuffle=True, round_up=False),
    collate_fn=dict(type="stack_samples"),
    dataset=dict(
        type="UnlabeledImages",
        data_root="data/bands",
        extensions=[".tif", ".tiff", ".npy"],
        pipeline=[
            dict(
                type="LoadRandomResizedCrop",
                channels=len(__bands),
                scale=128,
                crop_ratio_range=(0.67, 1.0),
                aspect_ratio_range=(3 / 4, 4 / 3),
                flip_prob=0.5,
            ),
            dict(type="PackInputs"),
        ],
    ),
)
train_cfg = dict(max_epochs=300)
