"""Backends, precision and memory format."""

from __future__ import annotations

import os

import pytest
import torch
from networks import basic_resnet, small_vgg
from optimising import rank_correlation
from torch import nn
from torch._dynamo.utils import counters

import agf_fx
from agf_fx.data import sample_scenes
from agf_fx.errors import OptionsError
from agf_fx.runtime.backends import choose

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def images(count, size=16, dtype=torch.float32):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0)).to(dtype)


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def test_one_compilation_serves_every_number_of_images_and_targets(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("AGF_FX_CACHE", "disk")
    monkeypatch.setenv("AGF_FX_CACHE_DIR", str(tmp_path))
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten()
    model = nn.Sequential(*layers, nn.Linear(4 * 25, 5)).double().eval()
    eager, compiled = agf_fx.compile(model), agf_fx.compile(model, backend="inductor")
    before = counters["stats"]["unique_graphs"]
    for n, k in [(1, 1), (2, 1), (3, 2), (5, 5), (16, 1), (17, 3), (64, 1)]:
        x, target = images(n, dtype=torch.float64), torch.arange(n * k).reshape(n, k) % 5
        assert relative(compiled(x, target), eager(x, target)) <= 1e-11
        best = [explainer.explain(x, top_k=k).maps for explainer in (compiled, eager)]
        assert relative(*best) <= 1e-11
    assert counters["stats"]["unique_graphs"] == before + 1

    # What Inductor has compiled is found by the next process, which knows neither graphs nor kernels.
    agf_fx.cache.forget()
    torch._dynamo.reset()
    hits = counters["inductor"]["fxgraph_cache_hit"]
    assert relative(agf_fx.compile(model, backend="inductor")(x, target), eager(x, target)) <= 1e-11
    assert counters["inductor"]["fxgraph_cache_hit"] == hits + 1
    assert agf_fx.cache.info().inductor_bytes > 0
    assert os.environ.get("TORCHINDUCTOR_CACHE_DIR") != str(tmp_path / "inductor")


def test_auto_says_what_it_stands_for():
    explainer = agf_fx.compile(small_vgg(), backend="auto")
    assert explainer.backend == "eager"
    assert "'auto' (eager)" in repr(explainer)
    assert choose("auto", torch.device("cpu")) == choose("auto", torch.device("cuda")) == "eager"
    assert agf_fx.compile(small_vgg()).backend == "eager"


def test_cuda_graphs_need_cuda():
    with pytest.raises(OptionsError, match="needs a CUDA device, and the model is on cpu"):
        agf_fx.compile(small_vgg().float(), backend="cudagraphs")(images(1))


@pytest.mark.parametrize("option", [{"backend": "xla"}, {"precision": "int8"}])
def test_unknown_names_list_the_known_ones(option):
    with pytest.raises(OptionsError, match=r"choose one of 'eager', 'inductor'|choose one of 'float64', 'float32'"):
        agf_fx.compile(small_vgg(), **option)


@pytest.mark.parametrize("build", [small_vgg, basic_resnet])
def test_double_precision_of_a_single_precision_model(build):
    model, x = build().float(), images(3, 32)
    found = agf_fx.compile(model, precision="float64")(x, 1)
    expected = agf_fx.compile(build().float().double())(x.double(), 1)
    assert found.dtype is torch.float64
    assert relative(found, expected) <= 1e-12


def test_single_precision_of_a_double_precision_model():
    model, x = small_vgg().double(), images(3, dtype=torch.float64)
    assert agf_fx.compile(model, precision="float32")(x, 1).dtype is torch.float32


@pytest.mark.parametrize("name", ["digits-vgg", "digits-resnet"])
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_reduced_precision_keeps_the_ranks_of_the_bundled_scenes(name, precision):
    loaded = agf_fx.load_model(name)
    x = torch.stack([loaded.preprocessing.prepare(agf_fx.read_image(scene.path))[0] for scene in sample_scenes()])
    expected = agf_fx.compile(loaded.model).explain(x, top_k=2)
    found = agf_fx.compile(loaded.model, precision=precision).explain(x, top_k=2)
    assert torch.equal(found.target, expected.target)
    assert rank_correlation(found.maps.flatten(0, 1), expected.maps.flatten(0, 1)).min() >= 0.99


@pytest.mark.parametrize("build", [small_vgg, basic_resnet])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_memory_formats_agree(build, dtype):
    model, x = build().to(dtype), images(3, 32, dtype)
    maps = [
        agf_fx.compile(model, compile_options=agf_fx.CompileOptions(memory_format=name))(x, 1)
        for name in ("contiguous", "channels_last")
    ]
    assert relative(maps[1], maps[0]) <= (1e-12 if dtype is torch.float64 else 1e-3)


def test_single_precision_runs_in_channels_last():
    explainer = agf_fx.compile(small_vgg().float())
    explainer(images(2))
    weights = [w for w in explainer._captured().inputs(explainer.model) if w.dim() == 4]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


@pytest.mark.parametrize("build", [small_vgg, basic_resnet])
def test_the_same_input_gives_the_same_bits(build):
    model, x = build().float(), images(5, 32)
    explainer = agf_fx.compile(model)
    first = explainer(x, [0, 1, 2, 3, 4])
    for _ in range(3):
        assert torch.equal(explainer(x.clone(), [0, 1, 2, 3, 4]), first)
    assert torch.equal(agf_fx.compile(model)(x, [0, 1, 2, 3, 4]), first)


def test_autocast_of_the_caller_changes_nothing():
    model, x = small_vgg().float(), images(2)
    explainer = agf_fx.compile(model)
    expected = explainer(x, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(explainer(x, 1), expected)


@cuda
@pytest.mark.parametrize("backend", ["eager", "inductor", "cudagraphs"])
def test_gpu_maps_equal_those_of_the_cpu(backend):
    model, x = basic_resnet(), images(4, 32, torch.float64)
    expected = agf_fx.compile(model)(x, 1)
    found = agf_fx.compile(basic_resnet().cuda(), backend=backend)(x.cuda(), 1)
    assert relative(found.cpu(), expected) <= 1e-9
