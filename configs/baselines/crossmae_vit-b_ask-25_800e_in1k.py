# CrossMAE that asks for a quarter of the patches: fine-tune 83.5. Its authors multiply
# the rate by the share of the hidden patches that is asked for.
_base_ = "crossmae_vit-b_800e_in1k.py"

model = dict(reading=dict(asked=49))
optim_wrapper = dict(optimizer=dict(lr=1.5e-4 * 4096 / 256 / 3))
