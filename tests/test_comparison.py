"""Methods side by side: the same classes by each, on one sheet."""

from __future__ import annotations

import html.parser

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import agf_fx
from agf_fx.cli import app
from agf_fx.errors import InputError, OptionsError, TargetError

METHODS = ["agf", "gradient", ("lrp-epsilon", {"epsilon": 0.1})]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 8, 9, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def result(model, images):
    return agf_fx.compare(model, images, [*METHODS, "pattern-net"])


def test_each_map_is_that_of_its_method(model, images, result):
    strongest = model(images).topk(2).indices
    assert torch.equal(result.target, strongest)
    assert list(result.explanations) == ["agf", "gradient", "lrp-epsilon (epsilon=0.1)"]
    for one, label in zip(METHODS, result.explanations, strict=True):
        name, options = one if isinstance(one, tuple) else (one, None)
        expected = agf_fx.compile(model, method=name, options=options).explain(images, strongest).maps
        assert torch.equal(result.explanations[label].maps, expected)
    assert "lrp-epsilon (epsilon=0.1); 2 images, 2 targets each; failed: pattern-net" in repr(result)


def test_a_method_that_fails_costs_only_itself(model, images, result):
    assert list(result.failed) == ["pattern-net"]
    assert "fit them" in str(result.failed["pattern-net"])
    with pytest.raises(OptionsError, match="fit them"):
        agf_fx.compare(model, images, ["pattern-net"])
    with pytest.raises(TargetError):
        agf_fx.compare(model, images, METHODS, 7)


def test_labels_and_targets(model, images):
    both = {"small": ("lrp-epsilon", {"epsilon": 1e-6}), "large": ("lrp-epsilon", {"epsilon": 1.0})}
    said = []
    result = agf_fx.compare(model, images, both, [1, 2], progress=said.append, precision="float64")
    assert said == [*both] == [*result.explanations]
    assert result.target.tolist() == [[1], [2]]
    assert result.explanations["small"].maps.dtype == torch.float64
    assert not torch.equal(result.explanations["small"].maps, result.explanations["large"].maps)
    assert agf_fx.compare(model, images, ["agf"], top_k=3).target.shape == (2, 3)
    own = agf_fx.methods.REGISTRY["gradient"].make(agf_fx.methods.REGISTRY["gradient"].options())
    moved = agf_fx.meta("gradient", lr=0.1)
    result = agf_fx.compare(model, images, [own, moved])
    assert list(result.explanations) == ["gradient", "meta of gradient"]
    assert torch.equal(
        result.explanations["meta of gradient"].maps, agf_fx.compile(model, method=moved)(images, result.target)
    )


def test_maps_of_another_size_are_on_no_sheet(model, images, tmp_path):
    small = "gradcam", {"resize": False}
    for order in ([small, "gradient"], ["gradient", small]):
        result = agf_fx.compare(model, images, order)
        assert list(result.explanations) == ["gradient"]
        assert "not those of the images" in str(result.failed["gradcam (resize=False)"])
        result.save(tmp_path / "sheet.html")


def test_labels_say_the_shape_of_tensors(model, images):
    result = agf_fx.compare(model, images, [("deeplift", {"baseline": torch.zeros(images.shape[1:])})])
    assert list(result.explanations) == [f"deeplift (baseline=Tensor {tuple(images.shape[1:])})"]


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ("agf", "give a list"),
        ([], "methods is empty"),
        (["agf", "agf"], "asked for twice; give labels"),
        (["gradcan"], "gradcam"),
        ([3], "3 is no method"),
        (agf_fx.meta("gradient"), "give a list"),
        ([("agf", {"epsilon": 1})], "epsilon"),
    ],
)
def test_methods_that_are_none(model, images, methods, message):
    with pytest.raises(OptionsError, match=message):
        agf_fx.compare(model, images, methods)


def test_files(result, tmp_path):
    for ending in ("png", "pdf", "svg"):
        result.save(tmp_path / f"sheet.{ending}", class_names=["a", "b", "c"], smooth=0.5)
        assert (tmp_path / f"sheet.{ending}").stat().st_size > 5000
    width, height = Image.open(tmp_path / "sheet.png").size
    assert width > height > 100
    with pytest.raises(OptionsError, match="cannot be written as 'xyz'"):
        result.save(tmp_path / "sheet.xyz")
    assert result._repr_png_().startswith(b"\x89PNG")


class Page(html.parser.HTMLParser):
    """Counts elements, and keeps what stands in them."""

    def __init__(self, text):
        super().__init__()
        self.counts, self.texts, self.pictures = {}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.pictures += [dict(attrs)["src"]] if tag == "img" else []

    def handle_data(self, data):
        self.texts.append(data)


def test_a_page_needs_no_other_file_and_shows_names_as_text(result, tmp_path):
    result.save(tmp_path / "sheet.html", class_names=["<script>", "b", '"c"'], names=["<one>", "two"], title="<b>")
    page = Page((tmp_path / "sheet.html").read_text(encoding="utf-8"))
    assert "script" not in page.counts
    assert "b" not in page.counts
    assert page.counts["tr"] == 1 + 2 * 2
    assert page.counts["img"] == 2 + 2 * 2 * 3
    assert all(source.startswith("data:image/png;base64,") for source in page.pictures)
    text = "".join(page.texts)
    assert "<script> (logit" in text
    assert "fit them with" in text
    assert agf_fx.methods.REGISTRY["agf"].title in text
    with pytest.raises(InputError, match="1 names for 2 images"):
        result.save(tmp_path / "sheet.html", names=["one"])


def test_many_rows_are_said(result):
    from agf_fx.imaging.comparison import figure

    drawn = figure(result, max_rows=3)
    assert "the first 1 of 2 images" in drawn.get_supxlabel()
    assert len(drawn.axes) == 2 * 5 + 1
    with pytest.raises(OptionsError, match="draws nothing"):
        figure(result, max_rows=0)


def test_signals_are_compared(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    result = agf_fx.compare(model, torch.rand(1, 2, 20), ["gradient", "lrp-epsilon"])
    result.save(tmp_path / "sheet.png")
    with pytest.raises(InputError, match="a page shows pictures"):
        result.save(tmp_path / "sheet.html")


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
    return path


def invoke(*arguments):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def test_the_command(photo, tmp_path):
    sheet = tmp_path / "sheet.html"
    words = ["-m", "digits-basic", "--methods", "agf, gradcam", "--option", "gradcam.relu=false", "-o", sheet]
    done = invoke(photo, *words, "-t", "3")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.strip() == str(sheet)
    assert Page(sheet.read_text(encoding="utf-8")).counts["img"] == 1 + 2
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"none")
    done = invoke(photo, broken, tmp_path / "missing.png", *words)
    assert done.exit_code == 1
    assert "missing.png" in done.stderr
    assert "broken.png" in done.stderr
    assert Page(sheet.read_text(encoding="utf-8")).counts["img"] == 1 + 2 * 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "agf,gradcan"], "gradcam"),
        (["--methods", " , "], "names none"),
        (["--option", "rise.samples=3"], "belongs to none of agf"),
        (["--option", "samples=3"], "write METHOD.NAME=VALUE, such as integrated-gradients.samples=3"),
        (["--option", "relu=false"], "METHOD.NAME=VALUE"),
        (["--option", "gradcam.relu=maybe"], "relu"),
        (["-o", "sheet.xyz"], ".html"),
        (["-o", "nowhere/sheet.png"], "no folder nowhere"),
    ],
)
def test_wrong_words(photo, words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke(photo, "-m", "digits-basic", *words)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
