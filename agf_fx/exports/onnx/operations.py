"""Every operation that has an ONNX form: ATen overload -> function of the result's type and the call's arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agf_fx.exports.onnx.arithmetic import ARITHMETIC
from agf_fx.exports.onnx.elementwise import ELEMENTWISE
from agf_fx.exports.onnx.indexing import INDEXING
from agf_fx.exports.onnx.layers import LAYERS
from agf_fx.exports.onnx.movement import MOVEMENT
from agf_fx.exports.onnx.pooling import POOLING
from agf_fx.exports.onnx.reductions import REDUCTIONS

OPERATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    **ARITHMETIC,
    **ELEMENTWISE,
    **INDEXING,
    **LAYERS,
    **MOVEMENT,
    **POOLING,
    **REDUCTIONS,
}
