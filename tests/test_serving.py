"""An explainer in a service: threads, worker processes, pickling, memory."""

from __future__ import annotations

import concurrent.futures
import copy
import gc
import multiprocessing
import os
import pickle
import tracemalloc
import weakref

import pytest
import torch
from networks import small_vgg
from torch import nn
from torch.utils.data import DataLoader, Dataset

import agf_fx
from agf_fx.errors import PicklingError


@pytest.fixture(autouse=True)
def _nothing_is_cached(monkeypatch):
    monkeypatch.setenv("AGF_FX_CACHE", "off")


CALLS, TRACED, THREADS = 2000, 200, 8


def tiny(seed=0):
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(4 * 3 * 3, 5)).eval()


def requests():
    """Batches of different sizes with different numbers of targets, and one of another image size."""
    generator = torch.Generator().manual_seed(0)
    for count, targets in [(1, 1), (2, 1), (3, 2), (1, 4), (5, 1), (2, 3)]:
        yield torch.randn(count, 3, 8, 8, generator=generator), torch.arange(count * targets).reshape(count, -1) % 5
    yield torch.randn(2, 3, 9, 9, generator=generator), torch.tensor([[0], [1]])


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_threads_share_an_explainer_without_growth():
    explainer, given = agf_fx.compile(tiny()), list(requests())
    serial = [explainer(images, target) for images, target in given]

    def call(number):
        images, target = given[number % len(given)]
        return torch.equal(explainer(images, target), serial[number % len(given)])

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(call, range(CALLS // 4)))  # warms up
        gc.collect()
        before = resident_bytes()
        assert all(pool.map(call, range(CALLS)))
        gc.collect()
        assert resident_bytes() <= 1.02 * before
        tracemalloc.start()
        assert all(pool.map(call, range(TRACED // 2)))
        traced = tracemalloc.get_traced_memory()[0]
        assert all(pool.map(call, range(TRACED)))
        gc.collect()
        assert (
            tracemalloc.get_traced_memory()[0] - traced <= 16 * TRACED
        )  # the smallest object left by a call takes more
        tracemalloc.stop()
    assert explainer.counters.captures == 2


def close(found, expected):
    """Equal but for rounding: while a thread captures, torch.export switches oneDNN off for all of them."""
    return bool((found - expected).abs().max() <= 1e-5 * expected.abs().max())


def test_threads_that_call_first_compile_once():
    explainer, given = agf_fx.compile(tiny()), list(requests())
    serial = [agf_fx.compile(tiny())(images, target) for images, target in given]
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda request: explainer(*request), given * 3))
    assert all(map(close, found, serial * 3))
    assert explainer.counters.captures == explainer.counters.emissions == 2


def test_one_thread_traces_while_another_explains():
    """Tracing changes how modules are called, and how their weights are read, everywhere; running must not care."""
    model = small_vgg().float()
    explainer, x = agf_fx.compile(model), torch.randn(1, 3, 16, 16)
    expected = explainer(x, 1)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        compiling = pool.submit(lambda: [agf_fx.compile(model, torch.randn(1, 3, size, size)) for size in (17, 18)])
        calls = 0
        while not compiling.done():
            assert close(explainer(x, 1), expected)
            calls += 1
        compiling.result()
    assert calls > 5


def test_bind_while_threads_explain(monkeypatch):
    """Every answer is one model's, never a mixture."""
    monkeypatch.setenv("AGF_FX_CACHE", "memory")
    models = tiny(0), tiny(1)
    x = torch.randn(2, 3, 8, 8)
    expected = [agf_fx.compile(model)(x, 1) for model in models]
    explainer = agf_fx.compile(models[0], x)

    def call(number):
        if number % 10 == 0:
            explainer.bind(models[number // 10 % 2])
        found = explainer(x, 1)
        return any(close(found, maps) for maps in expected)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, range(200)))


class Explained(Dataset):
    """Explains in the worker, with the explainer of its parent."""

    def __init__(self, explainer):
        self.explainer = explainer

    def __len__(self):
        return 4

    def __getitem__(self, index):
        images, target = next(requests())
        return self.explainer(images + index, target)[0]


class Plain(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return next(requests())[0][0] + index


def test_forked_workers_use_the_explainer_of_their_parent():
    dataset = Explained(agf_fx.compile(tiny(), torch.zeros(1, 3, 8, 8)))
    expected = torch.stack([dataset[index] for index in range(4)])
    loader = DataLoader(dataset, batch_size=4, num_workers=2, multiprocessing_context="fork")
    (found,) = loader
    assert torch.equal(found, expected)


def test_a_forked_worker_compiles_for_itself():
    dataset = Explained(agf_fx.compile(tiny()))
    loader = DataLoader(dataset, batch_size=4, num_workers=1, multiprocessing_context="fork")
    (found,) = loader
    assert torch.equal(found, torch.stack([dataset[index] for index in range(4)]))


def test_spawned_workers_feed_an_explainer():
    explainer = agf_fx.compile(tiny())
    loader = DataLoader(Plain(), batch_size=4, num_workers=1, multiprocessing_context="spawn")
    (batch,) = loader
    assert explainer(batch, 1).shape == (4, 8, 8)


def test_a_spawned_worker_cannot_be_given_an_explainer():
    loader = DataLoader(
        Explained(agf_fx.compile(tiny())), num_workers=1, multiprocessing_context=multiprocessing.get_context("spawn")
    )
    with pytest.raises(PicklingError, match=r"agf_fx\.compile there"):
        next(iter(loader))


@pytest.mark.parametrize("attempt", [pickle.dumps, copy.deepcopy, copy.copy])
def test_pickling_is_refused_with_advice(attempt):
    with pytest.raises(PicklingError, match=r"explainer.export\(path\).*agf_fx.load\(path\)"):
        attempt(agf_fx.compile(tiny()))


@pytest.mark.parametrize("caching", ["off", "memory"])
def test_a_model_dies_with_its_owners(caching, monkeypatch):
    """Compiled graphs stay in the cache and hold neither model nor weights."""
    monkeypatch.setenv("AGF_FX_CACHE", caching)
    model = small_vgg()
    explainer = agf_fx.compile(model)
    explainer.explain(torch.randn(2, 3, 16, 16, dtype=torch.float64), top_k=2)
    watched = [weakref.ref(model), *map(weakref.ref, model.parameters()), *map(weakref.ref, model.buffers())]
    prepared = [weakref.ref(tensor) for tensor in explainer._captured().inputs(model)]
    del model, explainer
    gc.collect()
    assert not any(reference() is not None for reference in (*watched, *prepared))
    agf_fx.cache.forget()


def test_a_model_that_was_replaced_dies():
    model = tiny()
    explainer = agf_fx.compile(model, torch.zeros(1, 3, 8, 8))
    old = weakref.ref(model)
    explainer.bind(tiny(1))
    del model
    gc.collect()
    assert old() is None


def test_the_model_keeps_no_trace_of_its_explainer():
    model = tiny()
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    explainer = agf_fx.compile(model, torch.zeros(1, 3, 8, 8))
    dead = weakref.ref(explainer)
    del explainer
    gc.collect()
    assert dead() is None
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before
