"""Looking into explanation graphs: rows of nodes and layers, stages, tables, formats of other programs, the command."""

from __future__ import annotations

import functools
import io
import json
import os
import re
import shutil
import xml.etree.ElementTree as ET
from importlib import import_module
from types import SimpleNamespace

import networkx as nx
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

import agf_fx
from agf_fx.cli import app
from agf_fx.errors import MemoryLimitError, MissingDependencyError, OptionsError
from agf_fx.inspect import formats
from agf_fx.inspect.fitting import Column, FittingTable
from agf_fx.inspect.stages import STAGES, StepChange
from agf_fx.inspect.tables import layers_table, overview
from agf_fx.ir import serial
from agf_fx.ir.views import READ_OUT, SEED, WEIGHTS, of_layer, screen_depth
from agf_fx.methods import REGISTRY
from agf_fx.runtime.planning import parsed_bytes

SIZE = 12
inspect_command = import_module("agf_fx.cli.inspect")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2 = nn.Conv2d(4, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(x + self.conv2(self.relu(self.bn1(self.conv1(x)))))


class Net(nn.Module):
    """A stem, two residual blocks in a stage, and a head; a module whose name is markup for somebody."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1)
        self.stage = nn.Sequential(Block(), Block())
        self.add_module("<b>[red]", nn.Conv2d(4, 4, 1))
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        x = self.stage(F.relu(self.stem(x)))
        return self.fc(F.relu(getattr(self, "<b>[red]")(x)).mean((2, 3)))


@functools.cache
def network():
    torch.manual_seed(0)
    return Net().eval()


@functools.cache
def explainer(method="agf"):
    return agf_fx.compile(network(), torch.zeros(1, 3, SIZE, SIZE), method=method)


def graph(method="agf"):
    return explainer(method).graph


# --- rows -----------------------------------------------------------------------------------------------------------


def test_a_row_says_all_about_an_operation():
    views = {view.name: view for view in graph().nodes()}
    assert len(views) == len({node.name for g in (graph(), graph().prepare) for node in g.graph.nodes} - {"output"}) + 1
    view = next(v for v in views.values() if v.op == "conv2d" and v.layer == "stage.0.conv1" and v.symbol == "C")
    assert view.layer_type == "Conv2d"
    assert "self.conv1(x)" in view.source
    assert view.rule == "guided_convolution"
    assert view.symbol == "C"
    assert "eq. 9" in view.equation
    assert str(view.shape) == "(N, 4, 6, 6)"
    assert view.dtype == "float32"
    assert str(view.flops) == f"{2 * 4 * 36 * 36}*N"
    assert view.product
    assert view.part == "relevance"
    assert set(view.reads) <= set(views)
    weight = views["p_stage_0_conv1_weight"]
    assert (weight.op, weight.layer, weight.layer_type, weight.part) == ("input", "stage.0.conv1", "Conv2d", "input")


@pytest.mark.parametrize("method", [name for name in REGISTRY if not name.startswith("pattern") and name != "meta"])
def test_nodes_of_all_streams_belong_to_a_layer(method):
    """But for what begins at the logits and what maps end with, every operation has a call or a module of the model."""
    calls = {node.name for node in graph(method).canonical.graph.nodes}
    modules = graph(method).canonical.modules
    seeds = {"chosen_classes", "t", "K"}
    for view in graph(method).nodes():
        if view.op in ("input", "output"):
            continue
        if view.site:
            assert view.site in calls
            assert view.layer in modules
        elif view.layer:
            assert view.layer in modules
        else:
            assert view.place in (SEED, READ_OUT)
            assert view.rule or view.symbol in seeds, view


def test_read_outs_belong_to_the_layer_that_they_read():
    methods = {"gradcam": "stage", "eigencam": "stage", "normgrad": ("stage.0", "stage")}
    for method, layers in methods.items():
        options = {"layers" if method == "normgrad" else "layer": layers}
        compiled = agf_fx.compile(network(), torch.zeros(1, 3, SIZE, SIZE), method=method, options=options)
        views = [view for view in compiled.graph.nodes() if view.stream == "read-out" and view.layer]
        wanted = {"stage.0.relu", "stage.1.relu"} if method == "normgrad" else {"stage.1.relu"}
        assert {view.layer for view in views} == wanted, method
    contributing = {view.layer for view in graph("fullgrad").nodes() if view.stream == "read-out" and view.layer}
    assert contributing == {"stem", "<b>[red]", *(f"stage.{i}.conv{j}" for i in (0, 1) for j in (1, 2))}


def test_rows_of_layers():
    rows = {row.name: row for row in graph().layers()}
    assert next(iter(rows)) == SEED
    assert list(rows)[-1] == READ_OUT
    conv = rows["stage.0.conv1"]
    assert (conv.operation, conv.rule, conv.form) == ("conv2d", "guided_convolution", "full")
    assert "in region" in conv.role
    assert conv.products > 3
    assert (rows["stage.0.conv2"].rule, rows["stage.0.conv2"].form) == ("flat", "flat")
    assert rows["stem"].role.startswith("input layer")
    assert rows["stage.0"].operation == "add.Tensor"
    assert sum(row.share for row in rows.values()) == pytest.approx(1)
    counted = sum(row.nodes for row in rows.values())
    assert counted == len([node for node in graph().graph.nodes if node.op == "call_function"])


def test_layers_at_a_depth():
    rows = {row.name: row for row in graph().layers(1)}
    assert {"stem", "stage", "fc", "<b>[red]", "relu", "relu#2", "mean.dim", SEED, READ_OUT} == set(rows)
    stage = rows["stage"]
    assert stage.operation == "Sequential"
    assert stage.form == "full and flat"
    deeper = {row.name: row for row in graph().layers(2)}
    assert deeper["stage.0"].operation == "Block"
    assert deeper["stage.0"].nodes + deeper["stage.1"].nodes == stage.nodes
    assert screen_depth(graph(), 30) == 3
    assert screen_depth(graph(), 6) == 1
    assert screen_depth(graph(), 1) == 1


def test_a_gradient_that_ends_early_has_no_rule_in_front():
    rows = {row.name: row for row in graph("gradcam").layers()}
    assert rows["stem"].rule == ""
    assert rows["fc"].rule == "chain_rule"
    assert {row.rule for row in graph("lrp-epsilon").layers(1)} >= {"epsilon(ε=1e-06)"}


def test_weights_that_a_model_computes_have_a_row_of_their_own():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.scale = nn.Conv2d(3, 4, 3), nn.Parameter(torch.ones(4, 1, 1, 1))

        def forward(self, x):
            return F.conv2d(x, self.conv.weight * self.scale.exp(), self.conv.bias).mean((2, 3))

    explaining = agf_fx.compile(Scaled().eval(), torch.zeros(1, 3, 8, 8), method="gradient")
    rows = {row.name: row for row in explaining.graph.layers()}
    assert rows[WEIGHTS].prepared == 2


def test_rules_and_modules_survive_the_cache():
    found = graph("lrp-epsilon")
    canonical, constants = serial.write_canonical(found.canonical)
    read = serial.read_canonical(json.loads(json.dumps(canonical)), constants)
    assert read.modules == found.canonical.modules
    assert read.modules["stage.0"] == "Block"
    again = serial.read_explanation(json.loads(json.dumps(serial.write_explanation(found))), found.canonical)
    assert again.rules == found.rules
    assert [view.attributes() for view in again.nodes()] == [view.attributes() for view in found.nodes()]
    data = serial.write_explanation(found)
    data["rules"]["of"]["relevance"]["fc"] = 999
    with pytest.raises(serial.Unreadable):
        serial.read_explanation(data, found.canonical)


def test_operations_of_one_layer():
    views = of_layer(graph(), "stage.0")
    assert {view.layer for view in views} == {
        "stage.0",
        "stage.0.conv1",
        "stage.0.conv2",
        "stage.0.relu",
    }
    assert {view.part for view in views} == {"prepare", "forward", "gradient", "relevance"}
    assert all(view.place == SEED for view in of_layer(graph(), SEED))
    assert {view.op for view in of_layer(graph("gradient"), "mean.dim") if view.stream == "forward"} == {"mean.dim"}
    with pytest.raises(OptionsError, match=r"belongs to a layer 'stag.0'; did you mean 'stage.0'"):
        of_layer(graph(), "stag.0")


# --- stages and tables ----------------------------------------------------------------------------------------------


def test_stages():
    stages = explainer().stages()
    texts = {stage: str(stages[stage]) for stage in STAGES}
    assert "batch_norm" in texts["captured"]
    assert "input layer" not in texts["canonical"]
    assert "input layer" in texts["annotated"]
    assert len(stages["emitted"].graph.nodes) > len(stages["optimised"].graph.nodes)
    assert texts["optimised"] == str(graph())
    assert stages.facts()["residual merge"] == 2
    added = [line for line in stages.difference("canonical", "annotated") if line.startswith("+")]
    assert any("residual merge" in line for line in added)
    with pytest.raises(OptionsError, match="stage is 'lowered'; choose one of 'captured'"):
        stages["lowered"]
    with pytest.raises(OptionsError, match="both stages are 'emitted'"):
        stages.difference("emitted", "emitted")


def test_what_passes_changed():
    changes = {change.step: change for change in explainer().stages().changes}
    assert changes["fold_batch_norms"].changes["batch_norm"] == -2
    assert changes["emit"].after > changes["emit"].before
    assert changes["hoist_weight_constants"].fired
    assert next(iter(changes)) == "emit"
    last = list(changes.values())[-1]
    assert last.after == len(graph().graph.nodes) + len(graph().prepare.graph.nodes)
    change = StepChange("a", 3, 5, {"add": 2, "mul": -4, "sub": 1, "neg": 1, "abs": 1})
    assert change.in_words(2) == "-4 mul, +2 add, …"
    assert not StepChange("a", 3, 3, {}).fired


def printed(what, width=150):
    console = Console(file=io.StringIO(), width=width)
    console.print(what)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 150])
def test_the_overview_is_a_screen_and_names_stay_text(width):
    text = printed(overview(explainer().cost(4, 2, depth=2), explainer().stages()), width)
    assert "<b>[red]" in text
    assert max(map(len, text.splitlines())) <= width
    if width == 150:
        assert "N=4, K=2" in text
        assert "guided_convolution, flat" in text
        assert "full+flat" in text
        assert "fold_batch_norms" in text
        assert "100 %" in text


def of_network(name, method, depth):
    import torchvision

    made = agf_fx.compile(getattr(torchvision.models, name)().eval(), torch.zeros(1, 3, 64, 64), method=method)
    return made.cost(1, 1, depth=depth)


@pytest.mark.parametrize("width", [80, 100, 120, 160])
@pytest.mark.parametrize(("name", "method", "depth"), [("resnet18", "agf", 2), ("squeezenet1_1", "lrp-epsilon", 2)])
def test_layers_rules_and_shares_are_not_cut(name, method, depth, width):
    cost = of_network(name, method, depth)
    lines = printed(layers_table(cost), width).splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0].split()[0] == "layer"
    assert {"rule", "share"} <= set(lines[0].split())
    for layer in cost.layers:
        assert any(layer.name in line and layer.rule in line for line in lines), layer
        share = f"{layer.share:.1%}".replace("%", " %")
        assert layer.share < 0.0005 or any(layer.name in line and line.rstrip().endswith(share) for line in lines)


def test_what_a_narrow_terminal_leaves_out_is_named_and_comes_back():
    cost = of_network("squeezenet1_1", "lrp-epsilon", 2)
    shown = {width: set(printed(layers_table(cost), width).splitlines()[0].split()) for width in (60, 80, 100, 200)}
    assert shown[60] < shown[80] < shown[100] < shown[200]
    every = {
        "layer",
        "operation",
        "role",
        "rule",
        "ops",
        "products",
        "FLOP",
        "bytes",
        "alive",
        "share",
    }  # no form: not in LRP
    assert shown[200] == every
    last = printed(layers_table(cost), 80).splitlines()[-1]
    assert {word.strip(",)") for word in last.partition(": ")[2].split()} == every - shown[80]
    assert "for want of room" not in printed(layers_table(cost), 200)


def test_columns_fit_their_room():
    table = FittingTable(
        (Column("a"), Column("b", enough=4, leaves=2), Column("c", leaves=1), Column("d", enough=5, wraps=True))
    )
    table.add_row("aaaaaaaaaa", "bbbbbbbb", "cc", "ddddd ddddd")
    assert table.widths(100) == {"a": 10, "b": 8, "c": 2, "d": 11}
    assert table.widths(31) == {"a": 10, "b": 8, "c": 2, "d": 5}
    assert table.widths(27) == {"a": 10, "b": 4, "c": 2, "d": 5}
    assert table.widths(26) == {"a": 10, "b": 7, "d": 5}
    assert table.widths(20) == {"a": 10, "d": 8}  # c is short, but comes after b
    assert table.widths(15) == {"a": 8, "d": 5}
    text = printed(table, 20)
    assert "ddddd\n" in text.replace(" ", "")
    assert "…" not in text


@pytest.mark.parametrize(("size", "whole"), [((80, 24), False), ((120, 40), True)])
def test_the_command_fills_the_terminal_and_no_more(size, whole, monkeypatch):
    monkeypatch.setattr(inspect_command.shutil, "get_terminal_size", lambda: os.terminal_size(size))
    text = printed(inspect_command._overview(explainer(), None, 1, 1, True), size[0])
    assert text.count("\n") < size[1]
    assert ("fold_batch_norms" in text) is whole
    assert "nodes emitted" in text or whole


def test_layers_in_symbols():
    assert "K*N" in printed(layers_table(explainer().cost()), 400)


# --- formats --------------------------------------------------------------------------------------------------------


def names(method="agf"):
    return {view.name for view in graph(method).nodes()}


def test_node_link_and_graphml_are_read_back_by_networkx():
    data = json.loads(json.dumps(formats.node_link(graph())))
    assert set(nx.node_link_graph(data, edges="edges")) == names()
    read = nx.parse_graphml(formats.graphml(graph()))
    assert set(read) == names()
    assert nx.has_path(read, "images", "output")
    (conv, *_) = [n for n, d in read.nodes(data=True) if d.get("layer") == "<b>[red]" and d["op"] == "conv2d"]
    assert read.nodes[conv]["layer_type"] == "Conv2d"


def test_the_graph_for_model_explorer_is_nested_by_module():
    collection = formats.model_explorer(graph())
    (found,) = collection["graphs"]
    nodes = {node["id"]: node for node in found["nodes"]}
    assert set(nodes) == names()
    assert set(collection) == {"label", "graphs"}
    spaces = {node["namespace"] for node in nodes.values()}
    assert {"", "stage/0/conv1/forward", "stage/0/conv1/relevance", "stage/0/conv1/prepare", "fc/gradient"} <= spaces
    for node in nodes.values():
        assert set(node) <= {"id", "label", "namespace", "attrs", "incomingEdges", "outputsMetadata", "style"}
        assert all(set(attr) == {"key", "value"} and isinstance(attr["value"], str) for attr in node["attrs"])
        for edge in node["incomingEdges"]:
            assert edge["sourceNodeId"] in nodes
    (image,) = [node for node in nodes.values() if node["id"] == "images"]
    assert image["outputsMetadata"] == [{"id": "0", "attrs": [{"key": "shape", "value": "float32[N, 3, 12, 12]"}]}]


def test_dot_has_every_node_and_boxes_of_modules():
    text = formats.dot(graph())
    assert text.count("subgraph") >= 8
    assert 'subgraph "cluster_stage.0.conv1" {' in text
    assert all(f'"{name}" [' in text for name in names())
    assert text.count("{") == text.count("}")
    layers = formats.dot(graph(), depth=1)
    assert '"stem" -> "relu";' in layers
    assert '"stage" -> "<b>[red]";' in layers
    assert formats._quoted('a"b\\\n') == '"a\\"b\\\\\\n"'


def test_svg_is_drawn_by_graphviz_or_refused(monkeypatch):
    if shutil.which("dot"):
        assert ET.fromstring(formats.svg(graph(), depth=1)).tag.endswith("svg")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingDependencyError, match="apt-get install graphviz"):
        formats.svg(graph())
    monkeypatch.setattr(shutil, "which", lambda name: name)
    ran = []

    def run(command, **options):
        ran.append((command, options["input"]))
        return SimpleNamespace(returncode=len(ran) - 1, stdout="<svg/>", stderr="too large")

    monkeypatch.setattr(formats.subprocess, "run", run)
    assert formats.svg(graph(), 1) == "<svg/>"
    assert ran[0] == (["dot", "-Tsvg"], formats.dot(graph(), 1))
    with pytest.raises(OptionsError, match="too large"):
        formats.svg(graph())


def test_files(tmp_path):
    for name in ("g.json", "g.graphml", "g.dot", "g.gv"):
        formats.save(graph(), tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000
    formats.save(graph(), tmp_path / "g.txt", "model-explorer")
    assert json.loads((tmp_path / "g.txt").read_text())["graphs"]
    with pytest.raises(OptionsError, match=r"is not known \(\.txt\); choose one of 'node-link'"):
        formats.save(graph(), tmp_path / "g.txt")


# --- plans ----------------------------------------------------------------------------------------------------------


def test_sizes_of_memory():
    known = {"16GB": 16 * 10**9, "16GiB": 2**34, "500 mb": 5 * 10**8, "1.5k": 1500, "7": 7, "2 TB": 2 * 10**12}
    assert {text: parsed_bytes(text) for text in known} == known
    for wrong in ("", "GB", "-1GB", "1 PB", "0", "1i", "1e9"):
        with pytest.raises(OptionsError, match="no size of memory"):
            parsed_bytes(wrong)


def test_a_plan_fills_the_memory():
    explaining = explainer("gradient")
    plan = explaining.plan("3MB", 2, calibrate=False)
    cost = explaining.cost()
    assert plan.seconds is None
    assert plan.cost.memory <= 3_000_000
    assert cost(plan.images + 1, 2).memory > 3_000_000
    assert f"{plan.images} images" in str(plan)
    with pytest.raises(MemoryLimitError, match="explaining one image for 1 targets takes"):
        explaining.plan(1000, calibrate=False)


def test_a_plan_says_how_long_it_takes():
    plan = explainer("gradient").plan("20MB")
    assert plan.images > 8
    assert [count for count, _ in plan.measured] == [1, 8]
    assert plan.seconds > plan.measured[0][1] / 2
    assert "images/s" in str(plan)
    assert "calibrated on" in str(plan)


# --- the command ----------------------------------------------------------------------------------------------------


def run(*arguments):
    return CliRunner().invoke(app, ["inspect", f"{__name__}:Net", "--input-size", str(SIZE), str(SIZE), *arguments])


def test_the_command_opens_with_one_screen():
    result = run("--images", "64", "--targets", "5")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert result.stdout.startswith("Net by agf: images f32[N, 3, 12, 12]")
    assert "N=64, K=5" in result.stdout
    assert len(result.stdout.splitlines()) < 60


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--depth", "1"], "Sequential"),
        (["--layer", "stage.0.conv1"], "stage.0.conv1: "),
        (["--stage", "canonical"], "# canonical graph of Net"),
        (["--diff", "emitted", "optimised"], "+++ optimised"),
        (["--full"], "# prepared once per set of weights"),
        (["--plan", "--memory", "5MB"], "largest batch at once"),
        (["--method", "integrated-gradients", "--option", "steps=4"], "the graph runs 2 times"),
        (["--method", "gradcam", "--depth", "2"], "Net by gradcam"),
    ],
)
def test_what_the_command_shows(arguments, expected):
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert expected in result.stdout


def test_the_command_writes_files(tmp_path):
    result = run("--write", str(tmp_path / "g.json"), "--format", "model-explorer")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "g.json").read_text())["label"] == "Net"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--full", "--plan"], "--full and --plan show different things"),
        (["--stage", "lowered"], "choose one of 'captured'"),
        (["--layer", "nowhere"], "belongs to a layer 'nowhere'"),
        (["--write", "graph.xyz"], "is not known"),
        (["--plan", "--memory", "much"], "no size of memory"),
    ],
)
def test_wrong_usage(arguments, complaint):
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert complaint in result.stderr


def test_stages_begin_with_the_images_and_end_with_weights():
    lines = run("--stage", "canonical").output.splitlines()
    assert lines[2].startswith("%images = input")
    assert " = conv2d(" in lines[3]
    (weights,) = (place for place, line in enumerate(lines) if line.endswith("weights and constants"))
    assert all(" = input" in line for line in lines[weights + 2 :] if line)


def test_patterns_are_of_noise_where_none_are_given():
    for words in ((), ("--layer", "stage.0.conv1"), ("--stage", "emitted")):
        shown = run("--method", "pattern-net", *words)
        assert shown.exit_code == 0, shown.output
        assert "those of noise" in shown.output


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_costs_are_plotted(ending, tmp_path):
    file = tmp_path / f"costs.{ending}"
    shown = run("--plot", str(file), "--images", "4", "--targets", "2", "--method", "lrp-epsilon")
    assert shown.exit_code == 0, shown.output
    assert file.stat().st_size > 10_000
    assert run("--plot", str(tmp_path / "costs.xyz")).exit_code != 0


def test_functions_of_one_kind_are_rows_of_their_own():
    class Functions(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = nn.ParameterList([torch.randn(3, 3, 3, 3) for _ in range(2)])

        def forward(self, x):
            for weight in self.weights:
                x = F.relu(F.conv2d(x, weight))
            return x.mean((2, 3))

    graph = agf_fx.compile(Functions().eval(), torch.zeros(1, 3, 12, 12)).graph
    for depth in (None, 1, 3):
        names = [row.name for row in graph.layers(depth)]
        assert [name for name in names if name.startswith(("conv2d", "relu"))] == [
            "conv2d",
            "relu",
            "conv2d#2",
            "relu#2",
        ]
    edges = re.findall(r'"([^"]+)" -> "([^"]+)"', formats.dot(graph, 2))
    assert nx.is_directed_acyclic_graph(nx.DiGraph(edges))
    assert len(edges) >= 4
