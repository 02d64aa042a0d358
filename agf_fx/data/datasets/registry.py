"""Datasets by the name of their kind."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable
from types import MappingProxyType
from typing import Any

from agf_fx.data.datasets.bundled import DigitScenes, Photographs
from agf_fx.data.datasets.coco import COCO
from agf_fx.data.datasets.example import Dataset
from agf_fx.data.datasets.folder import Folder
from agf_fx.data.datasets.imagenet import ImageNet
from agf_fx.data.datasets.imagenet_segmentation import ImageNetSegmentation
from agf_fx.data.datasets.table import Table
from agf_fx.data.datasets.voc import VOC2012
from agf_fx.errors import OptionsError

KINDS = MappingProxyType(
    {
        "imagenet": ImageNet,
        "imagenet-segmentation": ImageNetSegmentation,
        "voc2012": VOC2012,
        "coco": COCO,
        "folder": Folder,
        "table": Table,
        "digits": DigitScenes,
        "photographs": Photographs,
    }
)
"""Every kind of dataset, with its class, called with a path and options."""

_BUNDLED = ("digits", "photographs")  # which need no path


def open_dataset(kind: str, path: str | os.PathLike[str], **options: Any) -> Dataset:
    """Open a dataset: look at its layout, lists and labels, but at no image.

    Args:
        kind: one of `KINDS`.
        path: the file or folder that the kind expects.
        **options: those of the kind's class.

    Raises:
        OptionsError: there is no such kind, or it has no such option.
        DatasetError: files are missing, damaged or laid out in another way.
        MissingDependencyError: a package that the kind needs is not installed.
    """
    _usual(kind, options)
    return KINDS[kind](path, **options)


def parse_dataset(text: str) -> tuple[str, str]:
    """Kind and path of ``kind:path``, as a command line has it: ``voc2012:/data/VOCdevkit``; or ``photographs`` alone.

    Raises:
        OptionsError: it is not of that form, or there is no such kind.
    """
    kind, _, path = text.partition(":")
    if kind not in KINDS or not (path or kind in _BUNDLED):
        raise OptionsError(f"{text!r} is no dataset; write kind:path, with one of {', '.join(KINDS)}")
    return kind, os.path.expanduser(path)  # a shell expands ~ at the beginning of a word only


def parse_options(kind: str, words: Iterable[str]) -> dict[str, str | int]:
    """Options of a kind for `open_dataset`, from words as a command line has them: ``split=train``, ``seed=3``.

    Raises:
        OptionsError: a word is not of that form, there is no such kind or option, or one has two values or is no
            number.
    """
    given: dict[str, str | int] = {}
    for word in words:
        name, _, value = word.partition("=")
        if not name or not value:
            raise OptionsError(f"{word!r} is no option of a dataset; write NAME=VALUE, such as split=train")
        numeric = isinstance(_usual(kind, [name])[name], int)
        if numeric and not (value.isascii() and value.isdecimal()):
            raise OptionsError(f"{name} is {value!r}; give a whole number, 0 or more")
        parsed = int(value) if numeric else os.path.expanduser(value)
        if given.setdefault(name, parsed) != parsed:
            raise OptionsError(f"{name} is given as {given[name]} and as {parsed}; choose one")
    return given


def _usual(kind: str, names: Iterable[str]) -> dict[str, Any]:
    """What options of a kind are where they are not given.

    Raises:
        OptionsError: there is no such kind, or it has no such option.
    """
    if kind not in KINDS:
        raise OptionsError(f"unknown kind of dataset {kind!r}; choose from {', '.join(KINDS)}")
    usual = {name: each.default for name, each in inspect.signature(KINDS[kind]).parameters.items() if name != "path"}
    if unknown := [name for name in names if name not in usual]:
        advice = f"it has {', '.join(usual)}" if usual else "it has none"
        raise OptionsError(f"the kind {kind} has no option {unknown[0]!r}; {advice}")
    return usual
