"""Explanations as Captum's attribution classes, for its tools: noise tunnels, metrics and pictures.

    from agf_fx.captum import AGF
    attributions = AGF(model).attribute(images, target=3)     # (N, C, H, W), like the images

Needs Captum: ``pip install captum``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from agf_fx.errors import InputError, MissingDependencyError, TargetError
from agf_fx.runtime.explainer import compile

try:
    from captum.attr import Attribution
    from captum.log import log_usage
except ImportError as error:
    raise MissingDependencyError("agf_fx.captum is for users of Captum: pip install captum") from error

Target = int | Sequence[int] | Sequence[tuple[int, ...]] | Tensor | None


class Method(Attribution):
    """Any method of `agf_fx.methods`, compiled for a model."""

    def __init__(
        self,
        model: nn.Module,
        method: str = "agf",
        options: Any = None,
        **compiled: Any,
    ) -> None:
        """Prepare the method; the model is captured at the first call.

        Args:
            model: takes a batch of images, and returns logits (N, classes).
            method: a name, see `agf_fx.methods`.
            options: of the method.
            compiled: what else `agf_fx.compile` takes, such as ``precision``.

        Raises:
            OptionsError: an unknown method, or options without meaning.
        """
        super().__init__(model)
        self.explainer = compile(model, method=method, options=options, **compiled)

    @log_usage()  # as Captum has it on all its own: its tools call what is inside
    def attribute(
        self, inputs: Tensor | tuple[Tensor, ...], target: Target = None, additional_forward_args: object = None
    ) -> Tensor | tuple[Tensor, ...]:
        """Attributions like the images: each channel has an equal part of the map, so that their sum is the map.

        Args:
            inputs: (N, C, H, W), or a tuple of that alone.
            target: the class to explain: an int for all, or one for each image as Captum takes them. None is for models
                of one class, as in Captum.
            additional_forward_args: None; models of several inputs are not explained through Captum.

        Returns:
            (N, C, H, W) in a tuple where the inputs were in one.

        Raises:
            InputError: further inputs.
            TargetError: no target for a model of several classes, or one that it does not have.
            CaptureError: the model cannot be captured.
        """
        images = inputs[0] if isinstance(inputs, tuple) and len(inputs) == 1 else inputs
        if not isinstance(images, Tensor) or additional_forward_args is not None:
            raise InputError(
                "this takes one tensor of images and no additional_forward_args; call agf_fx.compile(...) itself for a "
                "model of several inputs."
            )
        maps = self._maps(images.detach(), target)
        if maps.shape != images.shape:
            maps = maps.unsqueeze(1).expand_as(images) / images.shape[1]
        return (maps,) if isinstance(inputs, tuple) else maps

    def _maps(self, images: Tensor, target: Target) -> Tensor:
        if target is None:
            result = self.explainer.explain(images)
            if result.logits.shape[1] > 1:
                raise TargetError(
                    f"the model has {result.logits.shape[1]} classes; give target=, as the likeliest class may be "
                    "another one for each noisy copy of an image."
                )
            return result.maps[:, 0]
        if isinstance(target, Sequence):
            target = torch.tensor(target, device=images.device)
            if target.dim() == 2 and target.shape[1] > 1:  # a class and its place, of logits over positions
                target = target.unsqueeze(1)
        if isinstance(target, Tensor) and target.numel() == 1:
            target = int(target)
        maps = self.explainer(images, target)
        return maps[:, 0] if maps.dim() > images.dim() - 1 else maps


class AGF(Method):
    """Attribution Guided Factorization (Gur, Ali and Wolf, AAAI 2021)."""

    def __init__(self, model: nn.Module, options: Any = None, **compiled: Any) -> None:
        """See `Method`."""
        super().__init__(model, "agf", options, **compiled)
