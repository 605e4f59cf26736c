# DALL-E's tokeniser, which gives BEiT and CAE their targets. OpenMMLab publishes its
# weights as dalle_encoder.pth; the paper counts the data behind them ("IN1K+DALLE").
model = dict(
    target_generator=dict(
        type="DALL-E",
        init_cfg=dict(type="Pretrained", checkpoint="data/dalle_encoder.pth"),
    )
)
