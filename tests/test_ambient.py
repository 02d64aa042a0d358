"""Capture, preparation and runs give the same bits inside whatever state a caller has left around."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import agf_fx
from agf_fx.errors import InputError


class Network(nn.Module):
    """Creates values in its forward pass, with and without a dtype."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Linear(5, 3)

    def forward(self, x):
        x = x * torch.tensor([0.5]) + torch.zeros(3, 1, 1) + torch.arange(3).view(3, 1, 1) / 3
        f = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.fc(torch.cat([f, torch.ones(x.shape[0], 1)], 1))


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


class DoublingFunctions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        return result * 2 if func in (torch.relu, torch.cat) else result


class DoublingOperations(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        return result * 2 if func is torch.ops.aten.relu.default else result


STATES = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64 by default": lambda: default_dtype(torch.float64),
    "bfloat16 by default": lambda: default_dtype(torch.bfloat16),
    "meta by default": lambda: torch.device("meta"),
    "gradients": torch.enable_grad,
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    "forward-mode derivatives": torch.autograd.forward_ad.dual_level,
    "autocast to float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "deterministic": deterministic,
    "a function mode": DoublingFunctions,
    "a dispatch mode": DoublingOperations,
}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Network().eval(), torch.randn(2, 3, 7, 6)


@pytest.fixture(scope="module")
def expected(network):
    model, images = network
    explainer = agf_fx.compile(model, compile_options=agf_fx.CompileOptions(cache="off"))
    return explainer.explain(images, [[0, 1], [1, 2]]), explainer.fingerprint


def bits(result, expected):
    assert torch.equal(result.maps, expected.maps)
    assert torch.equal(result.logits, expected.logits)
    assert not result.maps.is_inference()
    assert not result.maps.requires_grad


@pytest.mark.parametrize("state", STATES)
def test_what_is_captured_inside_a_state_is_what_is_captured_outside(state, network, expected):
    model, images = network
    with STATES[state]():
        explainer = agf_fx.compile(model, images, compile_options=agf_fx.CompileOptions(cache="off"))
    assert explainer.fingerprint == expected[1]
    bits(explainer.explain(images, [[0, 1], [1, 2]]), expected[0])


@pytest.mark.parametrize("state", STATES)
def test_what_is_prepared_and_run_inside_a_state_is_as_outside(state, network, expected):
    model, images = network
    explainer = agf_fx.compile(model, images)
    with STATES[state]():
        result = explainer.explain(images, [[0, 1], [1, 2]])
    bits(result, expected[0])
    bits(explainer.explain(images, [[0, 1], [1, 2]]), expected[0])  # with what was prepared inside


@pytest.mark.parametrize("state", STATES)
def test_files_run_inside_a_state_as_outside(state, network, expected, tmp_path_factory):
    model, images = network
    path = tmp_path_factory.getbasetemp() / "ambient.pt"
    if not path.exists():
        agf_fx.compile(model, images).export(path)
    loaded = agf_fx.load(path)
    outside = loaded.explain(images, 1)
    with STATES[state]():
        bits(loaded.explain(images, 1), outside)
        bits(agf_fx.load(path).explain(images, 1), outside)


@pytest.mark.parametrize("state", STATES)
def test_states_are_left_as_they_were(state, network):
    model, images = network
    with STATES[state]():
        before = torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        agf_fx.compile(model, images, compile_options=agf_fx.CompileOptions(cache="off")).explain(images, 1)
        assert before == (torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        assert torch.is_autocast_enabled("cpu") == state.startswith("autocast")
        assert torch.are_deterministic_algorithms_enabled() == (state == "deterministic")
        assert (torch.empty(1).device.type == "meta") == (state == "meta by default")


class Casting(nn.Module):
    """Casts by itself; ``traced`` decides whether symbolic tracing can follow."""

    def __init__(self, inner, traced):
        super().__init__()
        self.inner, self.traced = inner, traced

    def forward(self, x):
        if not self.traced:
            assert len(list(x.shape)) == 4
        with torch.autocast(x.device.type if not self.traced else "cpu", dtype=torch.bfloat16):
            return self.inner(x)


@pytest.mark.parametrize("traced", [True, False])
def test_a_models_own_autocast_is_left_out_and_said(traced, network, expected):
    model, images = network
    with pytest.warns(UserWarning, match=r"in bfloat16 by torch\.autocast; it is explained without that"):
        result = agf_fx.compile(Casting(model, traced).eval()).explain(images, [[0, 1], [1, 2]])
    bits(result, expected[0])


def test_functional_transforms_are_refused(network):
    model, images = network
    explainer = agf_fx.compile(model, images)
    with pytest.raises(InputError, match=r"inside torch\.func\.vmap"):
        torch.func.vmap(lambda x: explainer(x[None], 1))(images)
    with pytest.raises(InputError, match=r"inside torch\.func"):
        torch.func.grad(lambda x: explainer(x, 1).sum())(images)


def test_images_of_other_layouts_are_refused(network):
    model, images = network
    with pytest.raises(InputError, match=r"sparse_coo.*to_dense"):
        agf_fx.compile(model)(images.to_sparse(), 1)
    with pytest.raises(InputError, match=r"_mkldnn.*to_dense"):
        agf_fx.compile(model)(images.to_mkldnn(), 1)


@pytest.mark.parametrize("state", ["meta by default", "bfloat16 by default", "a function mode"])
def test_files_written_and_models_bound_inside_a_state(state, network, tmp_path):
    model, images = network
    explainer = agf_fx.compile(model, images)
    explainer.export(tmp_path / "outside.pt")
    expected = agf_fx.load(tmp_path / "outside.pt").explain(images, 1)
    with STATES[state]():
        explainer.bind(model).export(tmp_path / "inside.pt")
    bits(agf_fx.load(tmp_path / "inside.pt").explain(images, 1), expected)


class Settings(TorchDispatchMode):
    """Looks on, and notes whether TF32 is on whenever something is multiplied."""

    observes = True

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "conv" in func.__name__ or "mm" in func.__name__ or "linear" in func.__name__:
            self.seen.add(tf32())
        return func(*args, **(kwargs or {}))


def tf32():
    backends = torch.backends
    try:
        return backends.cudnn.allow_tf32 or backends.cuda.matmul.allow_tf32
    except RuntimeError:
        return "tf32" in (backends.cudnn.conv.fp32_precision, backends.cuda.matmul.fp32_precision)


@contextlib.contextmanager
def tf32_by(how):
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    if how == "default":
        yield
    elif how == "older settings":
        matmul.allow_tf32 = True
        yield
        matmul.allow_tf32 = False
    else:
        cudnn.conv.fp32_precision, before = "ieee", cudnn.conv.fp32_precision
        matmul.fp32_precision = "tf32"
        yield
        cudnn.conv.fp32_precision, matmul.fp32_precision = before, "ieee"


@pytest.mark.parametrize("how", ["default", "older settings", "newer settings"])
def test_tf32_is_off_while_graphs_run_unless_asked_for(how, network, tmp_path):
    model, images = network
    path = tmp_path / "explainer.pt"
    with tf32_by(how):
        explainer = agf_fx.compile(model, images)
        before = [place.fp32_precision for place in (torch.backends.cudnn.conv, torch.backends.cuda.matmul)]
        explainer.export(path)
        allowed = agf_fx.compile(model, images, precision="tf32")
        calls = {
            "run": lambda: explainer(images, 1),
            "prepared": lambda: (explainer.forget_weights(), explainer(images, 1)),
            "checked": lambda: explainer.explain(images, 1, check=True),
            "conservation": lambda: explainer.conservation(images, 1),
            "a file": lambda: agf_fx.load(path)(images, 1),
            "allowed": lambda: allowed(images, 1),
        }
        allowed(images, 1)  # looked at and prepared, in full precision
        assert tf32()
        for name, call in calls.items():
            with Settings() as settings:
                call()
            assert settings.seen == {name == "allowed"}, name
            assert before == [place.fp32_precision for place in (torch.backends.cudnn.conv, torch.backends.cuda.matmul)]
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (True, False)  # can be read
