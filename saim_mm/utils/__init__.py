"""Small tools without any opinion, which every room may use."""


def register_all_modules(init_default_scope: bool = True) -> None:
    """Registers mmpretrain's modules beside ours, as ``mmengine.hub.get_model`` asks.

    Args:
        init_default_scope: Whether ``mmpretrain`` becomes the default scope, in which
            the types of our pretraining and classification configs are found.
    """
    from mmpretrain.utils import register_all_modules

    register_all_modules(init_default_scope)
