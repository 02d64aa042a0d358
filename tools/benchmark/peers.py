"""Other attribution methods: those of agf-fx besides AGF, and of other libraries, as their documentation shows them.

They get copies of the model, which have no in-place ReLU, as most of these libraries need. Hooks and canonisers are
installed once, before anything is timed.
"""

from __future__ import annotations

import copy
import functools
import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

import torch
from benchmark.timing import Run
from torch import Tensor, nn

import agf_fx
from agf_fx.methods import REGISTRY
from agf_fx.methods.patterns import PatternOptions

SAMPLES = 50  # points of integrated gradients, SmoothGrad and gradient SHAP, as agf-fx has them by default
MOST_SAMPLES = 64  # of methods of agf-fx that draw more by default


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
    model: nn.Module, images: Tensor, target: Tensor, names: list[str] | None, targets: Sequence[int] = ()
) -> tuple[dict[str, Run], dict[str, str]]:
    """The runs of the peers that work on this model, and of the others why not.

    Args:
        model: the network.
        images: (N, C, H, W).
        target: (N,).
        names: of the peers; empty for all, None for none.
        targets: numbers of targets above 1 for which the methods of agf-fx run as well.
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
            for count in targets if peer.package == "agf-fx" else ():
                classes = torch.arange(count, device=images.device).expand(len(images), -1)
                runs[f"{peer.name}, {count} targets"] = functools.partial(run, classes)
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
    def silent(*classes: Tensor) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run(*classes)

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
    options: dict[str, object] | None = None
    if issubclass(REGISTRY[name].options, PatternOptions):
        options = {"patterns": agf_fx.fit_patterns(model, [torch.cat([images, -images])])}
    elif _counted(name):
        options = {_counted(name): MOST_SAMPLES}
    explainer = agf_fx.compile(model, images, method=name, options=options)
    return lambda classes=target: explainer(images, classes)


def _counted(name: str) -> str:
    """The option of a method that says how often it looks, where that is very often; else ""."""
    defaults = {field.name: field.default for field in fields(REGISTRY[name].options)}
    return next((option for option in ("samples", "steps") if defaults.get(option, 0) > MOST_SAMPLES), "")


def _called(name: str) -> str:
    return f"agf-fx {name}, {MOST_SAMPLES} {_counted(name)}" if _counted(name) else f"agf-fx {name}"


def _captum(name: str, arguments: Mapping[str, object], model: nn.Module, images: Tensor, target: Tensor) -> Run:
    method = getattr(_module("captum.attr"), name)(model)
    images = _differentiable(images)
    given = {key: value(images) if callable(value) else value for key, value in arguments.items()}
    return lambda: method.attribute(images, target=target, **given)


def _captum_smoothgrad(model: nn.Module, images: Tensor, target: Tensor) -> Run:
    attributions = _module("captum.attr")
    method = attributions.NoiseTunnel(attributions.Saliency(model))
    images = _differentiable(images)
    together = max(1, _together(images) // len(images))
    settings = {"nt_samples": SAMPLES, "nt_samples_batch_size": together, "stdevs": 0.1, "abs": False}
    return lambda: method.attribute(images, target=target, **settings)


def _captum_guided_grad_cam(model: nn.Module, images: Tensor, target: Tensor) -> Run:
    method = _module("captum.attr").GuidedGradCam(model, _last_convolution(model))
    images = _differentiable(images)
    return lambda: method.attribute(images, target=target)


def _together(images: Tensor) -> int:
    """Images that run at once: all points of all images would not fit."""
    return max(len(images), 64 if images.is_cuda else 16)


def _side(images: Tensor) -> int:
    return images.shape[-1] // 8


def _zennit(name: str, model: nn.Module, images: Tensor, target: Tensor) -> Run:
    canonizers = _module("zennit.torchvision")
    canonizer = canonizers.ResNetCanonizer() if hasattr(model, "layer1") else canonizers.VGGCanonizer()
    settings = {"low": -3.0, "high": 3.0} if name == "EpsilonGammaBox" else {}
    composite = getattr(_module("zennit.composites"), name)(canonizers=[canonizer], **settings)
    attributor = _module("zennit.attribution").Gradient(model, composite).__enter__()  # hooks stay on this copy
    images = _differentiable(images)
    classes = model(images[:1]).shape[1]
    chosen = torch.nn.functional.one_hot(target, classes).to(images)
    return lambda: attributor(images, chosen)


def _cam(name: str, model: nn.Module, images: Tensor, target: Tensor) -> Run:
    method = getattr(_module("pytorch_grad_cam"), name)(model, [_last_convolution(model)])
    output_target = _module("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget
    targets = [output_target(index) for index in target.tolist()]
    return lambda: method(images, targets)


def _module(name: str) -> ModuleType:
    return importlib.import_module(name)


_CAPTUM: dict[str, dict[str, object]] = {
    "LRP": {},
    "Saliency": {"abs": False},
    "InputXGradient": {},
    "GuidedBackprop": {},
    "Deconvolution": {},
    "DeepLift": {},
    "IntegratedGradients": {"n_steps": SAMPLES, "internal_batch_size": _together},
    "GradientShap": {"n_samples": SAMPLES, "baselines": torch.zeros_like},
    "Occlusion": {
        "sliding_window_shapes": lambda images: (images.shape[1], _side(images), _side(images)),
        "strides": lambda images: (images.shape[1], _side(images) // 2, _side(images) // 2),
        "perturbations_per_eval": _together,
    },
}
_ZENNIT = (
    *("EpsilonPlusFlat", "EpsilonPlus", "EpsilonAlpha2Beta1", "EpsilonAlpha2Beta1Flat", "EpsilonGammaBox"),
    *("ExcitationBackprop", "BetaSmooth", "GuidedBackprop"),
)
_CAMS = ("GradCAM", "GradCAMPlusPlus", "HiResCAM", "LayerCAM", "EigenCAM")

PEERS = (
    Peer("forward and backward", "torch", _backward),
    *(Peer(_called(name), "agf-fx", functools.partial(_own, name)) for name in REGISTRY if name != "agf"),
    *(Peer(f"Captum {name}", "captum", functools.partial(_captum, name, given)) for name, given in _CAPTUM.items()),
    Peer(f"Captum SmoothGrad, {SAMPLES} samples", "captum", _captum_smoothgrad),
    Peer("Captum Guided Grad-CAM", "captum", _captum_guided_grad_cam),
    *(Peer(f"Zennit {name}", "zennit", functools.partial(_zennit, name)) for name in _ZENNIT),
    *(Peer(f"pytorch-grad-cam {name}", "grad-cam", functools.partial(_cam, name)) for name in _CAMS),
)
"""Every method of agf-fx but AGF, and the same methods of other libraries where they have them, by default settings."""
