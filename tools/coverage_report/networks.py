"""The classifiers of torchvision, with weights that leave nothing at the values of an initialisation."""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from torch import Tensor, nn

# What these do not take smaller images than.
_SMALLEST = {"inception_v3": 96}
# The windows of maxvit_t have to fit the feature maps of all its stages.
_MULTIPLE = {"maxvit_t": 224}


def names() -> list[str]:
    """All classifiers, the ones with the fewest parameters first."""
    return sorted(torchvision.models.list_models(module=torchvision.models), key=parameters)


def parameters(name: str) -> int:
    """How many parameters the published weights have."""
    return torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]


def architecture(name: str) -> str:
    """The module of torchvision that defines a classifier, such as ``resnet`` for ``wide_resnet50_2``."""
    return torchvision.models.get_model_builder(name).__module__.rpartition(".")[2]


def image_size(name: str, wanted: int) -> int:
    """The image size closest to ``wanted`` that a classifier can be built for."""
    if name.startswith("vit"):
        patch = int(name.rpartition("_")[2])
        return max(1, wanted // patch) * patch
    multiple = _MULTIPLE.get(name, 1)
    return max(_SMALLEST.get(name, 1), -(-wanted // multiple) * multiple)


def build(name: str, size: int, dtype: torch.dtype) -> nn.Module:
    """A classifier for images of a size from `image_size`, lively, in evaluation mode; seed 0."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, **_arguments(name, size)).to(dtype)
    return lively(model, random_images(4, size, dtype, seed=1))


def _arguments(name: str, size: int) -> dict[str, Any]:
    if name.startswith("vit"):
        return {"image_size": size}
    if name == "maxvit_t":
        return {"input_size": (size, size)}
    if name in ("googlenet", "inception_v3"):
        # As with published weights, whose channels are scaled inside the model; their own initialisation is slow.
        return {"transform_input": True, "init_weights": False}
    return {}


def random_images(count: int, size: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Images (count, 3, size, size) of normal noise."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, size, size, dtype=dtype, generator=generator)


@torch.no_grad()
def lively(model: nn.Module, images: Tensor) -> nn.Module:
    """Give every part of ``model`` something to do; returns it, in evaluation mode.

    An initialisation leaves biases and whole heads at 0, norms at the identity, and the scales of ConvNeXt's branches
    at 1e-6: every parameter whose entries are all alike gets normal noise on top. Batch norms take the statistics of
    ``images``, without which the sums of deep residual networks grow to 1e8.
    """
    for parameter in model.parameters():
        if bool((parameter == parameter.flatten()[0]).all()):
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.eval()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches, here of one
        norm.train()
    if norms:
        model(images)
    for norm in norms:
        norm.running_var.clamp_min_(1e-3)  # of channels that were 0 for these images
    return model.eval()
