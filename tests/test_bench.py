import contextlib
import io
import itertools
import json
import math
import sys
from pathlib import Path

import pytest
import torch
import torchvision

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import bench
from benchmark.memory import allocator_peak, live_peak
from benchmark.peers import PEERS, Peer, peer_runs
from benchmark.products import Layout, layout, products_of, work
from benchmark.starting import starting_row
from benchmark.subjects import kept_alive_bytes
from benchmark.tables import starts
from benchmark.timing import interleaved

import agf_fx
from agf_fx.methods import REGISTRY

SMALL = [
    "--models",
    "resnet18",
    "--size",
    "32",
    "--repeats",
    "1",
    "--turn",
    "0",
    "--starts",
    "0",
    "--backends",
    "eager",
]
CPU = torch.device("cpu")
OTHERS = ("forward and backward", "agf-fx gradcam", "agf-fx lrp-epsilon", "Captum LRP", "Zennit EpsilonPlusFlat")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The figures of one small run, and the tables that it printed."""
    file = tmp_path_factory.mktemp("bench") / "figures.json"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        bench.main([*SMALL, "--batches", "1", "2", "--targets", "1", "3", "--json", str(file), "--peers", *OTHERS])
    return json.loads(file.read_text()), printed.getvalue()


@pytest.fixture(scope="module")
def written(results):
    return results[0]


def test_writes_every_figure(written):
    assert set(written) == {"machine", "settings", "setup", "starts", "forwards", "explanations", "peers"}
    assert {"processor", "cores", "threads", "torch", "torchvision", "agf_fx", "python", "commit", "command"} <= set(
        written["machine"]
    )
    (setup,) = written["setup"]
    assert {"capture_s", "emission_s", "passes_s", "prepare_s", "nodes_emitted", "nodes"} <= set(setup)
    assert [row["batch"] for row in written["forwards"]] == [1, 2]
    for row in written["explanations"]:
        for name in ("explanation", "bare_products", "over_bare_products", "first_call_s", "later_call_s"):
            assert set(row[name]) == {"1", "3"}
            assert all(math.isfinite(value) and value > 0 for value in row[name].values())
        assert set(row["further_target"]) == set(row["bare_further_target"]) == {"3"}
        assert set(row["memory"]["3"]) == {"live", "allocator", "rss_growth", "kept_alive"}


def test_counts_that_do_not_depend_on_the_machine(written):
    one, two = written["explanations"]
    assert one["products_per_layer"]["1"] > 2
    assert one["product_work"]["1"] == pytest.approx(two["product_work"]["1"])
    assert one["product_work"]["3"] == pytest.approx(one["product_work"]["1"] + 2 * one["work_further_target"]["3"])
    assert two["memory"]["1"]["kept_alive"] == 2 * one["memory"]["1"]["kept_alive"]
    assert 1.9 < two["memory"]["1"]["live"] / one["memory"]["1"]["live"] <= 2
    assert written["forwards"][0]["products"] == 21  # convolutions and the linear layer of a ResNet-18


def test_every_peer_is_reported(written):
    own = [peer.name.partition(",")[0] for peer in PEERS if peer.package == "agf-fx"]
    assert own == [f"agf-fx {name}" for name in REGISTRY if name != "agf"]
    several = {f"{name}, 3 targets" for name in OTHERS if name in own}
    assert len(several) == 2
    for batch in (1, 2):
        rows = [row for row in written["peers"] if row["batch"] == batch]
        assert {row["peer"] for row in rows} == {*OTHERS, *several}
        assert all(("multiple" in row) != ("refused" in row) for row in rows)


def test_prints_tables_with_as_many_cells_in_every_row(results):
    lines = results[1].splitlines()
    titles = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
    assert titles == ["Cost", "Memory", "Set-up", "Compilation", "Other methods"]
    for above, below in itertools.pairwise(lines):
        if above.startswith("|") and below.startswith("|"):
            assert above.count("|") == below.count("|")


def test_live_bytes_are_exact():
    x = torch.ones(1000)

    def run():
        a = x + 1  # 4000 bytes
        b = a * 2  # 8000 alive
        del a
        c = b.view(10, 100).t()  # a view owns nothing
        b.add_(1)
        return torch.cat([c, c])  # 12000 alive

    assert live_peak(run) == 12000
    assert 12000 <= allocator_peak(run) < 12100


def test_live_bytes_follow_what_autograd_keeps():
    x = torch.ones(1000, requires_grad=True)

    def run():
        return x.exp().exp().exp().sum()  # every exp is kept for the backward pass

    assert live_peak(run) == 12004


def test_inputs_cost_nothing():
    x = torch.ones(1000)
    assert live_peak(lambda: x.detach().view(10, 100).mul_(1)) == 0


def test_kept_alive_counts_activations_gradients_and_relevances():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.Flatten(), torch.nn.Linear(32, 5)).eval()
    canonical = agf_fx.capture(model, torch.zeros(1, 1, 4, 4))
    values = 16 + 32 + 5  # images, convolution, logits; flattening is a view
    assert kept_alive_bytes(canonical, images=3, targets=1) == 3 * 3 * 4 * values
    assert kept_alive_bytes(canonical, images=3, targets=5) == 3 * 11 * 4 * values


def test_products_are_recorded_in_their_layout():
    x, weight = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last), torch.randn(4, 3, 3, 3)

    def run():
        y = torch.nn.functional.conv2d(x, weight)
        torch.nn.functional.conv_transpose2d(y.relu(), weight)
        torch.matmul(y.flatten(1), torch.randn(144, 5))
        torch.matmul(y.flatten(2), y.flatten(2).transpose(1, 2))  # of two batched operands

    products = products_of(run)
    assert [product.target.overloadpacket.__name__ for product in products] == ["convolution", "convolution", "mm"]
    assert products[0].args[0] == layout(x)
    assert work(products[:1]) == 2 * 2 * 4 * 36 * 27
    assert work(products[2:]) == 2 * 2 * 144 * 5


@pytest.mark.parametrize("stride", [(12, 4, 1), (12, 1, 3), (0, 4, 1), (24, 4, 1)])
def test_random_tensors_have_the_layout_asked_for(stride):
    wanted = Layout((2, 3, 4), stride, torch.float32, CPU)
    assert layout(wanted.random()) == wanted


def test_runs_take_turns():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = interleaved(runs, repeats=2, device=CPU, minimum=0)
    assert order == list("ababab")
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_a_failing_peer_is_named_and_an_absent_one_too(monkeypatch):
    def fails(model, images, target):
        raise AssertionError("unsupported")

    peers = (Peer("broken", "torch", fails), Peer("absent", "no-such-distribution", fails))
    monkeypatch.setattr("benchmark.peers.PEERS", peers)
    model = torchvision.models.resnet18()
    assert peer_runs(model, torch.randn(1, 3, 32, 32), torch.tensor([0]), None) == ({}, {})
    runs, refused = peer_runs(model, torch.randn(1, 3, 32, 32), torch.tensor([0]), [])
    assert runs == {}
    assert refused == {"broken": "fails: AssertionError", "absent": "not installed"}


def test_starts_are_cold_and_then_warm():
    """A process starts with nothing, the next one with all that it left; the tables tell them apart."""
    settings = bench.settings_of(bench.parse([*SMALL, "--models", "squeezenet1_1", "--size", "32", "--starts", "1"]))
    row = starting_row("squeezenet1_1", settings)
    assert (row["cold"]["counters"]["captures"], row["warm"]["counters"]["captures"]) == (1, 0)
    assert (row["cold"]["counters"]["emissions"], row["warm"]["counters"]["emissions"]) == (1, 0)
    assert 0 < row["warm"]["compile_s"] < row["warm"]["ready_s"]
    table = starts({"starts": [row], "settings": {"starts": 1}}).splitlines()
    assert len({line.count("|") for line in table if line.startswith("|")}) == 1
    assert [line.split("|")[2].strip() for line in table[-2:]] == ["empty", "filled"]
