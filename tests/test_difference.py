"""How two explanation graphs differ, and where their relevances part."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import agf_fx
from agf_fx.cli import app
from agf_fx.errors import InputError, OptionsError
from agf_fx.inspect.departures import departures
from agf_fx.inspect.difference import Kind, compared, difference, read_compared
from agf_fx.inspect.formats import save
from agf_fx.runtime.differences import between_stages


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn, self.conv2 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv1(x)))
        return self.fc((x + torch.relu(self.conv2(x))).mean((2, 3)))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Small().double().eval()


@pytest.fixture(scope="module")
def image():
    return torch.rand(1, 3, 10, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture(scope="module")
def agf(model, image):
    return agf_fx.compile(model, image)


def by(model, image, method, **options):
    return agf_fx.compile(model, image, method=method, options=options)


def test_a_graph_does_not_differ_from_itself(agf, image):
    found = agf.difference(agf, image, 2)
    assert found.identical
    assert not found.differing()
    assert found.departures.first is None
    assert all(departure.difference == 0 for departure in found.departures.all)
    assert "compute the same" in str(found)


def test_an_option_changes_its_layer_alone(model, image):
    before, after = by(model, image, "lrp-epsilon", epsilon=1e-6), by(model, image, "lrp-epsilon", epsilon=0.5)
    found = before.difference(after, image, 1)
    assert {*found.counts} <= {Kind.CHANGED, Kind.CARRIED}
    assert found.counts[Kind.CHANGED] > 0
    changed = [change for layer in found.layers for change in layer.changes if change.kind is Kind.CHANGED]
    assert all("1e-06" in change.before.call and "0.5" in change.after.call for change in changed)
    assert all(layer.rules[0] != layer.rules[1] for layer in found.layers if layer.counts[Kind.CHANGED])


def test_another_baseline_is_a_difference(tmp_path, model, image):
    black, grey = (by(model, image, "deeplift", baseline=value) for value in (0.0, 0.5))
    found = black.difference(grey)
    assert found.inputs == ("baseline",)
    assert not found.identical
    assert "values that differ: baseline" in str(found)
    assert black.difference(by(model, image, "deeplift", baseline=0.0)).identical
    save(black.graph, tmp_path / "black.json")
    assert difference(read_compared(tmp_path / "black.json"), compared(grey.graph)).inputs == ("baseline",)


def test_relevances_part_behind_the_layer_whose_rule_differs(model, image):
    one, other = by(model, image, "lrp-epsilon"), by(model, image, "epsilon-plus")
    found = one.difference(other, image, 3)
    differing = {layer.name for layer in found.layers if layer.rules[0] != layer.rules[1]}
    assert "conv2" in differing
    assert "fc" not in differing
    seen = found.departures
    assert seen.first is not None
    assert any(cause.startswith("conv2 ") for cause in seen.causes)
    names = [departure.call for departure in seen.all]
    parted = {departure.call for departure in seen.parted}
    assert names.index(seen.first.call) == min(names.index(name) for name in parted)
    maps = one(image, 3), other(image, 3)
    ratio = float(maps[1].norm() / maps[0].norm())
    expected = float((maps[0] * ratio - maps[1]).norm() / maps[1].norm())
    assert seen.maps.difference == pytest.approx(expected, rel=1e-6)


def test_a_factor_is_no_departure(agf):
    canonical = agf.graph.canonical
    names = [node.name for node in canonical.calls[:4]]
    messages = {"relevance": {name: torch.rand(1, 1, 3, dtype=torch.float64) for name in names}}
    doubled = {"relevance": {name: 2 * value for name, value in messages["relevance"].items()}}
    drawn = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    found = departures(canonical, (messages, doubled), (drawn, 2 * drawn), 0)
    assert found.first is None
    assert found.scale == pytest.approx(2)
    turned = {"relevance": doubled["relevance"] | {names[0]: -doubled["relevance"][names[0]]}}
    found = departures(canonical, (messages, turned), (drawn, 2 * drawn), 0)
    assert found.first.call == names[0]
    assert found.first.cosine == pytest.approx(-1)


@pytest.mark.parametrize("step", ["fold_batch_norms", "hoist_weight_constants", "reuse_buffers"])
def test_a_pass_changes_what_it_is_for(agf, image, step):
    found = between_stages(agf, f"before:{step}", f"after:{step}", image, 1)
    kinds = {kind for kind, count in found.counts.items() if count}
    expected = {"hoist_weight_constants": {Kind.MOVED}, "reuse_buffers": {Kind.IN_PLACE}}
    if step in expected:
        assert kinds == expected[step]
    else:
        assert Kind.REMOVED in kinds
        assert any(
            "batch_norm" in change.before.call for layer in found.layers for change in layer.changes if change.before
        )
    assert found.departures.first is None
    assert found.departures.maps.difference < 1e-9


def test_stages_that_are_none(agf):
    with pytest.raises(OptionsError, match="before:STEP"):
        between_stages(agf, "captured", "optimised")
    with pytest.raises(OptionsError, match="step is 'nothing'"):
        between_stages(agf, "after:nothing", "optimised")


def test_files_of_graphs_are_compared(tmp_path, model, image, agf):
    other = by(model, image, "lrp-epsilon")
    for name, explainer in (("a", agf), ("b", other)):
        save(explainer.graph, tmp_path / f"{name}.json")
    read = [read_compared(tmp_path / f"{name}.json") for name in "ab"]
    assert difference(read[0], compared(agf.graph)).identical
    assert difference(*read).counts == agf.difference(other).counts
    with pytest.raises(InputError, match="cannot be read"):
        read_compared(tmp_path / "none.json")
    for text in (
        "",
        "{}",
        "[]",
        json.dumps({"edges": [], "nodes": [{"id": "x"}], "graph": {"title": "", "layers": []}}),
    ):
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(InputError, match="holds no explanation graph"):
            read_compared(tmp_path / "c.json")


def test_what_cannot_be_looked_at(model, image, agf):
    many = by(model, image, "integrated-gradients", steps=2)
    assert many.difference(agf).counts
    with pytest.raises(OptionsError, match="looks at many images"):
        agf.difference(many, image)
    with pytest.raises(InputError, match="one image is compared"):
        agf.difference(agf, image.expand(2, -1, -1, -1))


def test_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        return CliRunner().invoke(app, ["inspect", "digits-resnet", *arguments])

    table = run("--compare", "agf", "lrp-epsilon")
    assert table.exit_code == 0, table.stderr
    assert "layer" in table.stdout
    assert "removed" in table.stdout
    one = run("--compare", "agf", "other=agf", "--option", "other.division=exact", "--full")
    assert one.exit_code == 0, one.stderr
    assert "+++ " in one.stdout
    page = run("--compare", "agf", "clrp", "--html", "page.html")
    assert page.exit_code == 0, page.stderr
    assert '"against"' in (tmp_path / "page.html").read_text()
    stages = run("--compare", "emitted", "optimised", "--full")
    assert stages.exit_code == 0
    assert stages.stdout.startswith("--- ")
    for arguments, words in (
        (("agf", "agf"), "are the same"),
        (("agf", "optimised"), "is a stage"),
        (("agf", "nothing"), "nothing"),
    ):
        refused = run("--compare", *arguments)
        assert refused.exit_code == 2
        assert words in refused.stderr
