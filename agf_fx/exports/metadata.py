"""What an exported file says of itself: JSON, written and read as data."""

from __future__ import annotations

import dataclasses
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from agf_fx.errors import OptionsError
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.version import own_version

MEMBER = "agf_fx.json"  # the name of the metadata in archives, and its key elsewhere
KIND, LAYOUT = "agf-fx explainer", 1


@dataclass(frozen=True)
class Description:
    """What an exported file says of itself.

    Attributes:
        format: name of the file format.
        model: class name of the model.
        method: name of the method.
        options: its options, and the precision.
        fingerprint: see `agf_fx.Explainer.fingerprint`.
        image_shape: (C, H, W).
        dtype: of images, maps and logits.
        device: kind of device that it runs on.
        classes: number of classes.
        positions: shape over which the logits spread; () for a classifier.
        class_names: one for each class; None if not known.
        preprocessing: how a picture becomes an input, as plain values; None if not known.
        versions: of agf_fx, torch and python that wrote it.
    """

    format: str
    model: str
    method: str
    options: Mapping[str, Any]
    fingerprint: str
    image_shape: tuple[int, ...]
    dtype: torch.dtype
    device: str
    classes: int
    positions: tuple[int, ...]
    class_names: tuple[str, ...] | None
    preprocessing: Mapping[str, Any] | None
    versions: Mapping[str, str]


def described(content: Mapping[str, Any]) -> Description:
    """A description from JSON.

    Raises:
        ValueError, KeyError, TypeError: it is none that this version writes.
    """
    if not isinstance(content, dict) or content["kind"] != KIND:
        raise ValueError(f"it is a {content['kind']!r}" if isinstance(content, dict) else "it is no object")
    if content["layout"] != LAYOUT:
        raise ValueError(f"its layout is {content['layout']!r}, and this version of agf-fx knows {LAYOUT}")
    dtype = getattr(torch, _text(content, "dtype"), None)
    if not isinstance(dtype, torch.dtype) or not re.fullmatch("[0-9a-f]{64}", _text(content, "fingerprint")):
        raise ValueError("a dtype or a fingerprint is none")
    names, preprocessing, classes = content["class_names"], content["preprocessing"], content["classes"]
    _require(_count(classes), "classes")
    _require(names is None or (isinstance(names, list) and len(names) == classes), "class_names")
    _require(names is None or all(isinstance(name, str) for name in names), "class_names")
    _require(preprocessing is None or isinstance(preprocessing, dict), "preprocessing")
    _require(isinstance(content["options"], dict), "options")
    versions = content["versions"]
    _require(isinstance(versions, dict) and all(isinstance(value, str) for value in versions.values()), "versions")
    return Description(
        **{name: _text(content, name) for name in ("format", "model", "method", "fingerprint", "device")},
        classes=classes,
        options=content["options"],
        image_shape=_sizes(content, "image_shape", fewest=1),
        dtype=dtype,
        positions=_sizes(content, "positions", fewest=0),
        class_names=None if names is None else tuple(names),
        preprocessing=preprocessing,
        versions=versions,
    )


def _text(content: Mapping[str, Any], name: str) -> str:
    _require(isinstance(content[name], str) and len(content[name]) <= 1000, name)
    return content[name]


def _sizes(content: Mapping[str, Any], name: str, fewest: int) -> tuple[int, ...]:
    sizes = content[name]
    _require(isinstance(sizes, list) and fewest <= len(sizes) <= 8 and all(map(_count, sizes)), name)
    return tuple(sizes)


def _count(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**31


def _require(holds: bool, name: str) -> None:
    if not holds:
        raise ValueError(f"{name} is none that agf-fx writes")


def metadata(
    canonical: CanonicalGraph,
    *,
    format: str,
    method: str,
    options: Mapping[str, Any],
    fingerprint: str,
    dtype: torch.dtype,
    device: torch.device,
    class_names: Sequence[str] | None = None,
    preprocessing: Any = None,
) -> dict[str, Any]:
    """The description of an exported explainer.

    Args:
        canonical: the captured model.
        format: name of the file format.
        method: name of the method.
        options: its options, and those of execution.
        fingerprint: of architecture, method and options.
        dtype: of images, maps and logits.
        device: where the explainer runs.
        class_names: one for each class; None if they are not known.
        preprocessing: how a picture becomes an input, a dataclass or a mapping of plain values; None if not known.

    Raises:
        OptionsError: another number of class names than classes, or a preprocessing of another kind.
    """
    return {
        "kind": KIND,
        "layout": LAYOUT,
        "format": format,
        "model": canonical.name,
        "method": method,
        "options": dict(options),
        "fingerprint": fingerprint,
        "image_shape": list(canonical.image_type.sample_shape),
        "dtype": str(dtype).removeprefix("torch."),
        "device": device.type,
        "classes": canonical.num_classes,
        "positions": list(canonical.positions),
        "class_names": _class_names(class_names, canonical.num_classes),
        "preprocessing": _plain(preprocessing),
        "versions": {"agf_fx": own_version(), "torch": torch.__version__, "python": platform.python_version()},
    }


def _class_names(names: Sequence[str] | None, classes: int) -> list[str] | None:
    if names is None:
        return None
    if len(names) != classes:
        raise OptionsError(f"{len(names)} class names for {classes} classes; give one for each class.")
    return [str(name) for name in names]


def _plain(preprocessing: Any) -> dict[str, Any] | None:
    if preprocessing is None:
        return None
    if dataclasses.is_dataclass(preprocessing) and not isinstance(preprocessing, type):
        return dataclasses.asdict(preprocessing)
    if isinstance(preprocessing, Mapping):
        return dict(preprocessing)
    raise OptionsError(
        f"preprocessing is a {type(preprocessing).__name__}; give a Preprocessing, or a dictionary of plain values."
    )
