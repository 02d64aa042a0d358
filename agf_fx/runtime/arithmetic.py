"""What a processor can compute by itself."""

from __future__ import annotations

import torch

from agf_fx.notices import warn


class EmulatedArithmeticWarning(UserWarning):
    """The processor has no arithmetic in a precision, and emulates it slowly."""


def warn_of_emulation(precision: torch.dtype | None, device: torch.device) -> None:
    """Warn if products in ``precision`` are emulated on ``device``, which costs many times what they save."""
    if device.type == "cpu" and precision is not None and not _has_arithmetic(precision):
        name = str(precision).removeprefix("torch.")
        warn(
            f'this processor has no {name} arithmetic: precision="{name}" is emulated here, and takes many times as '
            'long as precision="float32". It is for processors with AVX-512 or AMX, and for GPUs.',
            EmulatedArithmeticWarning,
        )


def _has_arithmetic(precision: torch.dtype) -> bool:
    """What oneDNN, which computes the products, says of this processor."""
    name = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}[precision]
    known = getattr(torch.ops.mkldnn, name, None)
    return known is None or bool(known())
