"""ONNX files: checked by onnx, run by onnxruntime, and compared with the explainer and with PyTorch's own operations."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
from classifiers import CLASSES, EXPORTED, small_classifier
from torch import Tensor, fx, nn

import agf_fx
from agf_fx.data import sample_scenes
from agf_fx.errors import ExportError, MissingDependencyError
from agf_fx.ir.vocabulary import BUILT_IN
from agf_fx.tracer import RuleTracer

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from agf_fx.runtime.exports.onnx import model as onnx_files  # noqa: E402  (needs onnx)
from agf_fx.runtime.exports.onnx import windows  # noqa: E402
from agf_fx.runtime.exports.onnx.operations import OPERATIONS  # noqa: E402

aten = torch.ops.aten
torch.set_num_threads(1)


def session(model: Any) -> Any:
    """A session on a file, or on the bytes of a model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(model) if not isinstance(model, bytes) else model, options)


def run(model: Any, images: Tensor, target: Tensor) -> list[Tensor]:
    """Maps and logits."""
    return list(map(torch.tensor, model.run(["maps", "logits"], {"images": images.numpy(), "target": target.numpy()})))


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest, over the largest entry."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


# Whole networks


def photographs(height: int, width: int) -> Tensor:
    """Parts of eight pictures with digits, prepared for the bundled networks."""
    preprocessing = agf_fx.load_model("digits-resnet").preprocessing
    pictures = [preprocessing.prepare(agf_fx.read_image(scene.path))[0] for scene in sample_scenes()[:8]]
    return torch.stack(pictures)[:, :, :height, :width].contiguous()


def noise(height: int, width: int) -> Tensor:
    return torch.randn(8, 3, height, width, generator=torch.Generator().manual_seed(0))


def member(family: str, size: tuple[int, int]) -> tuple[nn.Module, Tensor]:
    """A network and eight images.

    Residual networks of basic blocks are trained ones: untrained, they divide by sums of opposite signs, and two
    runtimes that round differently agree to three digits only.
    """
    if family == "resnet, basic":
        return agf_fx.load_model("digits-resnet").model, photographs(*size)
    return small_classifier(family), noise(*size)


SIZES = ((33, 47), (51, 39))


@pytest.mark.parametrize(
    ("family", "size"), [(family, SIZES[place % 2]) for place, family in enumerate(EXPORTED)], ids=str
)
def test_a_family_in_onnxruntime(family, size, tmp_path):
    model, images = member(family, size)
    explainer = agf_fx.compile(model, images[:2])
    path = tmp_path / "explainer.onnx"
    explainer.export(path, format="onnx", class_names=[f"class {i}" for i in range(CLASSES)])
    loaded = session(path)
    for count, targets in ((1, 1), (3, 4), (8, 4), (8, 1)):
        target = (torch.arange(count)[:, None] + torch.arange(targets)) % CLASSES
        maps, logits = run(loaded, images[:count], target)
        expected = explainer.explain(images[:count], target)
        assert difference(logits, expected.logits) <= 1e-5
        assert difference(maps, expected.maps) <= 1e-4
    check_file(path, model, size)


def check_file(path: Any, model: nn.Module, size: tuple[int, int]) -> None:
    file = onnx.load(path)
    onnx.checker.check_model(file, full_check=True)
    assert [(entry.domain, entry.version >= 18) for entry in file.opset_import] == [("", True)]
    shapes = {value.name: dims(value) for value in (*file.graph.input, *file.graph.output)}
    assert shapes == {
        "images": ["N", 3, *size],
        "target": ["N", "K"],
        "maps": ["N", "K", *size],
        "logits": ["N", CLASSES],
    }
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    assert sum(len(tensor.raw_data) for tensor in file.graph.initializer) <= 1.1 * weights
    (properties,) = file.metadata_props
    metadata = json.loads(properties.value)
    assert properties.key == "agf_fx.json"
    assert metadata["method"] == "agf"
    assert metadata["class_names"][3] == "class 3"


def dims(value: Any) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


@pytest.fixture(scope="module")
def vgg() -> tuple[agf_fx.Explainer, Tensor]:
    """An explainer, and eight images."""
    model, images = member("vgg, batch norm", (33, 33))
    return agf_fx.compile(model, images[:2]), images


def test_ranks_in_onnxruntime(vgg, tmp_path):
    explainer, images = vgg
    explainer.export(tmp_path / "explainer.onnx", format="onnx")
    target = torch.tensor([[-1, -2, 3], [2, -CLASSES, -1], [-3, 0, -2]])
    maps, logits = run(session(tmp_path / "explainer.onnx"), images[:3], target)
    ranked = logits.argsort(1, descending=True)
    classes = torch.where(target < 0, ranked.gather(1, (-target - 1).clamp(min=0)), target)
    assert difference(maps, explainer(images[:3], classes)) <= 1e-4


def test_a_file_is_as_large_as_its_weights(tmp_path):
    model = torchvision.models.VGG(torchvision.models.vgg.make_layers([64, "M", 128, "M", 256, "M"], True))
    model.classifier = nn.Sequential(nn.Linear(256 * 49, 128), nn.ReLU(), nn.Linear(128, CLASSES))
    path = tmp_path / "explainer.onnx"
    agf_fx.compile(model.eval(), torch.zeros(1, 3, 33, 33)).export(path, format="onnx")
    assert path.stat().st_size <= 1.1 * sum(tensor.nbytes for tensor in model.state_dict().values())


def test_a_file_states_the_shapes_that_runtimes_do_not_find(vgg, tmp_path):
    """Without them onnxruntime plans the memory of a DenseNet-121 for two minutes."""
    vgg[0].export(tmp_path / "x.onnx", format="onnx")
    graph = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "x.onnx")).graph
    shapes = {value.name: dims(value) for value in graph.value_info}
    results = [
        shapes[node.output[0]] for node in graph.node if node.op_type in ("ConvTranspose", "Mul", "MatMul", "Sign")
    ]
    assert len(results) > 100
    assert {size for shape in results for size in shape if not isinstance(size, int)} == {"N", "K", "NK"}


class Convolutions(nn.Module):
    """Strides that leave entries unread, dilation, groups, uneven kernels; transposed as well, in one to three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 5, stride=3, padding=1)
        self.grouped = nn.Conv2d(6, 12, (3, 2), stride=(2, 3), dilation=(2, 1), groups=3, padding=(1, 0))
        self.wider = nn.ConvTranspose2d(12, 4, 3, stride=2, dilation=3, output_padding=2, padding=1)
        self.line = nn.Conv1d(4, 6, 4, stride=3, dilation=2, padding=2)
        self.volume = nn.Conv3d(2, 4, (2, 1, 3), stride=(1, 1, 2), padding=1, dilation=(1, 2, 1))
        self.fc = nn.LazyLinear(CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.grouped(torch.relu(self.first(x))))
        x = torch.relu(self.line(torch.relu(self.wider(x)).flatten(2)))
        x = torch.relu(self.volume(x[..., :52].unflatten(1, (2, 3)).unflatten(3, (-1, 4))))
        return self.fc(x.flatten(1))


@pytest.mark.parametrize("size", [(29, 41), (43, 37)], ids=str)
def test_convolutions_of_any_geometry(size, tmp_path):
    torch.manual_seed(0)
    model, images = Convolutions(), noise(*size)
    model(images)
    explainer = agf_fx.compile(model.eval(), images[:2], method="gradient_x_input")
    explainer.export(tmp_path / "explainer.onnx", format="onnx")
    target = torch.tensor([[1, 2, 3], [4, 5, -1]])
    maps, logits = run(session(tmp_path / "explainer.onnx"), images[:2], target)
    target[1, 2] = logits[1].argmax()
    assert difference(maps, explainer(images[:2], target)) <= 1e-5


# Single operations


def compare(function: Callable[[Tensor], Any], x: Tensor, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """A function of ATen operations, in onnxruntime and in PyTorch; ``atol`` is for numbers up to 1."""
    expected = first(function(x))
    explainer = SimpleNamespace(module=traced(function), images=x, target=torch.zeros(len(x), 2).long())
    file = onnx_files.onnx_model(explainer, "{}")
    onnx.checker.check_model(file, full_check=True)
    found, _ = run(session(file.SerializeToString()), x, explainer.target)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol * float(expected.double().abs().max()))


def traced(function: Callable[[Any], Any]) -> fx.GraphModule:
    """As rules are; a second input and output stand for targets and logits."""
    tracer = RuleTracer()
    images, target = (fx.Proxy(tracer.graph.placeholder(name), tracer) for name in ("images", "target"))
    tracer.graph.output((first(function(images)).node, target.node))
    return fx.GraphModule(nn.Module(), tracer.graph)


def first(results: Any) -> Any:
    return results[0] if isinstance(results, tuple | list) else results


def around(low: float, high: float, *shape: int) -> Tensor:
    """Images of numbers in a range, ends included."""
    count = torch.Size(shape or (5, 2, 3, 4)).numel()
    return torch.linspace(low, high, count).reshape(shape or (5, 2, 3, 4))


FUNCTIONS = (
    *("abs", "neg", "sign", "relu", "exp", "sigmoid", "tanh", "erf", "sin", "cos", "atan", "sinh", "cosh", "asinh"),
    *("floor", "ceil", "round", "trunc", "expm1", "exp2", "square", "silu", "mish", "hardsigmoid", "hardswish"),
    *("gelu", "elu", "softplus", "leaky_relu", "hardtanh", "zeros_like", "ones_like", "reciprocal", "empty_like"),
    *("logical_not", "contiguous", "clone", "alias", "detach", "_to_copy", "zero"),
)
OF_POSITIVE = ("log", "log1p", "sqrt", "rsqrt", "acosh")
OF_SMALL = ("asin", "acos", "atanh", "tan")


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


# What cannot be written


def test_an_operation_without_an_onnx_form_is_named(tmp_path):
    class Special(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(torch.special.i0e(self.conv(x)).mean((2, 3)))

    with pytest.warns(UserWarning, match="explained by its gradient"):
        explainer = agf_fx.compile(Special().eval(), torch.zeros(1, 3, 8, 8), unknown_ops="gradient")
    with pytest.raises(ExportError, match=r"aten.special_i0e.default cannot be written .* Use another format"):
        explainer.export(tmp_path / "explainer.onnx", format="onnx")
    assert not list(tmp_path.iterdir())


def test_the_layer_of_an_operation_is_named():
    module = traced(lambda x: aten.linalg_vector_norm.default(x, 3, [1]))
    next(node for node in module.graph.nodes if node.op == "call_function").meta["layer"] = "head.norm"
    explainer = SimpleNamespace(module=module, images=around(0, 1), target=torch.zeros(5, 2).long())
    with pytest.raises(ExportError, match=r"linalg_vector_norm.default in layer 'head.norm' .* its order is 3"):
        onnx_files.onnx_model(explainer, "{}")


def test_what_depends_on_weights_alone_may_be_any_operation():
    graph = fx.Graph()
    images, target = graph.placeholder("images"), graph.placeholder("target")
    weight = graph.call_function(
        aten.special_i0e.default, (graph.call_function(aten.abs.default, (graph.get_attr("w"),)),)
    )
    graph.output((graph.call_function(aten.add.Tensor, (images, weight)), target))
    holder = nn.Module()
    holder.register_buffer("w", torch.linspace(-1, 1, 4))
    explainer = SimpleNamespace(
        module=fx.GraphModule(holder, graph), images=around(0, 1), target=torch.zeros(5, 2).long()
    )
    found, _ = run(session(onnx_files.onnx_model(explainer, "{}").SerializeToString()), around(0, 1), explainer.target)
    torch.testing.assert_close(found, around(0, 1) + torch.special.i0e(holder.w))


@pytest.mark.parametrize("precision", ["float64", "bfloat16"])
def test_a_precision_without_runtimes_is_refused(precision, tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(18, 3))
    explainer = agf_fx.compile(model.eval(), torch.zeros(1, 3, 5, 5), precision=precision)
    with pytest.raises(ExportError, match=rf"in {precision}.*ompile with"):
        explainer.export(tmp_path / "explainer.onnx", format="onnx")


def test_weights_that_no_file_holds_are_refused(vgg, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_files, "LIMIT", 1000)
    with pytest.raises(ExportError, match=r"2 GB at most. Use another format"):
        vgg[0].export(tmp_path / "explainer.onnx", format="onnx")


def test_what_the_checker_finds_is_an_export_error(tmp_path):
    explainer = SimpleNamespace(module=traced(torch.relu), images=around(0, 1), target=torch.zeros(5, 2).long())
    file = onnx_files.onnx_model(explainer, "{}")
    file.graph.node[-1].op_type = "NoSuchOperator"
    with pytest.raises(ExportError, match=r"no valid ONNX model: .*NoSuchOperator.* Use another format"):
        onnx_files.save(file, tmp_path / "explainer.onnx")


def test_missing_onnx_says_how_to_get_it(vgg, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'agf-fx\[onnx\]'"):
        vgg[0].export(tmp_path / "explainer.onnx", format="onnx")
