"""SAIM: predict the patches of an image in a random order."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any, TypeAlias

import torch
from mmengine.model import BaseModule
from mmpretrain.models.selfsup.base import BaseSelfSupervisor
from mmpretrain.models.utils import to_2tuple
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ..registry import register
from ..utils.sample_keys import sample_indices
from .order import OrderKind, OrderSampler, SegmentOrder
from .plan import Plan, unsort_tokens
from .saim_neck import SAIMNeck
from .saim_vit import SAIMViT

ModuleConfig: TypeAlias = "dict[str, Any] | BaseModule"


@register("model")
class SAIM(BaseSelfSupervisor):
    """Stochastic Autoregressive Image Modeling (AAAI 2023), Algorithm 1.

    Two streams run over the patches in a random order: the content stream (backbone)
    sees the patches so far, the query stream (neck) sees those before its own, and the
    head turns its queries into pixels. After pretraining only the backbone is kept.

    The sizes that neck and head need (channels, heads, patch size, ...) follow from the
    backbone; a config that gives them anyway must agree.

    Args:
        backbone: :class:`SAIMViT`, with a class token and no final norm.
        neck: :class:`SAIMNeck`.
        head: :class:`SAIMHead`.
        order: ``stochastic`` (the paper), ``raster`` or ``segments``; see
            :class:`OrderSampler`, as of the next two, ``reading`` and
            ``segment_order``. What is drawn is drawn anew at each training step.
        segment_size: As there.
        query_share: The queries of a layer do not see each other, so the loss stays an
            unbiased estimate, at a cost that falls with the share. 1 is the paper.
        data_preprocessor: By default mmpretrain's ``SelfSupDataPreprocessor``.
        init_cfg: Initialisation config.
        reading: Such as a :class:`CutReading`; by default all is read (the paper).
        segment_order: As there; a part by its config.

    Raises:
        ValueError: If the parts do not fit each other.
    """

    backbone: SAIMViT

    def __init__(
        self,
        backbone: ModuleConfig,
        neck: ModuleConfig,
        head: ModuleConfig,
        order: OrderKind = "stochastic",
        segment_size: tuple[int, int] | None = None,
        query_share: float = 1.0,
        data_preprocessor: ModuleConfig | None = None,
        init_cfg: dict[str, Any] | None = None,
        reading: dict[str, Any] | None = None,
        segment_order: SegmentOrder | dict[str, Any] = "random",
    ) -> None:
        if isinstance(backbone, dict):
            backbone = MODELS.build(backbone)
        _check_backbone(backbone)
        width, heads = backbone.embed_dims, backbone.arch_settings["num_heads"]
        hidden = backbone.arch_settings["feedforward_channels"]
        projection = backbone.patch_embed.projection
        if data_preprocessor is None or isinstance(data_preprocessor, dict):
            # Named with its scope, so that any default scope finds it.
            default = "mmpretrain.SelfSupDataPreprocessor"
            data_preprocessor = {"type": default, **(data_preprocessor or {})}
        neck = _fit(
            neck,
            embed_dims=width,
            num_heads=heads,
            feedforward_channels=hidden,
            num_encoder_layers=backbone.num_layers,
            patch_resolution=tuple(backbone.patch_resolution),
        )
        if isinstance(neck, dict):
            neck = MODELS.build(neck)
        super().__init__(
            backbone=backbone,
            neck=neck,
            head=_fit(
                head,
                embed_dims=getattr(neck, "out_dims", width),
                num_heads=heads,
                segment_size=segment_size and tuple(to_2tuple(segment_size)),
                patch_size=tuple(projection.kernel_size),
                in_channels=projection.in_channels,
            ),
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        self.order_sampler = OrderSampler(
            order,
            tuple(backbone.patch_resolution),
            segment_size,
            query_share,
            backbone.num_extra_tokens,
            None if reading is None else MODELS.build(reading),
            MODELS.build(segment_order)
            if isinstance(segment_order, dict)
            else segment_order,
        )
        _check_depth(self.neck, backbone.num_layers, order)
        _check_scopes(self.order_sampler, self.neck, self.head)
        _check_channels(self.data_preprocessor, projection.in_channels)
        # Fixed in pretraining, trained in fine-tuning; so it is no backbone option.
        backbone.freeze_for_pretraining()

    def loss(
        self,
        inputs: Tensor,
        data_samples: Sequence[DataSample] | None = None,
        order: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The training loss (Eq. 7).

        Args:
            inputs: Images (B, C, H, W), after the data preprocessor.
            data_samples: As for :meth:`plan`.
            order: As for :meth:`plan`.

        Returns:
            ``dict(loss=...)``, a float32 scalar.
        """
        plan = self.plan(inputs, data_samples, order)
        content = self.backbone(inputs, plan)
        queries = self.neck(content, plan, self.backbone.layers)
        return dict(loss=self.head.loss(queries, inputs, plan))

    def plan(
        self,
        inputs: Tensor,
        data_samples: Sequence[DataSample] | None = None,
        order: Tensor | None = None,
    ) -> Plan:
        """Who predicts what from what in a training step.

        Args:
            inputs: Images (B, C, H, W).
            data_samples: If each has a field ``order`` (N,), those orders are used. If
                an :class:`ExactSampler` drew them, what is drawn is a function of seed,
                epoch and sample.
            order: Patch order (B, N), used before any other; ``order[b, t]`` is the
                raster index of the patch of rank t. By default drawn.

        Raises:
            ValueError: If the images are of another size than the backbone's, or the
                order is none.
        """
        _check_image_size(tuple(inputs.shape[2:]), tuple(self.backbone.img_size))
        if order is None:
            order = _order_of_samples(data_samples)
        indices = sample_indices(data_samples)
        return self.order_sampler.plan(len(inputs), inputs.device, order, indices)

    def forward(
        self,
        inputs: Tensor,
        data_samples: Sequence[DataSample] | None = None,
        mode: str = "tensor",
    ) -> Any:
        """As all models of MMEngine are called.

        Args:
            inputs: Images (B, C, H, W), after the data preprocessor.
            data_samples: As for :meth:`plan`.
            mode: ``tensor``: the encoder's features, as it is used later, in a tuple;
                ``loss``: ``dict(loss=...)``; ``predict``: as :meth:`predict_patches`,
                with the orders of the samples if they have any.

        Raises:
            RuntimeError: If the mode is another.
        """
        if mode == "predict":
            return self.predict_patches(inputs, _order_of_samples(data_samples))
        return super().forward(inputs, data_samples, mode)

    def predict_asked(self, inputs: Tensor, plan: Plan) -> Tensor:
        """Predicts what a plan asks for, with gradients where they are on.

        Args:
            inputs: Images (B, C, H, W), after the data preprocessor. Of patches that
                the plan does not read, nothing is used.
            plan: By :meth:`plan` or ``order_sampler.plan_of``.

        Returns:
            Predictions (B, K, p*p*C), sorted, in the units of :meth:`SAIMHead.target`.
        """
        content = self.backbone(inputs, plan)
        queries = self.neck(content, plan, self.backbone.layers)
        return self.head(queries, plan.query_mask)

    @torch.no_grad()
    def predict_patches(self, inputs: Tensor, order: Tensor | None = None) -> Tensor:
        """Predicts every patch from those before it in the order.

        Args:
            inputs: Images (B, C, H, W), after the data preprocessor.
            order: Patch order (B, N); by default drawn.

        Returns:
            Predictions (B, N, p*p*C) in raster order, in the units of
            :meth:`SAIMHead.target`.
        """
        _check_image_size(tuple(inputs.shape[2:]), tuple(self.backbone.img_size))
        sampler = self.order_sampler
        if order is None:
            order = sampler.draw(len(inputs), inputs.device)
        order = sampler.check(order.to(inputs.device), len(inputs))
        return unsort_tokens(self.predict_asked(inputs, sampler.plan_of(order)), order)


def _check_image_size(given: tuple[int, ...], built_for: tuple[int, ...]) -> None:
    if given != built_for:
        raise ValueError(
            f"The images are {given} pixels (height, width) and the backbone was built "
            f"for img_size={built_for}. Set model.backbone.img_size={given}, or the "
            f"size in the pipeline: scale={built_for[::-1]} in LoadRandomResizedCrop "
            f"and Resize, scale={built_for} in mmpretrain's RandomResizedCrop."
        )


def _order_of_samples(data_samples: Sequence[DataSample] | None) -> Tensor | None:
    """The orders that came with the data (B, N), if they did."""
    orders = [sample.get("order") for sample in data_samples or ()]
    if not orders or all(order is None for order in orders):
        return None
    if any(order is None for order in orders):
        missing = [i for i, order in enumerate(orders) if order is None]
        raise ValueError(
            f"Data samples {missing} of {len(orders)} have no field 'order' and the "
            "others do; let the pipeline set it for all of them or for none."
        )
    return torch.stack([torch.as_tensor(order) for order in orders])


def _fit(config: ModuleConfig, **sizes: Any) -> ModuleConfig:
    """The config of a part, with the sizes that follow from the backbone."""
    if not isinstance(config, dict):
        return config
    takes = _keywords_of(config.get("type"))
    sizes = {name: size for name, size in sizes.items() if name in takes}
    for name, size in sizes.items():
        given = config.get(name, size)
        # A config may write (rows, columns) as a list, or as one number for both.
        if (tuple(to_2tuple(given)) if isinstance(size, tuple) else given) != size:
            raise ValueError(
                f"{config.get('type')} has {name}={given!r} but the backbone gives "
                f"{size!r}; leave it out and it follows from the backbone."
            )
    return {**config, **sizes}


def _keywords_of(kind: str | type | None) -> set[str]:
    """What a part can be given; one with ``**kwargs`` hands them on to its base."""
    part = MODELS.get(kind) if isinstance(kind, str) else kind
    names: set[str] = set()
    for base in getattr(part, "__mro__", ()):
        parameters = signature(base.__init__).parameters
        names |= set(parameters)
        if all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
            break
    return names


def _check_channels(preprocessor: nn.Module, in_channels: int) -> None:
    """Refuses a preprocessor that says it gives other channels than are embedded."""
    given = getattr(preprocessor, "channels", in_channels)
    if given != in_channels:
        raise ValueError(
            f"The data_preprocessor gives images of {given} channels, and the backbone "
            f"has in_channels={in_channels}; set both alike."
        )


def _check_backbone(backbone: BaseModule) -> None:
    """Refuses what would train something else than SAIM."""
    if not isinstance(backbone, SAIMViT):
        raise ValueError(
            f"SAIM needs a SAIMViT backbone, not {type(backbone).__name__}; set "
            "backbone=dict(type='SAIMViT', ...)."
        )
    if backbone.final_norm or backbone.out_type == "avg_featmap":
        raise ValueError(
            f"SAIMViT has final_norm={backbone.final_norm} and out_type="
            f"{backbone.out_type!r}; the encoder has no final norm in pretraining and "
            "its weights would never learn. Set final_norm=False and "
            "out_type='cls_token', 'raw' or 'featmap'."
        )
    patch = tuple(backbone.patch_embed.projection.kernel_size)
    covered = tuple(
        n * p for n, p in zip(backbone.patch_resolution, patch, strict=True)
    )
    if covered != tuple(backbone.img_size):
        raise ValueError(
            f"img_size={tuple(backbone.img_size)} is not cut evenly by patches of "
            f"{patch} pixels; use a multiple such as {covered}."
        )


def _check_depth(neck: SAIMNeck, num_layers: int, order: OrderKind) -> None:
    """Refuses a decoder that does not fit the encoder or the order."""
    depth, paired = neck.depth, neck.memory == "aligned" or neck.tied_decoder
    if depth and paired and num_layers % depth:
        divisors = [d for d in range(1, num_layers + 1) if num_layers % d == 0]
        raise ValueError(
            f"SAIMNeck depth={depth} does not divide the encoder's {num_layers} "
            f"layers; choose one of {divisors}, or 0 for no decoder, or memory='last' "
            "or a LayerMixNeck, which any depth can read."
        )
    if depth == 0 and order != "raster":
        raise ValueError(
            f"SAIMNeck depth=0 with order={order!r}: without a query stream nothing "
            "tells the encoder which patch comes next; set order='raster' or depth>=1."
        )


def _check_scopes(family: OrderSampler, neck: SAIMNeck, head: BaseModule) -> None:
    """Refuses to ask for what has no context, or for a part that changes the loss."""
    scopes, total = family.scopes, family.num_patches
    if not family.extra_tokens and any(not scope.allowed.start for scope in scopes):
        raise ValueError(
            "SAIM needs with_cls_token=True: the class token is what the first patch "
            "of an order is predicted from, unless a reading asks after a prefix. A "
            "RegisterViT needs it in front, cls_place='prefix', or num_registers>=1."
        )
    # A subset of ranks needs queries; the encoder's own tokens are all there.
    drawn = any(scope.asked < len(scope.allowed) for scope in scopes)
    part = drawn or any(scope.read < total for scope in scopes)
    if (drawn and neck.depth == 0) or (part and (neck.joint or head.projector.joint)):
        raise ValueError(
            f"query_share={scopes[0].asked / total:g}, or a reading that asks for a "
            "part, needs a decoder and a projector whose queries do not see each "
            "other; set neck.depth>=1, a SAIMNeck, and projector='mlp' or 'linear', or "
            "query_share=1."
        )
