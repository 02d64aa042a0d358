"""Compiled graphs belong to an architecture: they are found again in memory, on disk and by other processes."""

from __future__ import annotations

import copy
import errno
import multiprocessing
import os
import pickle
import threading
import time
import warnings
from dataclasses import replace

import pytest
import torch
from networks import basic_resnet, options_of, reuse, small_vgg
from torch import nn

import agf_fx
from agf_fx.errors import ArchitectureError, OptionsError
from agf_fx.ir import serial
from agf_fx.runtime import keys
from agf_fx.store import CacheWarning, disk
from agf_fx.store.counters import Counters
from agf_fx.store.locks import Lock
from agf_fx.store.memory import ARCHITECTURES, PROGRAMS, Recent

PREPARED_ONLY = Counters(prepares=1, hits=2)
FROM_DISK = Counters(prepares=1, loads=2)
FROM_SCRATCH = Counters(captures=1, emissions=1, compilations=1, prepares=1)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of this test's own."""
    monkeypatch.setenv("AGF_FX_CACHE", "disk")
    monkeypatch.setenv("AGF_FX_CACHE_DIR", str(tmp_path / "cache"))
    agf_fx.cache.forget()
    disk._WARNED.clear()
    yield disk.Disk(tmp_path / "cache")
    agf_fx.cache.forget()


def images(count=2, size=16):
    return torch.randn(count, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def explained(model, size=16, **options):
    """The maps of a new explainer, and what it took to get them."""
    explainer = agf_fx.compile(model, **options)
    return explainer(images(size=size), 1), explainer.counters


# --- the same architecture


def test_a_second_model_only_prepares_its_weights():
    first, took = explained(small_vgg(seed=0))
    assert took == FROM_SCRATCH
    second, took = explained(small_vgg(seed=1))
    assert took == PREPARED_ONLY
    assert not torch.equal(first, second)
    uncached, took = explained(small_vgg(seed=1), compile_options=agf_fx.CompileOptions(cache="off"))
    assert took == FROM_SCRATCH
    assert torch.equal(second, uncached)


def test_a_fine_tuned_model_only_prepares_its_weights():
    model = small_vgg()
    explainer = agf_fx.compile(model, images())
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for expected in (1, 2, 3):
        found = explainer(images(), 1)
        assert explainer.counters == replace(FROM_SCRATCH, prepares=expected)
        assert torch.equal(found, explained(model, compile_options=agf_fx.CompileOptions(cache="off"))[0])
        model(images()).square().sum().backward()
        optimiser.step()
    assert explained(model)[1] == PREPARED_ONLY


def test_frozen_weights_are_the_same_architecture():
    explained(small_vgg())
    assert explained(small_vgg(seed=1).requires_grad_(False))[1] == PREPARED_ONLY


def test_another_process_finds_the_graphs(cache):
    first, _ = explained(basic_resnet(), 32)
    agf_fx.cache.forget()
    second, took = explained(basic_resnet(), 32)
    assert took == FROM_DISK
    assert torch.equal(first, second)
    assert agf_fx.cache.info().graphs == 2


def test_a_loaded_explainer_is_complete():
    models = [reuse(), small_vgg(), basic_resnet()]
    before = [agf_fx.compile(model, images(size=32)) for model in models]
    agf_fx.cache.forget()
    for old, model in zip(before, models, strict=True):
        new = agf_fx.compile(model, images(size=32))
        assert new.counters.loads == 2
        assert str(new.graph) == str(old.graph)
        assert str(new.graph.canonical) == str(old.graph.canonical)
        assert new.fingerprint == old.fingerprint
        assert str(new.conservation(images(size=32), 1)) == str(old.conservation(images(size=32), 1))
        assert new.graph.to_networkx().nodes == old.graph.to_networkx().nodes


# --- another architecture


class Variable(nn.Module):
    """Every attribute can make it another architecture."""

    def __init__(self, **changes):
        super().__init__()
        torch.manual_seed(0)
        settings = {"stride": 1, "bias": True, "slope": 0.1, "scale": 2.0, "tied": False, "width": 4, **changes}
        self.conv = nn.Conv2d(3, settings["width"], 3, settings["stride"], bias=settings["bias"])
        self.act = nn.LeakyReLU(settings["slope"])
        self.scale = settings["scale"]
        self.table = torch.full((1,), settings.get("table", 1.5), dtype=torch.float64)
        self.one = nn.Linear(settings["width"], settings["width"])
        self.two = self.one if settings["tied"] else nn.Linear(settings["width"], settings["width"])
        self.fc = nn.Linear(settings["width"], 5)
        self.order = settings.get("order", 0)
        self.double().eval()

    def forward(self, x):
        x = self.act(self.conv(x)).mean((2, 3)) * self.scale + torch.sqrt(self.table)
        x = self.two(self.one(x))
        return self.fc(x) if self.order == 0 else -self.fc(-x)


CHANGES = [
    {"stride": 2},
    {"bias": False},
    {"slope": 0.2},
    {"scale": 3.0},
    {"tied": True},
    {"width": 6},
    {"order": 1},
    {"table": 2.5},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_another_architecture_is_captured(change):
    explained(Variable())
    found, took = explained(Variable(**change))
    assert took == FROM_SCRATCH
    assert torch.equal(found, explained(Variable(**change), compile_options=agf_fx.CompileOptions(cache="off"))[0])


def test_other_image_sizes_methods_options_and_precisions_are_other_graphs():
    paper = agf_fx.AGFOptions(dialect="paper")
    variants = [{}, {"size": 17}, {"method": "gradient_x_input"}, {"options": paper}, {"precision": "float32"}]
    for variant in variants:
        assert explained(small_vgg(), **variant)[1].emissions == 1
    for variant in variants:
        assert explained(small_vgg(), **variant)[1] == PREPARED_ONLY


def test_the_key_holds_versions(monkeypatch):
    before = keys.digest(trace="x")
    keys._versions.cache_clear()
    monkeypatch.setattr(torch, "__version__", "3.0.0")
    assert keys.digest(trace="x") != before
    keys._versions.cache_clear()


def test_hooks_and_functions_that_no_trace_shows_are_captured_each_time():
    def shifted(module, arguments, output):
        return output + module.shift

    def build(shift):
        model = small_vgg()
        model.features[0].shift = shift
        model.features[0].register_forward_hook(shifted)
        return model

    maps = [explained(build(shift)) for shift in (0.0, 1.0)]
    assert [took.captures for _, took in maps] == [1, 1]
    assert not torch.equal(maps[0][0], maps[1][0])


def test_a_registered_rule_stays_in_memory_and_may_change(cache):
    class Network(nn.Sequential):
        def forward(self, x):
            return super().forward(torch.ops.aten.digamma.default(x.clamp(-0.5, 0.5)))

    torch.manual_seed(0)
    model = Network(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 5)).double().eval()

    def vjp(factor):
        return lambda site, g: (g * factor,)

    op = torch.ops.aten.digamma.default
    try:
        agf_fx.register_rule(op, "pass-through", vjp=vjp(1.0))
        first, took = explained(model, method="gradient_x_input")
        assert took == FROM_SCRATCH
        assert explained(model, method="gradient_x_input")[1] == PREPARED_ONLY
        assert agf_fx.cache.info().graphs == 0
        agf_fx.register_rule(op, "pass-through", vjp=vjp(2.0))
        second, took = explained(model, method="gradient_x_input")
        assert took.emissions == 1
        torch.testing.assert_close(second, 2 * first)
    finally:
        from agf_fx.ir.vocabulary import VOCABULARY
        from agf_fx.rules.gradients import VJPS

        VOCABULARY.pop(op, None)
        VJPS.pop(op, None)


# --- values that a capture contains


class Reading(nn.Module):
    """Computes with tensors that are no parameters, in every way that a trace can miss."""

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.conv, self.fc = kind, nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
        self.register_buffer("buffer", torch.tensor([2.0]))
        self.weight = nn.Parameter(torch.tensor([2.0]))
        self.plain = torch.tensor([2.0], dtype=torch.float64)
        self.kept = {"first": torch.tensor([2.0], dtype=torch.float64)}
        self.double().eval()

    def factor(self):
        return {
            "computed from a buffer": lambda: torch.sqrt(self.buffer),
            "number of a buffer": lambda: self.buffer.item(),
            "float of a buffer": lambda: float(self.buffer),
            "number of a parameter": lambda: self.weight.item(),
            "choice by a buffer": lambda: 1.0 if self.buffer > 1 else 3.0,
            "plain tensor": lambda: torch.sqrt(self.plain),
            "kept in a dictionary": lambda: torch.sqrt(self.kept["first"]),
        }[self.kind]()

    def forward(self, x):
        return self.fc((self.conv(x).relu() * self.factor()).mean((2, 3)))


KINDS = [
    "computed from a buffer",
    "number of a buffer",
    "float of a buffer",
    "number of a parameter",
    "choice by a buffer",
    "plain tensor",
    "kept in a dictionary",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("caching", ["off", "disk"])
def test_no_value_of_the_model_is_stale(kind, caching, monkeypatch):
    monkeypatch.setenv("AGF_FX_CACHE", caching)
    model = Reading(kind)
    explainer = agf_fx.compile(model)
    for factor in (1.0, 0.1, 5.0):
        with torch.no_grad():
            for tensor in (model.buffer, model.weight, model.plain, model.kept["first"]):
                tensor.mul_(factor)
        torch.testing.assert_close(explainer.explain(images(), 1).logits, model(images()).detach())
    model.kept["first"] = model.kept["first"] * 2
    model.plain = model.plain * 2
    torch.testing.assert_close(explainer.explain(images(), 1).logits, model(images()).detach())


def test_a_number_that_no_graph_can_follow_is_refused():
    class Clamped(Reading):
        def forward(self, x):
            return self.fc(self.conv(x).clamp(min=self.weight.item()).mean((2, 3)))

    with pytest.raises(agf_fx.errors.CaptureError, match=r"test_cache.py:.*Keep it a tensor"):
        agf_fx.compile(Clamped("plain tensor"), images())


# --- rebinding


def test_bind_explains_another_model():
    models = small_vgg(seed=0), small_vgg(seed=1)
    expected = [explained(model)[0] for model in models]
    explainer = agf_fx.compile(models[0], images())
    assert explainer.bind(models[1]) is explainer
    assert explainer.model is models[1]
    assert explainer.graph is not None
    assert torch.equal(explainer(images(), 1), expected[1])
    assert torch.equal(explainer.bind(models[0])(images(), 1), expected[0])
    assert explainer.counters.captures == explainer.counters.emissions == 0


@pytest.mark.parametrize("caching", ["off", "memory"])
def test_bind_refuses_another_architecture(caching, monkeypatch):
    monkeypatch.setenv("AGF_FX_CACHE", caching)
    model = small_vgg()
    explainer = agf_fx.compile(model)
    before = explainer(images(), 1)
    with pytest.raises(ArchitectureError, match="another architecture than the compiled TinyVGG"):
        explainer.bind(small_vgg(classes=6))
    with pytest.raises(ArchitectureError, match="cannot take the place"):
        explainer.bind(small_vgg().float())
    assert explainer.model is model
    assert torch.equal(explainer(images(), 1), before)
    explainer.bind(small_vgg(seed=1))
    assert torch.equal(explainer(images(), 1), explained(small_vgg(seed=1))[0])


def test_bind_before_anything_is_compiled():
    explainer = agf_fx.compile(small_vgg())
    assert torch.equal(explainer.bind(basic_resnet())(images(size=32), 1), explained(basic_resnet(), 32)[0])


# --- memory


def test_the_memory_is_bounded_and_the_oldest_goes():
    recent = Recent(2)
    for key in "abc":
        recent.get(key, lambda key=key: key.upper())
        recent.peek("a")
    assert [key for key, _ in recent.items()] == ["c", "a"]
    assert recent.get("a", pytest.fail) == "A"
    assert ARCHITECTURES.size == PROGRAMS.size == 32


def test_threads_make_a_value_once_and_do_not_wait_for_other_keys():
    recent, made, gate = Recent(4), [], threading.Event()

    def slow():
        made.append("slow")
        assert gate.wait(10)
        return "slow"

    threads = [threading.Thread(target=recent.get, args=("slow", slow)) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert recent.get("quick", lambda: "quick") == "quick"
    gate.set()
    for thread in threads:
        thread.join(10)
    assert made == ["slow"]
    assert recent.peek("slow") == "slow"


def test_a_value_that_cannot_be_made_is_tried_again():
    recent = Recent(2)
    with pytest.raises(ZeroDivisionError):
        recent.get("a", lambda: 1 // 0)
    assert recent.get("a", lambda: 1) == 1


def test_a_fork_finds_locks_open():
    lock = Lock()
    lock.__enter__()
    child = os.fork()
    if child == 0:
        with lock:
            os._exit(0)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.02)
    else:
        os.kill(child, 9)
        pytest.fail("the child waits for a lock of its parent")
    assert status == 0


def test_threads_compile_once():
    model, explainers = small_vgg(), []

    def compile_and_explain():
        explainer = agf_fx.compile(model, images())
        explainers.append((explainer, explainer(images(), 1)))

    threads = [threading.Thread(target=compile_and_explain) for _ in range(4)]
    with agf_fx.cache.counting() as took:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (took.captures, took.emissions, took.prepares) == (1, 1, 4)
    assert all(torch.equal(maps, explainers[0][1]) for _, maps in explainers)


def test_one_explainer_keeps_a_bounded_number_of_image_sizes(monkeypatch):
    from agf_fx.runtime import binding

    monkeypatch.setattr(binding, "IMAGE_SIZES", 2)
    explainer = agf_fx.compile(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double())
    for size in (8, 9, 10):
        explainer.prepare(images(size=size))
    assert "3x9x9, 3x10x10" in repr(explainer)
    assert "3x8x8" not in repr(explainer)


# --- disk


def damaged(path, how):
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        path.write_bytes(content[:-10] + bytes([content[-10] ^ 1]) + content[-9:])
    elif how == "another version":
        path.write_bytes(content.replace(b"agf-fx cache 1", b"agf-fx cache 9"))
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "unreadable":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize("how", ["truncated", "flipped", "another version", "empty", "unreadable"])
def test_a_damaged_entry_costs_one_warning(cache, how):
    expected, _ = explained(small_vgg())
    for path in cache.graphs.iterdir():
        if path.stat().st_size == max(other.stat().st_size for other in cache.graphs.iterdir()):
            damaged(path, how)
            break
    agf_fx.cache.forget()
    with pytest.warns(CacheWarning) as caught:
        found, took = explained(small_vgg())
    assert len(caught) == 1
    assert (took.captures, took.emissions) == (0, 1)
    assert torch.equal(found, expected)
    agf_fx.cache.forget()
    if how != "unreadable":
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert explained(small_vgg())[1] == FROM_DISK


def test_an_entry_under_another_key_is_refused(cache):
    explained(small_vgg())
    expected, _ = explained(basic_resnet(), 16)
    agf_fx.cache.forget()
    paths = sorted(cache.graphs.iterdir(), key=lambda path: path.stat().st_size)
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, reversed(contents), strict=True):
        path.write_bytes(content)
    with pytest.warns(CacheWarning, match="belongs to another key"):
        found, took = explained(basic_resnet(), 16)
    assert took.captures == took.emissions == 1
    assert torch.equal(found, expected)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_or_a_read_only_folder_costs_one_warning(code, monkeypatch):
    def refuse(path):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(disk, "atomic_write", refuse)
    with pytest.warns(CacheWarning, match=os.strerror(code)) as caught:
        found, took = explained(small_vgg())
    assert len(caught) == 1
    assert took == FROM_SCRATCH
    assert torch.equal(found, explained(small_vgg(), compile_options=agf_fx.CompileOptions(cache="off"))[0])


def test_no_folder_at_all_costs_one_warning(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("AGF_FX_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.warns(CacheWarning, match="Not a directory") as caught:
        _, took = explained(small_vgg())
    assert len(caught) == 1
    assert took == FROM_SCRATCH


def test_nothing_is_unpickled(monkeypatch):
    explained(small_vgg())
    agf_fx.cache.forget()

    def refuse(*arguments, **options):
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assert explained(small_vgg())[1] == FROM_DISK


def test_data_names_operations_and_no_other_code(cache):
    canonical = agf_fx.capture(small_vgg(), images())
    data, constants = serial.write_canonical(canonical)
    for name in ("system.default", "__class__.__name__", "conv2d.__call__", "ops.aten"):
        forged = copy.deepcopy(data)
        position = next(i for i, entry in enumerate(forged["graph"]["table"]) if entry == "conv2d.default")
        forged["graph"]["table"][position] = name
        with pytest.raises(serial.Unreadable):
            serial.read_canonical(forged, constants)


def _compile_in_child(model, folder, results, start):
    os.environ |= {"AGF_FX_CACHE": "disk", "AGF_FX_CACHE_DIR": folder}
    start.wait()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        maps, took = explained(model)
    results.put((took.captures, took.emissions, took.loads, maps.sum().item(), [str(w.message) for w in caught]))


def test_of_eight_processes_one_compiles(cache):
    context = multiprocessing.get_context("fork")
    results, start = context.Queue(), context.Barrier(8)
    arguments = (small_vgg(), str(cache.root), results, start)
    children = [context.Process(target=_compile_in_child, args=arguments) for _ in range(8)]
    for child in children:
        child.start()
    found = [results.get(timeout=120) for _ in children]
    for child in children:
        child.join(20)
        assert child.exitcode == 0
    assert sum(captures for captures, *_ in found) == 1
    assert sum(emissions for _, emissions, *_ in found) == 1
    assert sorted(loads for _, _, loads, *_ in found) == [0] + [2] * 7
    assert len({total for *_, total, _ in found}) == 1
    assert not any(messages for *_, messages in found)


def test_the_cache_is_off_by_option(cache, monkeypatch):
    for chosen in ("memory", "off"):
        explained(small_vgg(), compile_options=agf_fx.CompileOptions(cache=chosen))
    assert agf_fx.cache.info().graphs == 0
    monkeypatch.setenv("AGF_FX_CACHE", "sometimes")
    with pytest.raises(OptionsError, match="AGF_FX_CACHE"):
        explained(small_vgg())


def test_prune_and_clear(cache):
    explained(small_vgg())
    explained(basic_resnet(), 32)
    entries = sorted(cache.graphs.iterdir())
    now = time.time()
    for age, path in enumerate(entries):
        os.utime(path, (now - 1000 * age,) * 2)
    sizes = [path.stat().st_size for path in entries]
    assert agf_fx.cache.prune(older_than=2500) == sizes[3]
    assert agf_fx.cache.prune(max_bytes=sum(sizes[:2])) == sizes[2]
    assert agf_fx.cache.info().graph_bytes == sum(sizes[:2])
    assert agf_fx.cache.prune(max_bytes=10**9, older_than=10**6) == 0
    (cache.root / "mine.txt").write_text("of the user")
    assert agf_fx.cache.clear().graphs == 2
    assert agf_fx.cache.info().graphs == 0
    assert (cache.root / "mine.txt").exists()


@pytest.mark.parametrize("unknown", ["refuse", "gradient"])
def test_operations_explained_by_their_gradient_are_cached_and_warned_of(unknown):
    class Cumulative(nn.Sequential):
        def forward(self, x):
            return super().forward(torch.cumsum(x, 3))

    torch.manual_seed(0)
    model = Cumulative(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 5)).double().eval()
    if unknown == "refuse":
        for _ in range(2):
            with pytest.raises(agf_fx.errors.UnsupportedOpError):
                explained(model)
        return
    maps = []
    for expected in (FROM_SCRATCH, PREPARED_ONLY, FROM_DISK):
        if expected == FROM_DISK:
            agf_fx.cache.forget()
        with pytest.warns(UserWarning, match="explained by its gradient"):
            found, took = explained(model, unknown_ops="gradient")
        assert took == expected
        maps.append(found)
    assert torch.equal(maps[0], maps[1])
    assert torch.equal(maps[0], maps[2])


def test_a_model_in_training_mode_is_warned_of_each_time():
    for _ in range(2):
        with pytest.warns(UserWarning, match="training mode"):
            agf_fx.compile(small_vgg().train(), images())


@pytest.mark.parametrize("name", [*agf_fx.methods.REGISTRY])
def test_graphs_of_every_method_are_found_again(name, tmp_path, monkeypatch):
    monkeypatch.setenv("AGF_FX_CACHE_DIR", str(tmp_path))
    counted = []
    model, cache = small_vgg().eval(), agf_fx.CompileOptions(cache="disk")
    options = options_of(name, model)
    for _ in range(2):
        agf_fx.cache.forget()  # as in a new process
        explainer = agf_fx.compile(model, method=name, options=options, compile_options=cache)
        with warnings.catch_warnings():
            warnings.simplefilter("error", CacheWarning)
            maps = explainer(torch.zeros(1, 3, 16, 16).double() + 0.1, 1)
        counted.append((explainer.counters.emissions, maps))
    assert [emissions for emissions, _ in counted] == [1, 0]
    assert torch.equal(counted[0][1], counted[1][1])
