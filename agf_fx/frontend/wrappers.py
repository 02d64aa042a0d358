"""Models inside other modules: what can be unwrapped exactly is, and the rest is refused in one line."""

from __future__ import annotations

from torch import jit, nn
from torch.nn.parameter import is_lazy

from agf_fx.errors import CaptureError

# Class name of a wrapper -> the attribute that holds the model, whose weights and results are the wrapper's own.
_INSIDE = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}


_QUANTISED = ("torch.ao.nn.quantized", "torch.nn.quantized", "torch.ao.nn.intrinsic")
_FLOATING = ("FloatFunctional", "FXFloatFunctional")  # sums and products that wait to be quantised
_FUSED = "torch.ao.nn.intrinsic.modules.fused"  # sequences of floating-point layers


def inside(module: nn.Module) -> str | None:
    """The attribute of a wrapper that holds the model inside; None where ``module`` is no wrapper."""
    return next((_INSIDE[base.__name__] for base in type(module).__mro__ if base.__name__ in _INSIDE), None)


def unwrapped(model: nn.Module) -> nn.Module:
    """The classifier itself: ``torch.compile``, DataParallel and DistributedDataParallel taken off.

    Raises:
        CaptureError: the model is no module, or one that cannot be captured; the message says what to give instead.
    """
    if not isinstance(model, nn.Module):
        raise CaptureError(f"the model is a {type(model).__name__}; give a torch.nn.Module.")
    while inside(model):
        model = getattr(model, inside(model))
    for path, module in model.named_modules():
        where = f"module {path!r} of the model" if path else "the model"
        if isinstance(module, jit.ScriptModule):
            raise CaptureError(f"{where} is already TorchScript; give the torch.nn.Module it was made from.")
        if any(base.__name__ == "FullyShardedDataParallel" for base in type(module).__mro__):
            raise CaptureError(
                f"{where} holds shards of its weights; load the full state_dict into an unsharded model."
            )
        kind = type(module)
        floating = kind.__name__ in _FLOATING or kind.__module__ == _FUSED
        if kind.__module__.startswith(_QUANTISED) and not floating:
            raise CaptureError(
                f"{where} is quantised ({kind.__name__}); give the floating-point model it was made from."
            )
    for path, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise CaptureError(
                f"{path} has no shape yet (a lazy module); call the model once on a batch, then compile."
            )
        if tensor.is_meta:
            raise CaptureError(
                f"{path} is on the meta device and has no values; call model.to_empty(device=...) and load the weights."
            )
    return model


class Shell(nn.Module):
    """A wrapper in a copy of a model, replaced: it only calls the module inside, which keeps its dotted path."""

    def __init__(self, attribute: str, module: nn.Module) -> None:
        super().__init__()
        self.attribute = attribute
        self.add_module(attribute, module)

    def forward(self, *args: object, **kwargs: object) -> object:
        """What the module inside returns."""
        return self._modules[self.attribute](*args, **kwargs)
