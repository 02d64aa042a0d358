"""What a notebook or a prompt shows, and which forms of images are taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import agf_fx
from agf_fx.errors import ExportError, InputError, OptionsError


@pytest.fixture(scope="module")
def explainer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    return agf_fx.compile(model, torch.zeros(1, 3, 8, 9))


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 8, 9, generator=torch.Generator().manual_seed(0))


def test_short_forms(explainer, images):
    result = explainer.explain(images, [[0, 1], [2, 1]])
    assert repr(result) == "Explanation(2 images, 2 targets each: [[0, 1], [2, 1]]; maps float32 (2, 2, 8, 9))"
    assert "precision up to" in repr(explainer.explain(images, 1, check=True))
    many = explainer.explain(images.repeat(5, 1, 1, 1), 1)
    assert repr(many).count("[1]") == 4
    assert repr(explainer.graph).startswith("ExplanationGraph(Sequential by agf: images f32[N, 3, 8, 9], ")
    assert repr(explainer.graph.canonical).startswith("CanonicalGraph(Sequential: f32[N, 3, 8, 9] -> f32[N, 3], ")
    assert repr(explainer.conservation(images, 1)).startswith("ConservationReport(")
    for value in (result, explainer.graph, explainer.graph.canonical, explainer.conservation(images, 1)):
        assert "\n" not in repr(value)
        assert len(repr(value)) < 200


def test_a_notebook_shows_a_picture_of_the_first_maps(explainer, images):
    picture = explainer.explain(images.repeat(20, 1, 1, 1), [[0, 1, 2]] * 40)._repr_png_()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 400_000


def test_forms_of_images(explainer, images):
    expected = explainer(images, 1)
    for form in ([images], (images,), list(images), images.numpy()):
        assert torch.equal(explainer(form, 1), expected)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (lambda x: Image.new("RGB", (9, 8)), r"picture of Pillow.*preprocessing\.prepare"),
        (lambda x: [x, x], r"torch\.cat\(images\)"),
        (lambda x: [x[0], x[0, :, :4]], r"torch\.stack\(images\)"),
        (lambda x: "photo.jpg", "images is a str"),
        (lambda x: {"images": x}, "images is a dict"),
        (lambda x: np.zeros((1, 3, 8, 9)), "float64"),
        (lambda x: (x * 255).to(torch.uint8), "float"),
    ],
)
def test_other_forms_are_told_what_to_be(explainer, images, form, message):
    with pytest.raises(InputError, match=message):
        explainer(form(images), 1)


@pytest.mark.parametrize(
    ("name", "format"), [("x.onnx", "onnx"), ("x.pt2", "export"), ("x.PT", "torchscript"), ("x", "torchscript")]
)
def test_the_ending_says_the_format(explainer, tmp_path, name, format):
    explainer.export(tmp_path / name)
    assert agf_fx.load(tmp_path / name).description.format == format


@pytest.mark.parametrize(
    ("name", "format"), [("x.onnx", "torchscript"), ("x.pt", "onnx"), ("x.pt", "aoti"), ("x.pt2", "torchscript")]
)
def test_a_format_that_the_ending_contradicts_is_refused(explainer, tmp_path, name, format):
    with pytest.raises(ExportError, match="leave the format out"):
        explainer.export(tmp_path / name, format)
    assert not list(tmp_path.iterdir())


FACTORIES = """
from torch import nn

def grey():
    return network(1)

def spectra():
    return network(5)

def network(channels):
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "channel_factories.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    Image.new("L", (40, 30), 90).save("grey.png")
    Image.new("RGB", (40, 30), (200, 30, 90)).save("colour.png")
    return tmp_path


def test_networks_of_grey_pictures(folder):
    loaded = agf_fx.load_model("channel_factories:grey", size=24)
    assert loaded.preprocessing.channels == 1
    for name in ("grey.png", "colour.png"):
        image, shown = loaded.preprocessing.prepare(agf_fx.read_image(name))
        assert image.shape == (1, 24, 24)
        assert shown.shape == (24, 24, 3)
        assert agf_fx.compile(loaded.model)(image[None], 1).shape == (1, 24, 24)
    grey = agf_fx.load_model("channel_factories:grey", size=24, mean=(0.2, 0.4, 0.6), std=(0.5,))
    assert grey.preprocessing.mean == pytest.approx((0.4,))
    with pytest.raises(OptionsError, match="images of 5 channels"):
        agf_fx.load_model("channel_factories:spectra", size=24)


def test_the_command_line_explains_and_exports_them(folder):
    from typer.testing import CliRunner

    from agf_fx.cli import app

    command = ["explain", "grey.png", "colour.png", "--model", "channel_factories:grey", "--size", "24", "-o", "out"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert len(list((folder / "out").glob("*.npy"))) == 2
    done = CliRunner().invoke(app, ["export", "channel_factories:grey", "--input-size", "24", "24", "-o", "x.onnx"])
    assert done.exit_code == 0, done.output
    assert "onnx" in done.output
    assert "1x24x24" in done.output
    done = CliRunner().invoke(
        app, ["explain", "grey.png", "--model", "channel_factories:grey", "--channels", "3", "-o", "o"]
    )
    assert done.exit_code == 1
    assert "channels" in done.output
