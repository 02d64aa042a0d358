"""Where a model comes from: the package itself, a package of weights, torchvision, or a factory of the user."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from torch import nn

from agf_fx.errors import ModelLoadError, OptionsError
from agf_fx.imaging.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from agf_fx.models import digits, efficientnet_lite, unlabelled
from agf_fx.models.packaged import PACKAGED, load_packaged_weights, package

BUNDLED: dict[str, Callable[[], nn.Module]] = {
    "digits-vgg": digits.digits_vgg,
    "digits-resnet": digits.digits_resnet,
    "digits-basic": digits.digits_basic,
    "digits-supervised": unlabelled.digits_supervised,
    "digits-rotation": unlabelled.digits_rotation,
    "digits-clusters": unlabelled.digits_clusters,
}
"""Networks that come with the package, trained: name and factory."""

_OWN_TASKS = {"digits-rotation": unlabelled.ROTATIONS, "digits-clusters": unlabelled.CLUSTERS}

FACTORY_SIZE = 224
"""Image size in pixels for a factory's model, unless the caller gives one."""


class Built(NamedTuple):
    """A model with what its source knows about it; ``checkpoint`` is still to be loaded when it is a path."""

    model: nn.Module
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None = None
    multi_label: bool = False
    checkpoint: Path | None = None
    weights: str = "random"


def torchvision_names() -> list[str]:
    """Names of torchvision's image classifiers, sorted."""
    return torchvision.models.list_models(module=torchvision.models)


def is_factory(name: str) -> bool:
    """Whether ``name`` is written as ``package.module:factory``."""
    return ":" in name


def check_name(name: str) -> None:
    """Refuse a name that no source knows.

    Raises:
        ModelLoadError: the name is not known; similar ones are named.
    """
    if not isinstance(name, str):
        raise ModelLoadError(f"the name of a model is a string, not a {type(name).__name__}: load_model takes names.")
    ours = [*BUNDLED, *PACKAGED]
    known = [*ours, *torchvision_names()]
    if is_factory(name) or name in known:
        return
    close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"take {', '.join(ours)}, a torchvision name"
    raise ModelLoadError(f"unknown model {name!r}; {hint} (own models: package.module:factory)")


def bundled(name: str) -> Built:
    """A network of the package, with its own preprocessing, classes and checkpoint."""
    preprocessing = Preprocessing.square(digits.DIGITS_SIZE, mean=digits.DIGITS_MEAN, std=digits.DIGITS_STD)
    checkpoint = Path(str(files("agf_fx.assets"))) / f"{name}.safetensors"
    names = _OWN_TASKS.get(name, digits.DIGITS_CLASSES)
    return Built(BUNDLED[name](), preprocessing, names, name not in _OWN_TASKS, checkpoint, "bundled")


def packaged(name: str, num_classes: int | None, *, trained: bool) -> Built:
    """A network of `PACKAGED`: with its ImageNet weights, or without any for a checkpoint to fill.

    The shorter side is resized to 32 pixels more than the crop, as in the training of these networks.

    Raises:
        MissingDependencyError: the package with the weights is not installed.
        CheckpointError: what it holds is damaged.
    """
    variant = efficientnet_lite.VARIANTS[name]
    preprocessing = Preprocessing(
        variant.size + 32, (variant.size, variant.size), efficientnet_lite.MEAN, efficientnet_lite.STD
    )
    names = tuple(torchvision.models.EfficientNet_B0_Weights.IMAGENET1K_V1.meta["categories"])
    model = efficientnet_lite.EfficientNetLite(variant, num_classes or len(names))
    if not trained:
        return Built(model, preprocessing)
    load_packaged_weights(model, name)
    return Built(model, preprocessing, names, weights=f"ImageNet ({package(name)})")


def weights_entry(name: str, weights: str) -> Any:
    """Torchvision's weights entry, ``DEFAULT`` or one of the names that the model offers.

    Raises:
        OptionsError: the model has no such entry.
    """
    entries = torchvision.models.get_model_weights(name)
    short = weights.removeprefix(f"{entries.__name__}.")
    if short not in entries.__members__:
        offered = ", ".join(["DEFAULT", *(entry.name for entry in entries)])
        raise OptionsError(f"{name} has no weights {weights!r}; choose from {offered}")
    return entries[short]


def from_torchvision(name: str, weights: str | None, num_classes: int | None) -> Built:
    """A torchvision classifier: with its published weights, or without any for a checkpoint to fill.

    With weights, preprocessing and class names are those of the entry. Without, preprocessing is that of the
    ``DEFAULT`` entry and class names are unknown.

    Raises:
        ModelLoadError: the weights cannot be downloaded.
    """
    entry = weights_entry(name, weights or "DEFAULT")
    preprocessing = Preprocessing.from_transforms(entry.transforms())
    if weights is None:
        options = {} if num_classes is None else {"num_classes": num_classes}
        return Built(_quiet(torchvision.models.get_model, name, weights=None, **options), preprocessing)
    try:
        model = _quiet(torchvision.models.get_model, name, weights=entry)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ModelLoadError(
            f"the weights {entry!r} cannot be downloaded ({reason}); connect to the internet, or put {entry.url} "
            f"into {os.path.join(torch.hub.get_dir(), 'checkpoints')}"
        ) from error
    return Built(model, preprocessing, tuple(entry.meta["categories"]), weights=repr(entry))


def from_factory(name: str, num_classes: int | None) -> Built:
    """The model that ``package.module:factory`` returns; the current folder is searched for the module too.

    The factory is called without arguments, or with ``num_classes=`` when that is given. Weights are what the
    factory sets. Preprocessing is that of ImageNet at `FACTORY_SIZE` pixels.

    Raises:
        ModelLoadError: the module or the factory is missing or fails, or does not return a module.
    """
    with _current_folder_first():
        factory = _factory(name)
        try:
            model = factory() if num_classes is None else factory(num_classes=num_classes)
        except (Exception, SystemExit) as error:  # foreign code may raise anything
            raise ModelLoadError(f"{name} failed ({_shown(error)}); correct the factory") from error
    if not isinstance(model, nn.Module):
        raise ModelLoadError(f"{name} returned {type(model).__name__}, not a torch.nn.Module; return the model")
    preprocessing = Preprocessing.square(FACTORY_SIZE, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return Built(model, preprocessing, weights="as the factory sets them")


def _factory(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ModelLoadError(f"{name!r} names no factory; write package.module:factory")
    if "/" in module_name or module_name.endswith(".py"):
        path = Path(module_name)
        folder = "" if path.parent == Path() else f" in the folder {path.parent}"
        raise ModelLoadError(f"{name!r} names a file; write the module, {path.stem}:{attribute}{folder}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ModelLoadError(
            f"no module {error.name!r} for {name}; install it, or run in the folder that holds it"
        ) from error
    except (Exception, SystemExit) as error:  # foreign code may raise anything
        raise ModelLoadError(f"importing {module_name} failed ({_shown(error)}); correct the module") from error
    try:
        factory = attrgetter(attribute)(module)
    except AttributeError as error:
        close = difflib.get_close_matches(attribute, dir(module), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "check the name"
        raise ModelLoadError(f"module {module_name} has no {attribute!r}; {hint}") from error
    if not callable(factory) or isinstance(factory, nn.Module):
        raise ModelLoadError(f"{name} is not a function that builds a model; name a function or a class")
    return factory


@contextmanager
def _current_folder_first() -> Iterator[None]:
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _quiet(build: Callable[..., nn.Module], *args: Any, **options: Any) -> nn.Module:
    """Call without the warnings about weight initialisation, which is overwritten or refused anyway."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return build(*args, **options)


def _shown(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
