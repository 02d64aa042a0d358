"""Every method on one model: what is explained, what is refused, and what does not hold."""

from __future__ import annotations

import os
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import cache
from typing import Any

import torch
from coverage_report.checks import CLASS_LIMIT, FORWARD_LIMIT, relative
from coverage_report.networks import build, image_size, parameters, random_images
from torch import Tensor, nn

import agf_fx
from agf_fx.errors import AgfFxError
from agf_fx.methods import REGISTRY
from agf_fx.methods.patterns import PatternOptions, Patterns
from agf_fx.runtime.explanation import Explanation

Row = dict[str, Any]

ROUNDING = 10  # how much further than the last digit of its pixels the company of others may move a map, or logits
SINGLE = 250_000_000  # parameters from which a model is explained in float32, for the memory's sake
_LIMITS = {torch.float64: (FORWARD_LIMIT, 1e-8), torch.float32: (1e-4, 1e-2)}  # of logits, of maps
_FEW = {"steps": 2, "samples": 2, "window": 32, "stride": 16, "relu": False}  # many only to be precise; nothing cut off
_MORE = {"rise": {"samples": 8}, "meaningful-perturbation": {"steps": 8}}  # what fewer say nothing with


def explained(name: str, size: int, methods: Iterable[str]) -> Row:
    """What each method makes of a model, by name."""
    os.environ["AGF_FX_CACHE"] = "memory"  # a model is captured once for all methods
    dtype = torch.float32 if parameters(name) > SINGLE else torch.float64
    size = image_size(name, size)
    model, images = build(name, size, dtype), random_images(2, size, dtype, seed=2)
    patterns = cache(lambda: agf_fx.fit_patterns(model, [images]))
    return {
        "size": size,
        "dtype": str(dtype),
        "methods": {method: by(model, images, method, patterns) for method in methods},
    }


def by(model: nn.Module, images: Tensor, method: str, patterns: Callable[[], Patterns]) -> Row:
    """What a method makes of two images and two targets each: ``failures`` in words, or why it is ``refused``."""
    began = time.process_time()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logits, moved = model(images), model(images * (1 + _last_digit(images)))
        target = logits.topk(2).indices
        try:
            explainer = agf_fx.compile(model, method=method, options=options(method, patterns))
            result = explainer.explain(images, target)
            one = images[:1]
            alone, nudged = (explainer.explain(image, target[:1, 1:]) for image in (one, one * (1 + _last_digit(one))))
            row = {
                "failures": failures(result, alone, nudged, logits, moved, REGISTRY[method].properties.class_specific)
            }
        except AgfFxError as error:
            row = {"failures": [], "refused": f"{type(error).__name__}: {error}"}
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            row = {"failures": [f"{type(error).__name__}: {error} ({place.name}, line {place.lineno})"]}
    return row | {"took_s": time.process_time() - began}


def options(method: str, patterns: Callable[[], Patterns]) -> Row:
    """What a method is given: few points, nothing cut off, patterns of a few images."""
    known = REGISTRY[method].options
    few = _FEW | _MORE.get(method, {})
    found = {field.name: few[field.name] for field in fields(known) if field.name in few}
    return {"patterns": patterns()} if issubclass(known, PatternOptions) else found


def _last_digit(images: Tensor) -> float:
    return torch.finfo(images.dtype).eps


def failures(
    result: Explanation,
    alone: Explanation,
    nudged: Explanation,
    logits: Tensor,
    moved: Tensor,
    class_specific: bool,
) -> list[str]:
    """What does not hold, in words.

    Args:
        result: of two images and two targets each.
        alone: of the first image and its second target.
        nudged: the same, of an image that differs in the last digit: how far rounding moves the map.
        logits: the model's.
        moved: the model's for images that differ in the last digit: how far rounding moves the logits.
        class_specific: whether the method is made to tell classes apart.
    """
    forward_limit, limit = _LIMITS[logits.dtype]
    maps, found = result.maps, []
    apart, rounded = relative(alone.maps[0], maps[:1, 1]), relative(nudged.maps[0], alone.maps[0])
    forward_limit = max(forward_limit, ROUNDING * relative(moved[None], logits[None]))
    if not relative(result.logits[None], logits[None]) <= forward_limit:
        found.append("logits are not the model's")
    if not bool(maps.isfinite().all()):
        return [*found, "maps are not finite"]
    constant = int((maps.amax((2, 3)) == maps.amin((2, 3))).sum())
    if constant:
        found.append(f"{constant} of {len(maps.flatten(0, 1))} maps are constant")
    elif not apart <= max(limit, ROUNDING * rounded):
        found.append(f"an image alone has another map, by {apart:.1e}")
    elif class_specific and not relative(maps[:, 0], maps[:, 1], smallest=True) >= CLASS_LIMIT:
        found.append("maps of two classes are the same")
    return found
