"""Single operations in onnxruntime and in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from agf_fx.ir.vocabulary import BUILT_IN

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx_models import around, compare, run, session, traced

from agf_fx.exports.onnx import model as onnx_files
from agf_fx.exports.onnx import windows
from agf_fx.exports.onnx.operations import OPERATIONS

aten = torch.ops.aten
torch.set_num_threads(1)

# Functions of single entries, and other calls

FUNCTIONS = (
    *("abs", "neg", "sign", "relu", "exp", "sigmoid", "tanh", "erf", "sin", "cos", "atan", "sinh", "cosh", "asinh"),
    *("floor", "ceil", "round", "trunc", "expm1", "exp2", "square", "silu", "mish", "hardsigmoid", "hardswish"),
    *("gelu", "elu", "softplus", "leaky_relu", "hardtanh", "zeros_like", "ones_like", "reciprocal", "empty_like"),
    *("erfc", "sinc", "signbit"),
    *("logical_not", "contiguous", "clone", "alias", "detach", "_to_copy", "zero"),
)
OF_POSITIVE = ("log", "log1p", "sqrt", "rsqrt", "acosh", "log2", "log10", "special_entr")
OF_SMALL = ("asin", "acos", "atanh", "tan", "erfinv")


@pytest.mark.parametrize("name", FUNCTIONS + OF_POSITIVE + OF_SMALL)
def test_functions_of_entries(name):
    low, high = (1.1, 7) if name in OF_POSITIVE else (-0.9, 0.9) if name in OF_SMALL else (-7.3, 7.1)
    function = getattr(aten, name).default
    compare(
        function if name != "empty_like" else lambda x: aten.fill.Scalar(aten.empty_like.default(x), 3.0),
        around(low, high),
    )


@pytest.mark.parametrize("name", ["expm1", "log1p", "elu", "softplus"])
def test_functions_keep_the_digits_of_small_numbers(name):
    x = around(-1, 1) * 1e-5 - (15.0 if name == "softplus" else 0)
    compare(getattr(aten, name).default, x, rtol=2e-6, atol=0)


CALLS: dict[str, Callable[[Tensor], Any]] = {
    "gelu, by tanh": lambda x: aten.gelu.default(x, approximate="tanh"),
    "gelu_backward": lambda x: aten.gelu_backward.default(x + 1, x),
    "gelu_backward, by tanh": lambda x: aten.gelu_backward.default(x + 1, x, approximate="tanh"),
    "silu_backward": lambda x: aten.silu_backward.default(x + 1, x),
    "mish_backward": lambda x: aten.mish_backward.default(x + 1, x),
    "sigmoid_backward": lambda x: aten.sigmoid_backward.default(x + 1, x),
    "tanh_backward": lambda x: aten.tanh_backward.default(x + 1, x),
    "threshold_backward": lambda x: aten.threshold_backward.default(x + 1, x, 0.5),
    "hardsigmoid_backward": lambda x: aten.hardsigmoid_backward.default(x + 10, x),
    "hardswish_backward": lambda x: aten.hardswish_backward.default(x + 10, x),
    "hardtanh_backward": lambda x: aten.hardtanh_backward.default(x + 10, x, -1.5, 2.0),
    "softplus_backward": lambda x: aten.softplus_backward.default(x + 1, x, 2.0, 5.0),
    "softplus": lambda x: aten.softplus.default(x, 2.0, 5.0),
    "elu": lambda x: aten.elu.default(x, 0.7, 1.3, 0.5),
    "elu_backward": lambda x: aten.elu_backward.default(x + 1, 0.7, 1.3, 0.5, False, x),
    "elu_backward of the result": lambda x: aten.elu_backward.default(x + 1, 0.7, 1.3, 0.5, True, x),
    "leaky_relu_backward": lambda x: aten.leaky_relu_backward.default(x + 1, x, 0.2, False),
    "prelu": lambda x: aten.prelu.default(x, aten.abs.default(aten.select.int(aten.mean.dim(x, [2, 3]), 0, 1))),
    "clamp": lambda x: aten.clamp.default(x, -1.0, 2.0),
    "clamp from below": lambda x: aten.clamp.default(x, -1.0),
    "clamp_min, clamp_max": lambda x: aten.clamp_max.default(aten.clamp_min.default(x, -1), 2),
    "pow": lambda x: aten.pow.Tensor_Scalar(aten.abs.default(x), 2.5),
    "pow, of two": lambda x: aten.pow.Tensor_Tensor(aten.abs.default(x), x),
    "square": lambda x: aten.pow.Tensor_Scalar(x, 2),
    "sums": lambda x: aten.rsub.Scalar(aten.sub.Scalar(aten.add.Scalar(aten.rsub.Tensor(x, x * 3), 2), 0.5), 1.5),
    "sums with a factor": lambda x: aten.sub.Tensor(aten.add.Tensor(x, x + 1, alpha=3), x * 2, alpha=0.5),
    "products": lambda x: aten.div.Scalar(aten.mul.Scalar(aten.div.Tensor(x, aten.exp.default(x)), 3), 7),
    "divisions with rounding": lambda x: (
        aten.div.Tensor_mode(x, x * 0.3 + 20, rounding_mode="floor")
        + aten.div.Scalar_mode(x, 0.7, rounding_mode="trunc")
    ),
    "divisions of integers": lambda x: (
        aten.div.Scalar_mode(aten.to.dtype(x, torch.int64), 3, rounding_mode="floor")
        + aten.div.Scalar_mode(aten.to.dtype(x, torch.int64), 3, rounding_mode="trunc") * 100
    ),
    "logit": lambda x: aten.logit.default(aten.sigmoid.default(x)) + aten.logit.default(aten.sigmoid.default(x), 0.2),
    "logit_backward": lambda x: (
        aten.logit_backward.default(x + 1, x * 0.06 + 0.5) + aten.logit_backward.default(x + 1, x * 0.06 + 0.5, 0.2)
    ),
    "special_entr": lambda x: aten.special_entr.default(aten.relu.default(x)),
    "round to decimals": lambda x: aten.round.decimals(x, decimals=1) + aten.round.decimals(x, decimals=-1),
    "hypot": lambda x: aten.hypot.default(aten.relu.default(x), aten.relu.default(x - 2) * 3),
    "hypot of large numbers": lambda x: aten.hypot.default(x * 1e30, x * 1e25),
    "atan2": lambda x: aten.atan2.default(
        aten.round.default(x), aten.round.default(aten.roll.default(x, [1], [3]) + 2)
    ),
    "logaddexp": lambda x: aten.logaddexp.default(x * 30, aten.relu.default(x * 30)) + aten.logaddexp.default(x, -x),
    "logsumexp": lambda x: aten.logsumexp.default(x * 30, [1, 3], True) + aten.logsumexp.default(x, [-1], True),
    "heaviside": lambda x: aten.heaviside.default(aten.round.default(x), x * 0.5),
    "fmod": lambda x: aten.fmod.Scalar(x, 3.0) + aten.fmod.Tensor(x, x * 0.1 - 3),
    "floor_divide": lambda x: aten.floor_divide.default(x, x * 0.1 - 3),
    "remainder": lambda x: aten.remainder.Scalar(x, 3.0) + aten.remainder.Tensor(x, x * 0.1 - 3),
    "remainder of integers": lambda x: aten.remainder.Scalar(aten.to.dtype(x, torch.int64), 3),
    "larger": lambda x: aten.maximum.default(x, -x) + aten.max.other(x, x * -2) * 10,
    "smaller": lambda x: aten.minimum.default(x, -x) + aten.min.other(x, x * -2) * 10,
    "comparisons": lambda x: sum(
        aten.mul.Scalar(getattr(aten, name).Scalar(aten.round.default(x), 2.0), 2.0**i)
        + aten.mul.Scalar(
            getattr(aten, name).Tensor(aten.round.default(x), aten.neg.default(aten.round.default(x))), 2.0 ** (i + 6)
        )
        for i, name in enumerate(("eq", "ne", "lt", "le", "gt", "ge"))
    ),
    "comparison of an integer with a fraction": lambda x: aten.lt.Scalar(aten.to.dtype(x, torch.int64), 2.5),
    "masks": lambda x: aten.where.self(
        aten.logical_or.default(aten.logical_and.default(x > 1, x < 3), aten.logical_not.default(x > -4)), x, x * 10
    ),
    "products of masks": lambda x: (x > 1) * (x < 3) + (x > 5) * (x > 6),
    "masked_fill": lambda x: aten.masked_fill.Scalar(x, x > 1, -3.0),
    "where, of a mask and a number": lambda x: aten.where.self(x > 0, x > 3, x),
    # Movement.
    "reshape": lambda x: aten.reshape.default(x, [aten.sym_size.int(x, 0), 3, -1]),
    "reshape to merge": lambda x: aten.view.default(x, [-1, 4]),
    "reshape by sizes": lambda x: aten._unsafe_view.default(x, [aten.sym_size.int(x, 0), 24]),
    "flatten": lambda x: aten.flatten.using_ints(aten.expand.default(x, [3, -1, -1, -1, -1]), 1, 2),
    "flatten all": lambda x: aten.flatten.using_ints(x, 0, -1),
    "flatten behind free sizes": lambda x: aten.flatten.using_ints(
        aten.expand.default(x, [aten.sym_size.int(x, 0), -1, -1, -1, -1]), 2, 3
    ),
    "flatten between free sizes": lambda x: aten.flatten.using_ints(
        aten.expand.default(
            aten.unsqueeze.default(aten.unsqueeze.default(aten.flatten.using_ints(x, 1, -1), 2), 3),
            [-1, -1, 2, aten.sym_size.int(x, 0)],
        ),
        1,
        2,
    ),
    "permute": lambda x: aten.permute.default(aten.transpose.int(x, 1, -1), [0, -1, 2, 1]),
    "t": lambda x: aten.t.default(aten.flatten.using_ints(x, 1, -1)),
    "squeeze": lambda x: aten.squeeze.dims(
        aten.squeeze.dim(aten.unsqueeze.default(aten.unsqueeze.default(x, 1), -1), 1), [-1, 1]
    ),
    "slice": lambda x: aten.slice.Tensor(
        aten.slice.Tensor(aten.slice.Tensor(x, 3, 1, None, 2), 2, -2, 100), 0, None, -1
    ),
    "narrow": lambda x: aten.narrow.default(aten.narrow.default(x, -1, -2, 2), 2, 1, 2),
    "select": lambda x: aten.select.int(aten.select.int(x, -1, -2), 1, 1),
    "chunk": lambda x: aten.chunk.default(x, 3, -1)[1],
    "chunk of images": lambda x: aten.chunk.default(aten.cat.default([x, x * 2]), 2)[1],
    "chunk in one": lambda x: aten.chunk.default(x, 1, 1)[0],
    "cat": lambda x: aten.cat.default([x, aten.to.dtype(x > 0, torch.int64)], -2),
    "pad": lambda x: aten.constant_pad_nd.default(x, [1, -2, 0, 3], 2.5),
    "pad, taking away": lambda x: aten.constant_pad_nd.default(x, [-1, 0, 0, -1]),
    "roll": lambda x: aten.roll.default(x, [1, -5, 4], [3, 2, 3]),
    "roll flat": lambda x: aten.roll.default(aten.select.int(x, 0, 0), [7]),
    "full": lambda x: aten.full_like.default(x, 2.5) + aten.new_full.default(x, [3, 1], 4.0),
    "new": lambda x: aten.new_ones.default(x, [aten.sym_size.int(x, 0), 2]) + aten.new_zeros.default(x, [1, 2]),
    "new, empty": lambda x: aten.fill.Scalar(aten.new_empty.default(x, [2, 2]), 1.5),
    # Reading and writing by index.
    "sort": lambda x: aten.sort.stable(
        aten.flatten.using_ints(aten.floor.default(x), 1, -1), stable=True, dim=1, descending=True
    )[1],
    "sort, ascending": lambda x: aten.sort.stable(aten.round.default(x), stable=True, dim=-2)[1],
    "gather": lambda x: aten.gather.default(
        x, -1, aten.to.dtype(aten.narrow.default(aten.abs.default(x) * 0.5, 3, 0, 2), torch.int64)
    ),
    "scatter": lambda x: aten.scatter.value(
        x, -1, aten.to.dtype(aten.narrow.default(aten.abs.default(x) * 0.5, 3, 0, 1), torch.int64), 1.0
    ),
    "index_select": lambda x: aten.index_select.default(
        x,
        -2,
        aten.to.dtype(
            aten.select.int(aten.flatten.using_ints(aten.abs.default(x) * 0.3, 0, -1), 0, 0)
            + aten.new_zeros.default(x, [2]),
            torch.int64,
        ),
    ),
    "index_add": lambda x: aten.index_add.default(
        x, -1, aten.to.dtype(aten.new_ones.default(x, [4]) * 2, torch.int64), x * 3, alpha=2
    ),
    # Reductions.
    "sum": lambda x: aten.sum.dim_IntList(x, [1, -1], True),
    "sum of a mask": lambda x: aten.sum.dim_IntList(x > 0, [1, -1]),
    "sum of all": lambda x: aten.sum.default(x),
    "mean": lambda x: aten.mean.dim(x, [2, 3], True) + aten.mean.default(x),
    "extremes": lambda x: aten.amax.default(x, [2], True) + aten.amin.default(x, [1, 2, 3], True) * 100,
    "norms": lambda x: aten.linalg_vector_norm.default(x, 2, [2, 3]) + aten.linalg_vector_norm.default(x, 1, [3, 2]),
    "largest": lambda x: aten.linalg_vector_norm.default(x, float("inf"), [1], True),
    "softmax": lambda x: aten.softmax.int(x, 2) + aten.log_softmax.int(x, -1),
    "softmax, as autograd spells it": lambda x: (
        aten._softmax.default(x, 2, False) + aten._log_softmax.default(x, 1, False)
    ),
    # Layers; weights are made of the images here.
    "matmul": lambda x: aten.matmul.default(x, aten.transpose.int(x, -2, -1)),
    "bmm": lambda x: aten.bmm.default(
        aten.flatten.using_ints(x, 0, 1), aten.transpose.int(aten.flatten.using_ints(x, 0, 1), 1, 2)
    ),
    "mm": lambda x: aten.mm.default(
        aten.flatten.using_ints(x, 1, -1), aten.t.default(aten.flatten.using_ints(x, 1, -1))
    ),
    "linear": lambda x: aten.linear.default(x, aten.new_ones.default(x, [2, 4]), aten.new_full.default(x, [2], 3.0)),
    "linear of vectors": lambda x: aten.linear.default(
        aten.flatten.using_ints(x, 1, -1), aten.new_ones.default(x, [2, 24])
    ),
    "batch_norm": lambda x: aten.batch_norm.default(
        x, None, None, aten.new_full.default(x, [2], 0.5), aten.new_full.default(x, [2], 3.0), False, 0.1, 0.2, True
    ),
    "layer_norm": lambda x: aten.layer_norm.default(
        x, [3, 4], aten.select.int(aten.select.int(aten.exp.default(x), 0, 0), 0, 0), None, 0.3
    ),
    "group_norm": lambda x: aten.group_norm.default(
        aten.transpose.int(x, 1, 3), 2, aten.new_full.default(x, [4], 2.0), aten.new_ones.default(x, [4]), 0.3
    ),
    "rms_norm": lambda x: aten.rms_norm.default(x, [4]) + aten.rms_norm.default(x, [3, 4], None, 0.3),
    "conv1d": lambda x: aten.conv1d.default(
        aten.flatten.using_ints(x, 2, 3),
        aten.new_ones.default(x, [4, 1, 3]),
        aten.new_ones.default(x, [4]),
        [2],
        [1],
        [2],
        2,
    ),
    "conv2d": lambda x: aten.conv2d.default(x, aten.new_ones.default(x, [4, 1, 2, 3]), None, [2, 1], [1, 2], [1, 2], 2),
    "conv3d": lambda x: aten.conv3d.default(
        aten.unsqueeze.default(x, 1),
        aten.new_ones.default(x, [2, 1, 2, 2, 2]),
        None,
        [1, 2, 1],
        [1, 0, 1],
        [1, 1, 2],
        1,
    ),
    "conv_transpose1d": lambda x: aten.conv_transpose1d.default(
        aten.flatten.using_ints(x, 2, 3), aten.new_ones.default(x, [2, 3, 3]), None, [3], [1], [2], 1, [2]
    ),
    "conv_transpose2d": lambda x: aten.conv_transpose2d.input(
        x, aten.new_ones.default(x, [2, 2, 3, 2]), aten.new_ones.default(x, [4]), [3, 2], [1, 0], [2, 1], 2, [1, 2]
    ),
    "conv_transpose2d, wide padding": lambda x: aten.conv_transpose2d.input(
        x, aten.new_ones.default(x, [2, 2, 3, 2]), aten.new_ones.default(x, [2]), [2, 1], [1, 4], [2, 3], 1, [3, 5]
    ),
    "conv_transpose3d": lambda x: aten.conv_transpose3d.input(
        aten.unsqueeze.default(x, 1),
        aten.new_ones.default(x, [1, 2, 2, 2, 2]),
        None,
        [2, 1, 2],
        [0, 1, 0],
        [1, 0, 0],
        1,
        [1, 2, 1],
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(name):
    x = around(-7.3, 7.1)
    compare(CALLS[name], x[:, :, :, torch.tensor([2, 0, 3, 1])])


def test_arithmetic_of_sizes():
    def function(images: Any, target: Any) -> Any:
        count = aten.sym_size.int(images, 0)
        return aten.new_ones.default(images, [(count * 3 + 4 - 1) // 2, aten.sym_size.int(images, 2)]), target

    explainer = SimpleNamespace(
        module=fx.symbolic_trace(function), images=torch.zeros(3, 1, 2, 2), target=torch.zeros(3, 2).long()
    )
    found, _ = run(
        session(onnx_files.onnx_model(explainer, "{}").SerializeToString()), torch.zeros(5, 1, 2, 2), explainer.target
    )
    assert found.tolist() == torch.ones(9, 2).tolist()


# Poolings and resamplings


def whole(*shape: int) -> Tensor:
    """Few different numbers, so that windows have several largest entries."""
    return torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(0)).float()


def maximum(pool: Any, backward: Any, *options: Any) -> Callable[[Tensor], Tensor]:
    """Values, indices, and the gradient of entries that differ, in one tensor."""

    def function(x: Any) -> Any:
        values, indices = (pool(x, *options)[i] for i in range(2))
        g = values * 0.25 + aten.to.dtype(indices, torch.float32) + 1
        back = backward(g, x, *([] if "adaptive" in backward._schema.name else options), indices)
        parts = (values, aten.to.dtype(indices, torch.float32), back)
        return aten.cat.default([aten.flatten.using_ints(part, 1, -1) for part in parts], 1)

    return function


MAXIMA_2D = [
    ([3, 3], [2, 2], [1, 1], [1, 1], False),
    ([3, 2], [2, 3], [1, 0], [1, 1], True),
    ([2], [], [0], [1], True),
    ([2, 3], [1, 2], [0, 1], [3, 2], False),
    ([2, 2], [3, 3], [1, 1], [4, 3], True),  # reads farther beyond the end than its kernel has entries
]
MAXIMA_3D = [([2, 3, 2], [2, 1, 2], [1, 1, 0], [1, 1, 2], True), ([3], [2], [1], [1], False)]


@pytest.mark.parametrize("options", MAXIMA_2D, ids=str)
def test_max_pool2d(options):
    calls = aten.max_pool2d_with_indices.default, aten.max_pool2d_with_indices_backward.default
    compare(maximum(*calls, *options), whole(2, 3, 11, 8))


@pytest.mark.parametrize("options", MAXIMA_3D, ids=str)
def test_max_pool3d(options):
    calls = aten.max_pool3d_with_indices.default, aten.max_pool3d_with_indices_backward.default
    compare(maximum(*calls, *options), whole(2, 2, 7, 6, 8))


@pytest.mark.parametrize("size", [[3, 4], [5, 2], [11, 8], [4, 9]], ids=str)
def test_adaptive_max_pool2d(size):
    calls = aten.adaptive_max_pool2d.default, aten.adaptive_max_pool2d_backward.default
    compare(maximum(*calls, size), whole(2, 3, 11, 8))


@pytest.mark.parametrize("size", [[3, 4, 2], [2, 2, 4]], ids=str)
def test_adaptive_max_pool3d(size):
    calls = aten.adaptive_max_pool3d.default, aten.adaptive_max_pool3d_backward.default
    compare(maximum(*calls, size), whole(2, 2, 5, 6, 4))


@dataclass(frozen=True)
class Linear:
    """An average or a resampling, its adjoint, the function that gives its matrices, and a use of it."""

    operation: Any
    adjoint: Any
    matrices: Callable[..., list[Tensor]]
    sizes: tuple[int, ...]
    options: tuple[Any, ...]

    def apply(self, x: Any) -> Any:
        return self.operation.default(x, *self.options)

    def apply_adjoint(self, g: Any, x: Any) -> Any:
        if self.matrices is windows.linear_matrices:
            size, *options = self.options
            return self.adjoint.default(g, size, [aten.sym_size.int(x, 0), 3, *self.sizes], *options)
        return self.adjoint.default(g, x, *(self.options if self.matrices is windows.average_matrices else ()))

    def both(self, x: Any) -> Any:
        return self.apply_adjoint(self.apply(x) * 3, x)

    def __str__(self) -> str:
        return f"{self.operation.__name__} {self.sizes} {self.options}"


def averages() -> list[Linear]:
    modes = (False, True, None), (True, False, None), (True, True, None), (True, True, 7)
    return [
        Linear(
            aten.avg_pool2d,
            aten.avg_pool2d_backward,
            windows.average_matrices,
            (size, 9),
            ([kernel, min(kernel, 2)], [stride, 2], [padding, 1], *mode),
        )
        for size, kernel, stride, padding, mode in product((5, 8, 11), (2, 3, 5), (1, 2, 3), (0, 1), modes)
    ]


def adaptive_averages() -> list[Linear]:
    pools = aten.adaptive_avg_pool2d, aten._adaptive_avg_pool2d_backward, windows.adaptive_matrices
    return [
        Linear(*pools, sizes, (outputs,))
        for sizes, outputs in product(((7, 5), (4, 9)), ([3, 4], [1, 1], [6, 6], [4, 9]))
    ]


AVERAGES_3D = [
    Linear(
        aten.avg_pool3d,
        aten.avg_pool3d_backward,
        windows.average_matrices,
        (5, 6, 7),
        ([2, 3, 2], [2, 1, 2], [1, 1, 0], True, False, None),
    ),
    Linear(
        aten.adaptive_avg_pool3d,
        aten._adaptive_avg_pool3d_backward,
        windows.adaptive_matrices,
        (5, 3, 4),
        ([2, 2, 5],),
    ),
]


def resamplings() -> list[Linear]:
    pairs = {
        1: (aten.upsample_linear1d, aten.upsample_linear1d_backward),
        2: (aten.upsample_bilinear2d, aten.upsample_bilinear2d_backward),
        3: (aten.upsample_trilinear3d, aten.upsample_trilinear3d_backward),
    }
    shapes = ((5,), [12]), ((7,), [3]), ((5, 8), [9, 4]), ((4, 3), [4, 7]), ((3, 4, 2), [5, 3, 4])
    return [
        Linear(*pairs[len(sizes)], windows.linear_matrices, sizes, (outputs, align, *[scale] * len(sizes)))
        for (sizes, outputs), (align, scale) in product(shapes, ((False, None), (True, None), (False, 2.1)))
    ]


def apply_matrices(x: Tensor, matrices: list[Tensor]) -> Tensor:
    for dim, matrix in enumerate(matrices, 2):
        x = torch.tensordot(x, matrix, dims=([dim], [1])).movedim(-1, dim)
    return x


def test_matrices_are_the_operations():
    """Averages and resamplings, and their adjoints, in double precision."""
    torch.manual_seed(0)
    for use in (*averages(), *adaptive_averages(), *AVERAGES_3D, *resamplings()):
        x = torch.randn(2, 3, *use.sizes, dtype=torch.float64)
        y = use.apply(x)
        g, matrices = torch.randn_like(y), use.matrices(use.sizes, *use.options)
        back = apply_matrices(g, [matrix.T for matrix in matrices])
        assert (apply_matrices(x, matrices) - y).abs().max() <= 1e-12, str(use)
        assert (back - use.apply_adjoint(g, x)).abs().max() <= 1e-12, str(use)


LINEAR = [*averages()[37::60], *adaptive_averages()[::3], *AVERAGES_3D, *resamplings()[::2]]


@pytest.mark.parametrize("use", LINEAR, ids=str)
def test_averages_and_resamplings(use):
    compare(use.both, torch.randn(2, 3, *use.sizes, generator=torch.Generator().manual_seed(0)))


PATCHES: dict[str, Callable[[Tensor], Any]] = {
    "im2col": lambda x: aten.im2col.default(x, [2, 3], [2, 1], [1, 2], [1, 2]),
    "col2im": lambda x: aten.col2im.default(
        aten.reshape.default(x, [aten.sym_size.int(x, 0), 6, -1]), [5, 6], [3, 2], [1, 2], [1, 0], [1, 3]
    ),
}


@pytest.mark.parametrize(("name", "shape"), [("im2col", (2, 3, 5, 4)), ("col2im", (2, 3, 2, 10))])
def test_patches(name, shape):
    compare(PATCHES[name], torch.randn(shape, generator=torch.Generator().manual_seed(0)))


def test_every_operation_is_tested():
    functions = [*CALLS.values(), *PATCHES.values(), *(use.both for use in LINEAR)]
    functions += [getattr(aten, name).default for name in FUNCTIONS + OF_POSITIVE + OF_SMALL]
    for dim, options in (("2d", MAXIMA_2D[0]), ("3d", MAXIMA_3D[0])):
        for pool, arguments in (
            (f"max_pool{dim}_with_indices", options),
            (f"adaptive_max_pool{dim}", ([2] * int(dim[0]),)),
        ):
            functions.append(
                maximum(getattr(aten, pool).default, getattr(aten, f"{pool}_backward").default, *arguments)
            )
    called = {
        node.target for function in functions for node in traced(function).graph.nodes if node.op == "call_function"
    }
    of_sizes = {op for op in OPERATIONS if not isinstance(op, torch._ops.OpOverload)}
    assert OPERATIONS.keys() - called - of_sizes == set()
    assert OPERATIONS.keys() >= BUILT_IN
