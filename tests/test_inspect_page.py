"""The page of an explanation graph: what it holds."""

from __future__ import annotations

import base64
import functools
import io
import json
import re
import sys
import zlib
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import agf_fx
from agf_fx.cli import app
from agf_fx.errors import InputError
from agf_fx.inspect import page
from agf_fx.inspect.layer_maps import folded
from agf_fx.inspect.page_data import page_data, short_source
from agf_fx.ir.graph import ExplanationGraph

EVIL = "<script>alert(1)</script><!--<script>&amp;"
TITLE = f"{EVIL}\u2028'\""
SIZE = 16


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.relu = nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU()

    def forward(self, x):
        return self.relu(x + self.conv2(self.relu(self.conv1(x))))


class Net(nn.Module):
    def __init__(self, name: str = EVIL) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1)
        self.stage = nn.Sequential(Block(), Block())
        self.add_module(name, nn.Conv2d(4, 4, 1))
        self.name, self.fc = name, nn.Linear(4, 5)

    def forward(self, x):
        x = self.stage(torch.relu(self.stem(x)))
        return self.fc(torch.relu(self._modules[self.name](x)).mean((2, 3)))


@functools.cache
def explainer(method="agf"):
    torch.manual_seed(0)
    return agf_fx.compile(Net().eval(), torch.zeros(1, 3, SIZE, SIZE), method=method)


def image():
    return torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def write_page(path):
    explainer().to_html(path, image(), 1, class_names=["a", "<b>", "c", "d", "e"], title=TITLE)
    return path


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("page") / "graph.html")


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.within, self.texts = [], [], {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style", "title"):
            self.within = (tag, dict(attrs).get("id"))

    def handle_endtag(self, tag):
        self.within = None

    def handle_data(self, data):
        if self.within:
            self.texts[self.within] = self.texts.get(self.within, "") + data


def read(path):
    found = Elements(path.read_text())
    packed = base64.b64decode(found.texts["script", "operations"])
    operations = json.loads(zlib.decompress(packed))
    return SimpleNamespace(data=json.loads(found.texts["script", "data"]), operations=operations, elements=found)


# --- what it holds --------------------------------------------------------------------------------------------------


def test_the_data_is_that_of_the_graph(written):
    found, (data, operations) = read(written), page_data(explainer().graph, explainer()._rules)
    assert found.operations == json.loads(json.dumps(operations))
    rows = {row["name"]: row for row in found.data["layers"]}
    for view in explainer().graph.layers():
        row = rows[view.name]
        assert (row["role"], row["form"], row["nodes"]) == (view.role, view.form, view.nodes)
        assert row["flops"] == view.flops.subs(dict.fromkeys(view.flops.free_symbols, 1))
    assert [row["name"] for row in data["layers"]][:: len(rows) - 1] == ["(map)", "(target)"]
    assert sum(len(part["rows"]) for parts in operations for part in parts) == sum(
        view.op not in ("input", "output") for view in explainer().graph.nodes()
    )


def test_edges_are_those_of_the_model_and_streams_go_back_along_them(written):
    data = read(written).data
    names = [row["name"] for row in data["layers"]]
    reads = {row["name"]: {names[origin]: back for origin, *back in row["reads"]} for row in data["layers"]}
    assert set(reads["stage.0"]) == {"relu", "stage.0.conv2"}  # the addition: both branches
    relevance = data["streams"].index("relevance")
    assert all(relevance in back for back in reads["stage.1"].values())
    assert list(reads["stem"]) == ["(map)"]
    assert list(reads["(target)"]) == ["fc"]
    gradient = data["streams"].index("gradient")
    assert gradient not in reads["stem"]["(map)"]  # nothing asks for it there


def test_rules_come_with_their_equations(written):
    data = read(written).data
    conv = next(row for row in data["layers"] if row["name"] == "stage.0.conv1")
    of_stream = {data["streams"][number]: [data["rules"][rule] for rule in rules] for number, *rules in conv["rules"]}
    (rule,) = of_stream["relevance"]
    assert rule["name"] == "guided_convolution"
    assert rule["promise"].startswith("shifts to conserve")
    assert data["equations"][rule["equation"]]["text"] == "Φ_in = Δ(C, r)  (eqs. 4 and 14)"
    assert data["equations"][rule["equation"]]["math"][0] == "math"


def test_names_cannot_leave_their_place(written):
    found = read(written).elements
    assert [tag for tag, _ in found.tags].count("script") == 3
    assert EVIL in [row["name"] for row in read(written).data["layers"]]
    assert found.texts["title", None] == f"{TITLE} by agf"
    assert not any("href" in attrs or "src" in attrs for _, attrs in found.tags)


def test_the_policy_forbids_everything_but_this_script(written):
    found = read(written).elements
    policy = next(attrs["content"] for tag, attrs in found.tags if tag == "meta" and "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'; img-src data:;")
    for kind, within in (("script", ("script", None)), ("style", ("style", None))):
        assert f"{kind}-src '{page._hash(found.texts[within])}'" in policy
    assert not re.search(r"https?://(?!www\.w3\.org/)", written.read_text())


def test_maps_and_sums_at_every_layer(written):
    data = read(written).data
    rows = {row["name"]: row for row in data["layers"]}
    result = explainer().explain(image(), 1, layers=["stage.0"])
    shown = rows["stage.0.relu"] if "stage.0.relu" in rows else rows["stage.0.relu.relu#2"]
    values = result.layers["stage.0"]
    assert shown["total"] == pytest.approx(values.sum().item(), abs=1e-3 * values.abs().sum().item())
    assert shown["map"]["shape"] == [8, 8]
    limit = result.layers["stage.0"].sum(2).abs().max().item()
    assert shown["map"]["limit"] == pytest.approx(limit, rel=1e-2)
    report = explainer().conservation(image(), 1)
    assert rows["stem"]["flow"]["handed"] == pytest.approx(report.flows[-1].handed_on.item(), rel=1e-5)
    assert rows["stem"]["cut"] + rows["stem"]["flow"]["change"] == pytest.approx(rows["(map)"]["cut"], rel=1e-4)
    assert rows["(map)"]["cut"] == pytest.approx(report.final.item(), rel=1e-5)
    assert data["picture"]["target"] == "<b>"
    assert data["picture"]["photo"].startswith("data:image/jpeg;base64,")
    assert rows["(map)"]["map"]["shape"] == [SIZE, SIZE]


def test_a_map_is_red_above_and_blue_below_zero_and_small():
    relevance = np.zeros((300, 200))
    relevance[:150], relevance[150:, :100] = 2.0, -1.0
    picture = Image.open(io.BytesIO(base64.b64decode(page.map_address(relevance).partition(",")[2]))).convert("RGB")
    assert max(picture.size) == 96
    red, blue, nothing = picture.getpixel((30, 20)), picture.getpixel((5, 90)), picture.getpixel((60, 90))
    assert red[0] > red[2] + 50
    assert blue[2] > blue[0] + 50
    assert max(nothing) - min(nothing) <= 2


def test_tokens_of_an_image_are_shown_as_the_square_that_they_cover():
    tokens = np.arange(17.0)[None]
    assert folded(tokens).tolist() == tokens[0, 1:].reshape(4, 4).tolist()
    assert folded(tokens[:, 1:]).tolist() == tokens[0, 1:].reshape(4, 4).tolist()
    assert folded(tokens[:, :15]) is None


def test_methods_without_relevance_show_the_gradient(tmp_path):
    explainer("gradcam").to_html(tmp_path / "a.html", image(), 1)
    data = read(tmp_path / "a.html").data
    assert data["picture"]["quantity"] == "gradient"
    assert not any("flow" in row for row in data["layers"])
    with pytest.raises(InputError, match="one image"):
        explainer().to_html(tmp_path / "c.html", image().repeat(2, 1, 1, 1))
    assert not (tmp_path / "c.html").exists()


@pytest.mark.parametrize("method", ["integrated-gradients", "meta", "meaningful-perturbation", "eigencam"])
def test_methods_that_look_many_times_show_their_map_alone_and_say_why(method, tmp_path):
    options = {"area_weight": 1e-4} if method == "meaningful-perturbation" else None
    method = agf_fx.meta("gradient") if method == "meta" else method
    torch.manual_seed(0)
    made = agf_fx.compile(Net("other").eval(), image(), method=method, options=options)
    made.to_html(tmp_path / "a.html", image(), 1, class_names=["a", "b", "c", "d", "e"])
    data = read(tmp_path / "a.html").data
    assert data["picture"]["quantity"] == "map"
    assert made.method in data["picture"]["why_none"]
    assert [row["name"] for row in data["layers"] if "map" in row] == ["(map)"]
    assert not any("flow" in row or "total" in row for row in data["layers"])
    (row,) = (row for row in data["layers"] if "map" in row)
    result = made.explain(image(), 1)
    assert row["map"]["limit"] == pytest.approx(result.maps.abs().max().item(), rel=1e-4)
    assert data["picture"]["logit"] == pytest.approx(result.logits[0, 1].item(), rel=1e-5)
    assert data["picture"]["target"] == "b"


def test_a_graph_writes_its_own_page_and_knows_its_cost(tmp_path):
    made = agf_fx.compile(Net("other").eval(), image())
    graph = made.graph
    made.explain(torch.rand(1, 3, 2 * SIZE, 2 * SIZE), 0)  # another image size, and so another graph
    assert made.graph.canonical is not graph.canonical
    graph.to_html(tmp_path / "a.html", title="mine")
    data = read(tmp_path / "a.html").data
    assert data["title"] == "mine"
    assert data["images"] == str(graph.canonical.image_type)
    assert all("certificate" in entry for entry in data["rules"])
    assert graph.cost(N=1, K=1).flops == agf_fx.compile(Net("other").eval(), image()).cost(N=1, K=1).flops
    assert graph.cost(N=1, K=1).flops < made.cost(N=1, K=1).flops
    assert isinstance(graph, ExplanationGraph)
    assert repr(graph).startswith("ExplanationGraph(Net by agf")


def test_where_files_lie_is_nobodys_business():
    assert (
        short_source("/a/b/env/torchvision/models/resnet.py:92: x = f(x)")
        == "torchvision/models/resnet.py:92: x = f(x)"
    )
    assert short_source(r"C:\me\nets\a.py:3: y") == "me/nets/a.py:3: y"
    assert short_source("<stdin>:1: y") == "<stdin>:1: y"
    assert short_source("") == ""


def test_the_command_writes_pages(tmp_path):
    scene = str(next((agf_fx_assets() / "scenes").glob("digits-0-4.png")))
    run = CliRunner().invoke
    done = run(app, ["inspect", "digits-vgg", "--html", str(tmp_path / "a.html"), "--image", scene, "--target", "0"])
    assert done.exit_code == 0, done.output
    data = read(tmp_path / "a.html").data
    assert data["title"] == "digits-vgg by agf"
    assert data["picture"]["target"] == "0"
    many = ["inspect", "digits-vgg", "--method", "integrated-gradients", "--image", scene, "--target", "0"]
    done = run(app, [*many, "--html", str(tmp_path / "b.html")])
    assert done.exit_code == 0, done.output
    assert read(tmp_path / "b.html").data["picture"]["quantity"] == "map"
    done = run(app, ["inspect", "digits-vgg", "--image", scene])
    assert done.exit_code
    assert "--html" in done.output
    done = run(app, ["inspect", "digits-vgg", "--html", "a.html", "--target", "0"])
    assert done.exit_code
    assert "--image" in done.output


def agf_fx_assets():
    from importlib import resources

    return resources.files("agf_fx.assets")


# --- in a notebook --------------------------------------------------------------------------------------------------


def test_graphs_and_explanations_show_themselves():
    table = explainer().graph._repr_html_()
    assert "<script" not in table
    assert "&lt;script&gt;" in table
    assert table.count("<tr>") <= 30
    shown = explainer().explain(image(), 1)._repr_html_()
    assert 'src="data:image/png;base64,' in shown
    assert "Explanation(1 images" in shown


def test_a_notebook_shows_them(tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    program = (
        "import torch, agf_fx\nfrom torch import nn\n"
        "model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))\n"
        "explainer = agf_fx.compile(model.eval(), torch.rand(1, 3, 8, 8))"
    )
    cells = [program, "explainer.graph", "explainer.explain(torch.rand(1, 3, 8, 8), 1)"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    kernel = tmp_path / "kernels" / "here"
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "here", "language": "python"}))
    client = nbclient.NotebookClient(notebook, timeout=120, kernel_name="here")
    client.km = client.create_kernel_manager()
    client.km.kernel_spec_manager.kernel_dirs = [str(tmp_path / "kernels")]
    done = client.execute()
    graph, explanation = (cell["outputs"][-1]["data"]["text/html"] for cell in done.cells[1:])
    assert "<table>" in graph
    assert "<img" in explanation
