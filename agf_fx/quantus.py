"""Explanations for Quantus, as its metrics call them.

    from agf_fx.quantus import explain
    quantus.PixelFlipping()(model=model, x_batch=x, y_batch=y, explain_func=explain,
                            explain_func_kwargs={"method": "lrp-epsilon"})

Quantus itself is not imported: it is whoever calls.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import nn

from agf_fx.errors import InputError
from agf_fx.runtime.explainer import Explainer, compile

_KEPT = 4  # explainers of the models, methods and options that were asked for last
_EXPLAINERS: OrderedDict[tuple[int, str], tuple[nn.Module, Explainer]] = OrderedDict()


def explain(
    model: nn.Module,
    inputs: np.ndarray,
    targets: np.ndarray,
    device: str | torch.device | None = None,
    method: str = "agf",
    **options: Any,
) -> np.ndarray:
    """Explain a batch: the signature of an ``explain_func``.

    A model is captured once, and so are its copies with other weights, such as those that `MPRT` randomises: they get
    maps of their own.

    Args:
        model: takes images, and returns logits (N, classes). It is moved to ``device``, as Quantus' own functions do.
        inputs: (N, C, H, W).
        targets: (N,) classes.
        device: where to run; None for where the model is.
        method: a name, see `agf_fx.methods`.
        options: of the method.

    Returns:
        (N, 1, H, W), in the dtype of the inputs.

    Raises:
        InputError: inputs or targets are not of that form.
        OptionsError: an unknown method or option.
        CaptureError: the model cannot be captured.
    """
    inputs, targets = np.asarray(inputs), np.asarray(targets)
    if not len(inputs) or targets.reshape(-1).shape != (len(inputs),):
        raise InputError(f"{targets.shape} targets were given for inputs {inputs.shape}; give one class for each.")
    if device is not None:
        model = model.to(device)
    weight = next((value for value in model.parameters() if value.is_floating_point()), torch.zeros(()))
    images = torch.as_tensor(np.ascontiguousarray(inputs)).to(weight)
    explainer = _explainer(model, method, options)
    maps = explainer(images, torch.as_tensor(targets.reshape(-1).astype(np.int64)).to(images.device))
    return maps.unsqueeze(1).detach().cpu().numpy().astype(inputs.dtype)


def _explainer(model: nn.Module, method: str, options: dict[str, Any]) -> Explainer:
    """That of an earlier call, if it is not long ago; it holds its model, so that no other has its identity."""
    key = id(model), repr((method, [(name, _told(value)) for name, value in sorted(options.items())]))
    known = _EXPLAINERS.pop(key, None) or (model, compile(model, method=method, options=options))
    _EXPLAINERS[key] = known
    while len(_EXPLAINERS) > _KEPT:
        _EXPLAINERS.popitem(last=False)
    return known[1]


def _told(value: Any) -> object:
    """An option in words; of a tensor or an array, every entry counts."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return "tensor", str(value.dtype), tuple(value.shape), value.tolist()
    return ("array", str(value.dtype), value.shape, value.tolist()) if isinstance(value, np.ndarray) else value
