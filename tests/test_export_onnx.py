"""ONNX files: checked by onnx, run by onnxruntime, and compared with the explainer."""

from __future__ import annotations

import json
import sys
from operator import getitem
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

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx_models import around, difference, run, session, traced  # noqa: E402  (needs onnx)

from agf_fx.exports.onnx import model as onnx_files  # noqa: E402

aten = torch.ops.aten
torch.set_num_threads(1)


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
    images, target, weight = graph.placeholder("images"), graph.placeholder("target"), graph.get_attr("w")
    bessel = graph.call_function(aten.special_i0e.default, (graph.call_function(aten.abs.default, (weight,)),))
    deviation = graph.call_function(getitem, (graph.call_function(aten.std_mean.dim, (weight, [0])), 0))
    result = graph.call_function(aten.add.Tensor, (images, graph.call_function(aten.mul.Tensor, (bessel, deviation))))
    graph.output((result, target))
    holder = nn.Module()
    holder.register_buffer("w", torch.linspace(-1, 1, 4))
    expected = around(0, 1) + torch.special.i0e(holder.w) * holder.w.std()
    explainer = SimpleNamespace(
        module=fx.GraphModule(holder, graph), images=around(0, 1), target=torch.zeros(5, 2).long()
    )
    found, _ = run(session(onnx_files.onnx_model(explainer, "{}").SerializeToString()), around(0, 1), explainer.target)
    torch.testing.assert_close(found, expected)


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
