"""Other attribution methods: those of agf-fx besides AGF, and of other libraries, as their documentation shows them.

They get copies of the model, which have no in-place ReLU, as most of these libraries need. Hooks and canonisers are
installed once, before anything is timed.
"""

from __future__ import annotations

import copy
import functools
import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

import torch
from benchmark.timing import Run
from torch import Tensor, nn

import agf_fx
from agf_fx.methods import REGISTRY
from agf_fx.methods.patterns import PatternOptions

INTEGRATED_GRADIENTS_STEPS = 50


@dataclass(frozen=True)
class Peer:
    """One method of another library.

    Attributes:
        name: what tables call it.
        package: the distribution it comes from.
        build: (model to keep, images (N, C, H, W), target (N,)) -> a run that explains the batch.
    """

    name: str
    package: str
    build: Callable[[nn.Module, Tensor, Tensor], Run]


def peer_runs(
    model: nn.Module, images: Tensor, target: Tensor, names: list[str] | None
) -> tuple[dict[str, Run], dict[str, str]]:
    """The runs of the peers that work on this model, and of the others why not.

    Args:
        model: the network.
        images: (N, C, H, W).
        target: (N,).
        names: of the peers; empty for all, None for none.
    """
    runs: dict[str, Run] = {}
    refused: dict[str, str] = {}
    for peer in () if names is None else PEERS:
        if names and peer.name not in names:
            continue
        try:
            version(peer.package)
            run = _silently(peer.build(_kept_activations(model), images, target))
            run()
        except PackageNotFoundError:
            refused[peer.name] = "not installed"
        except Exception as error:
            refused[peer.name] = f"fails: {type(error).__name__}"
        else:
            runs[peer.name] = run
    return runs, refused


def peer_versions() -> dict[str, str | None]:
    """The installed version of every peer's package."""
    found: dict[str, str | None] = {}
    for peer in PEERS:
        try:
            found[peer.package] = version(peer.package)
        except PackageNotFoundError:
            found[peer.package] = None
    return found


def _kept_activations(model: nn.Module) -> nn.Module:
    duplicate = copy.deepcopy(model)
    for module in duplicate.modules():
        if getattr(module, "inplace", False):
            module.inplace = False
    return duplicate


def _silently(run: Run) -> Run:
    def silent() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run()

    return silent


def _last_convolution(model: nn.Module) -> nn.Module:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)][-1]


def _differentiable(images: Tensor) -> Tensor:
    return images.detach().clone().requires_grad_()


def _backward(model: nn.Module, images: Tensor, target: Tensor) -> Run:
    """Plain PyTorch: the gradient of the target's logit at the images."""
    images = _differentiable(images)

    def run() -> None:
        chosen = model(images).gather(1, target[:, None]).sum()
        torch.autograd.grad(chosen, images)

    return run


def _own(name: str, model: nn.Module, images: Tensor, target: Tensor) -> Run:
    """Another method of agf-fx, eager."""
    fitted = issubclass(REGISTRY[name].options, PatternOptions)
    options = {"patterns": agf_fx.fit_patterns(model, [torch.cat([images, -images])])} if fitted else None
    explainer = agf_fx.compile(model, images, method=name, options=options)
    return lambda: explainer(images, target)


def _captum_lrp(model: nn.Module, images: Tensor, target: Tensor) -> Run:
    method = _module("captum.attr").LRP(model)
    images = _differentiable(images)
    return lambda: method.attribute(images, target=target)


def _captum_integrated_gradients(model: nn.Module, images: Tensor, target: Tensor) -> Run:
    method = _module("captum.attr").IntegratedGradients(model)
    images = _differentiable(images)
    together = max(len(images), 64 if images.is_cuda else 16)  # the steps of all images at once would not fit
    return lambda: method.attribute(
        images, target=target, n_steps=INTEGRATED_GRADIENTS_STEPS, internal_batch_size=together
    )


def _captum_guided_grad_cam(model: nn.Module, images: Tensor, target: Tensor) -> Run:
    method = _module("captum.attr").GuidedGradCam(model, _last_convolution(model))
    images = _differentiable(images)
    return lambda: method.attribute(images, target=target)


def _zennit(model: nn.Module, images: Tensor, target: Tensor) -> Run:
    canonizers = _module("zennit.torchvision")
    canonizer = canonizers.ResNetCanonizer() if hasattr(model, "layer1") else canonizers.VGGCanonizer()
    composite = _module("zennit.composites").EpsilonPlusFlat(canonizers=[canonizer])
    attributor = _module("zennit.attribution").Gradient(model, composite).__enter__()  # hooks stay on this copy
    images = _differentiable(images)
    classes = model(images[:1]).shape[1]
    chosen = torch.nn.functional.one_hot(target, classes).to(images)
    return lambda: attributor(images, chosen)


def _grad_cam(model: nn.Module, images: Tensor, target: Tensor) -> Run:
    method = _module("pytorch_grad_cam").GradCAM(model, [_last_convolution(model)])
    output_target = _module("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget
    targets = [output_target(index) for index in target.tolist()]
    return lambda: method(images, targets)


def _module(name: str) -> ModuleType:
    return importlib.import_module(name)


PEERS = (
    Peer("forward and backward", "torch", _backward),
    *(Peer(f"agf-fx {name}", "agf-fx", functools.partial(_own, name)) for name in REGISTRY if name != "agf"),
    Peer("Captum LRP", "captum", _captum_lrp),
    Peer(f"Captum IG, {INTEGRATED_GRADIENTS_STEPS} steps", "captum", _captum_integrated_gradients),
    Peer("Captum Guided Grad-CAM", "captum", _captum_guided_grad_cam),
    Peer("Zennit EpsilonPlusFlat", "zennit", _zennit),
    Peer("pytorch-grad-cam Grad-CAM", "grad-cam", _grad_cam),
)
