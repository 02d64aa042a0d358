"""Large requests in pieces."""

from __future__ import annotations

import pytest
import torch
import torchvision
from networks import basic_resnet, small_vgg
from torch import nn

import agf_fx
from agf_fx.errors import MemoryLimitError, OptionsError
from agf_fx.runtime.chunks import Limits, SmallerChunkWarning, run_in_chunks


def images(count, size=16):
    return torch.randn(count, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


class Recorder:
    """Explains by arithmetic that shows which image and target a map belongs to; memory runs out above ``capacity``."""

    def __init__(self, capacity=10**9, message="DefaultCPUAllocator: can't allocate memory"):
        self.pieces, self.capacity, self.message = [], capacity, message

    def __call__(self, x, target):
        if target.numel() > self.capacity:
            raise RuntimeError(self.message)
        self.pieces.append(tuple(target.shape))
        return (x[:, None] * 100 + target)[..., None], x[:, None].clone()


@pytest.mark.parametrize("pairs", [None, 1, 2, 3, 7, 12, 100])
def test_pieces_cover_the_request_and_stay_within_the_limit(pairs):
    run, x, target = Recorder(), torch.arange(5), torch.arange(20).reshape(5, 4)
    maps, logits = run_in_chunks(run, x, target, Limits(pairs, None, None))
    assert torch.equal(maps[..., 0], x[:, None] * 100 + target)
    assert torch.equal(logits[:, 0], x)
    assert sum(n * k for n, k in run.pieces) == 20
    assert all(n * k <= (pairs or 20) for n, k in run.pieces)
    if pairs == 12:
        assert run.pieces == [(3, 4), (2, 4)]  # whole images where they fit
    if pairs == 3:
        assert run.pieces == [(1, 3), (1, 1)] * 5  # else the targets of one image


def test_memory_limits_bound_the_estimate():
    run, x, target = Recorder(), torch.arange(6), torch.zeros(6, 5, dtype=torch.int64)
    run_in_chunks(run, x, target, Limits(None, 50, lambda n, k: 10 * n + 5 * n * k))
    assert all(10 * n + 5 * n * k <= 50 for n, k in run.pieces)
    with pytest.raises(MemoryLimitError, match="takes 15 bytes, more than memory_limit=14"):
        run_in_chunks(run, x, target, Limits(None, 14, lambda n, k: 10 * n + 5 * n * k))


def test_running_out_of_memory_halves_the_pieces_and_keeps_what_is_done():
    run, x, target = Recorder(capacity=3), torch.arange(8), torch.arange(16).reshape(8, 2)
    limits = Limits(None, None, None)
    with pytest.warns(SmallerChunkWarning) as caught:
        maps, _ = run_in_chunks(run, x, target, limits)
    assert torch.equal(maps[..., 0], x[:, None] * 100 + target)
    assert [str(w.message).split(";")[0].split()[4] for w in caught] == ["16", "8", "4"]
    assert limits.pairs == 2
    assert sum(n * k for n, k in run.pieces) == 16  # nothing twice
    run_in_chunks(run, x, target, limits)  # remembered: no further warning


def test_other_errors_and_hopeless_ones_are_raised():
    with pytest.raises(RuntimeError, match="shapes differ"):
        run_in_chunks(Recorder(0, "shapes differ"), torch.arange(2), torch.zeros(2, 1), Limits(None, None, None))
    with pytest.warns(SmallerChunkWarning), pytest.raises(MemoryLimitError, match="one image with one target"):
        run_in_chunks(Recorder(0), torch.arange(2), torch.zeros(2, 1), Limits(None, None, None))


def test_the_out_of_memory_error_of_a_gpu_counts():
    class Full(Recorder):
        def __call__(self, x, target):
            if target.numel() > 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().__call__(x, target)

    with pytest.warns(SmallerChunkWarning, match=r"going on with 1\. CompileOptions\(max_batch=1\)"):
        run_in_chunks(Full(), torch.arange(2), torch.zeros(2, 1), Limits(None, None, None))


@pytest.mark.parametrize("build", [small_vgg, basic_resnet])
@pytest.mark.parametrize("max_batch", [1, 2, 5])
def test_maps_do_not_depend_on_the_pieces(build, max_batch):
    model, x, target = build(), images(4, 32), torch.tensor([[0, 1, 2]] * 4)
    whole = agf_fx.compile(model).explain(x, target)
    options = agf_fx.CompileOptions(max_batch=max_batch)
    pieces = agf_fx.compile(model, compile_options=options).explain(x, target)
    assert relative(pieces.maps, whole.maps) <= 1e-12
    assert relative(pieces.logits, whole.logits) <= 1e-12


def test_many_images_and_targets_in_little_memory():
    model = nn.Sequential(nn.Conv2d(3, 2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 9, 5)).double().eval()
    x, target = images(64, 8), (torch.arange(1000) % 5).expand(64, 1000)
    explainer = agf_fx.compile(model, compile_options=agf_fx.CompileOptions(memory_limit=8_000_000))
    result = explainer.explain(x, target)
    assert result.maps.shape == (64, 1000, 8, 8)
    limits = explainer._captured().program.limits
    n, k = limits.largest_piece(64, 1000)
    assert limits.estimate(n, k) <= 8_000_000 < limits.estimate(64, 1000)
    assert relative(result.maps[7, :5], agf_fx.compile(model)(x[7:8], torch.arange(5)[None])[0]) <= 1e-12


def test_the_estimate_is_the_memory_that_is_used():
    from agf_fx.ir.liveness import peak_bytes

    model, x = torchvision.models.resnet18().eval(), images(3, 64).float()
    bound = agf_fx.compile(model, x)._captured()
    program = bound.program
    estimate, inputs = peak_bytes(program.explanation, program.copied), bound.inputs(model)
    for n, k in [(1, 1), (3, 1), (3, 4)]:
        measured = peak_of(lambda n=n, k=k: program.explanation.module(x[:n], torch.ones(n, k).long(), *inputs))
        assert 0.9 * measured <= estimate(n, k) <= 1.2 * measured


def peak_of(run):
    """The most bytes allocated at once beyond what was there, by PyTorch's own profiler."""
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    level = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        level += event.nbytes()
        peak = max(peak, level)
    return peak


@pytest.mark.parametrize(
    "options", [{"max_batch": 0}, {"max_batch": 2.0}, {"memory_limit": -1}, {"memory_limit": True}]
)
def test_limits_must_be_positive_whole_numbers(options):
    with pytest.raises(OptionsError, match="positive whole number"):
        agf_fx.CompileOptions(**options)


def test_memory_formats_are_named():
    with pytest.raises(OptionsError, match="'auto', 'contiguous', 'channels_last'"):
        agf_fx.CompileOptions(memory_format="nhwc")
