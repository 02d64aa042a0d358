"""Maps on every device of this machine: the CPU always, and a CUDA device where there is one.

What shapes and devices tell of a CUDA device is also tested without one, on tensors without numbers.
"""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from networks import load_golden, options_of
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import agf_fx
from agf_fx.errors import InputError
from agf_fx.exports.exported_program import to_exported_program
from agf_fx.exports.standalone import Standalone
from agf_fx.frontend.outputs import Root
from agf_fx.frontend.tracing import export
from agf_fx.inspect.precision import relative_difference
from agf_fx.methods import REGISTRY
from agf_fx.runtime.weights import WeightInputs

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
WAYS = [
    (device, backend)
    for device in DEVICES
    for backend in ("eager", *(["inductor", "cudagraphs"] if device == "cuda" else []))
]
TARGET = torch.tensor([[0, 1], [2, 0], [1, 3]])


@pytest.fixture(scope="module", params=["resnet_tiny.in64", "vgg_tiny_bn.in16"], ids=["resnet", "vgg"])
def subject(request):
    """A network, images, and their maps and logits on the CPU in float64."""
    golden = load_golden(request.param)
    images = torch.randn(3, *golden.tensors["input"].shape[1:], generator=torch.Generator().manual_seed(0)).double()
    expected = agf_fx.compile(golden.model, images).explain(images, TARGET)
    return golden.model, images, expected


@pytest.fixture(params=WAYS, ids=[f"{device}-{backend}" for device, backend in WAYS])
def way(request):
    return request.param


def copied(model, device, dtype=torch.float64):
    return copy.deepcopy(model).to(device, dtype)


def test_maps_and_logits_are_those_of_the_cpu(subject, way):
    model, images, expected = subject
    device, backend = way
    found = agf_fx.compile(copied(model, device), backend=backend).explain(images.to(device), TARGET.to(device))
    assert found.maps.device.type == found.logits.device.type == found.target.device.type == device
    torch.testing.assert_close(found.maps.cpu(), expected.maps, rtol=0, atol=1e-8 * float(expected.maps.abs().max()))
    torch.testing.assert_close(found.logits.cpu(), expected.logits, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("device", DEVICES[1:])
@pytest.mark.parametrize("method", REGISTRY)
def test_every_method_gives_the_maps_of_the_cpu(subject, method, device):
    model, images, _ = subject
    options = options_of(method, model, images.shape[-1])
    expected = agf_fx.compile(model, images, method=method, options=options)(images, TARGET)
    there = agf_fx.compile(copied(model, device), method=method, options=options)
    found = there(images.to(device), TARGET.to(device))
    assert found.device.type == device
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-8 * float(expected.abs().max()))


def test_targets_may_be_given_on_the_cpu_and_by_rank(subject, way):
    model, images, expected = subject
    device, backend = way
    explainer = agf_fx.compile(copied(model, device), backend=backend)
    largest = float(expected.maps.abs().max())
    torch.testing.assert_close(explainer(images.to(device), TARGET).cpu(), expected.maps, rtol=0, atol=1e-8 * largest)
    top = explainer.explain(images.to(device), top_k=2)
    assert top.target.cpu().equal(expected.logits.topk(2, 1).indices)


def test_single_precision_and_reduced_products(subject, way):
    model, images, expected = subject
    device, backend = way
    for precision, tolerance in ((None, 1e-2), ("bfloat16", 0.2)):
        explainer = agf_fx.compile(copied(model, device, torch.float32), backend=backend, precision=precision)
        maps = explainer(images.float().to(device), TARGET.to(device)).cpu().double()
        assert relative_difference(maps, expected.maps).median() <= tolerance  # a ReLU on the edge may turn one map


def test_pieces(subject, way):
    model, images, expected = subject
    device, backend = way
    options = agf_fx.CompileOptions(max_batch=2)
    maps = agf_fx.compile(copied(model, device), backend=backend, compile_options=options)(images.to(device), TARGET)
    torch.testing.assert_close(maps.cpu(), expected.maps, rtol=0, atol=1e-8 * float(expected.maps.abs().max()))


def test_changed_weights_are_prepared_on_the_device(subject, way):
    model, images, _ = subject
    device, backend = way
    other = copied(model, device)
    explainer = agf_fx.compile(other, backend=backend)
    explainer(images.to(device), 1)
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.02)
    twin = copied(other, "cpu")
    found, right = explainer(images.to(device), 1).cpu(), agf_fx.compile(twin)(images, 1)
    torch.testing.assert_close(found, right, rtol=0, atol=1e-8 * float(right.abs().max()))


@pytest.mark.parametrize("device", DEVICES)
def test_conservation_and_precision_are_measured_there(subject, device):
    model, images, _ = subject
    explainer = agf_fx.compile(copied(model, device), options=agf_fx.AGFOptions(division="exact"))
    report = explainer.conservation(images.to(device), 1)
    torch.testing.assert_close(report.final.cpu(), report.initial.cpu(), rtol=1e-6, atol=1e-9)
    assert float(explainer.explain(images.to(device), 1, check=True).precision.max()) < 1e-9


@pytest.mark.parametrize("device", DEVICES)
def test_files_written_on_a_device_run_there(subject, device, tmp_path):
    model, images, expected = subject
    explainer = agf_fx.compile(copied(model, device), images.to(device))
    explainer.export(tmp_path / "explainer.pt")
    loaded = agf_fx.load(tmp_path / "explainer.pt")
    maps = loaded(images.to(device), TARGET.to(device)).cpu()
    torch.testing.assert_close(maps, expected.maps, rtol=0, atol=1e-8 * float(expected.maps.abs().max()))


@pytest.mark.parametrize("device", DEVICES)
def test_threads_share_an_explainer(subject, device):
    model, images, expected = subject
    explainer, found = agf_fx.compile(copied(model, device)), []

    def explain():
        found.append(explainer(images.to(device), TARGET).cpu())

    threads = [threading.Thread(target=explain) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for maps in found:
        torch.testing.assert_close(maps, expected.maps, rtol=0, atol=1e-8 * float(expected.maps.abs().max()))


@pytest.mark.parametrize("device", DEVICES)
def test_images_elsewhere_are_refused(subject, device):
    model, images, _ = subject
    with pytest.raises(InputError, match="without numbers"):
        agf_fx.compile(copied(model, device))(images.to("meta"))


def on_fake_cuda(model, mode):
    """A copy whose weights are on a CUDA device that need not be there."""
    copy_ = copy.deepcopy(model)
    with mode, torch.no_grad():
        for module in copy_.modules():
            for name, weight in module.named_parameters(recurse=False):
                setattr(module, name, torch.nn.Parameter(empty_cuda(weight), requires_grad=False))
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, empty_cuda(buffer))
    return copy_


def empty_cuda(tensor):
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")


def test_models_on_cuda_are_exported_for_every_batch_size(subject):
    model, images, _ = subject
    mode = FakeTensorMode(shape_env=ShapeEnv())
    there = on_fake_cuda(model, mode)
    with mode:
        program = export(Root(there, None), None, empty_cuda(images))
    here = export(Root(model, None), None, images)
    assert [node.target for node in program.graph.nodes] == [node.target for node in here.graph.nodes]


@pytest.mark.parametrize("method", REGISTRY)
def test_graphs_name_no_device(subject, method):
    model, images, _ = subject
    options = options_of(method, model, images.shape[-1])
    program = agf_fx.compile(model, images, method=method, options=options)._binding.latest.program
    weights = WeightInputs(program.canonical, program.explanation)
    with FakeTensorMode(), torch.no_grad():
        values = {name: empty_cuda(weight) for name, weight in weights.current(model).items()}
        prepared = program.explanation.prepare.forward(*(values[name] for name in weights.shapes))
        values |= dict(zip(program.explanation.prepared, prepared, strict=True))
        inputs = [values[name] for name in program.explanation.inputs]
        maps, logits = program.explanation.module(empty_cuda(images), empty_cuda(TARGET), *inputs)
    assert maps.device.type == logits.device.type == "cuda"
    assert maps.shape[:2] == TARGET.shape


def test_programs_of_models_on_cuda_are_exported(subject):
    model, images, _ = subject
    program = agf_fx.compile(model, images)._binding.latest.program
    mode = FakeTensorMode(shape_env=ShapeEnv())
    with mode, torch.no_grad():
        current = WeightInputs(program.canonical, program.explanation).current(model)
        weights = {name: empty_cuda(weight) for name, weight in current.items()}
        explainer = Standalone(program.explanation, weights, empty_cuda(images), empty_cuda(TARGET))
        exported = explainer.module and to_exported_program(explainer)
    assert len(exported.range_constraints) == 2
