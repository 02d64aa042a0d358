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


# Figures of signals, volumes, dense outputs and other forms


class Net(nn.Module):
    def __init__(self, first, head, forward):
        super().__init__()
        self.first, self.head, self.function = first, head, (forward,)

    def forward(self, x):
        return self.function[0](self.head, torch.relu(self.first(x)))


FORMS = {
    "a signal": (Net(nn.Conv1d(2, 4, 3), nn.Linear(4, 3), lambda head, f: head(f.mean(2))), (2, 2, 20)),
    "a volume": (Net(nn.Conv3d(1, 4, 3), nn.Linear(4, 3), lambda head, f: head(f.mean((2, 3, 4)))), (2, 1, 12, 8, 6)),
    "a dense output": (Net(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 3, 1), lambda head, f: head(f)), (2, 3, 9, 8)),
    "a vector": (Net(nn.Linear(30, 4), nn.Linear(4, 3), lambda head, f: head(f)), (2, 30)),
}


@pytest.mark.parametrize("case", FORMS)
def test_figures_of_every_form(case, tmp_path):
    torch.manual_seed(0)
    model, shape = FORMS[case]
    result = agf_fx.compile(model.eval()).explain(torch.randn(shape), [[0, 1], [2, 1]])
    result.save(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 3000
    assert result._repr_png_().startswith(b"\x89PNG")


def test_dense_outputs_are_titled_with_the_mean_logit():
    from agf_fx.imaging.figure import figure

    model, shape = FORMS["a dense output"]
    result = agf_fx.compile(model.eval()).explain(torch.randn(shape), 1)
    titles = [axis.get_title() for axis in figure(result).axes]
    assert f"class 1 (mean logit {result.logits[0, 1].mean():.2f})" in titles


def test_channels_last_images_are_drawn_as_they_are():
    from agf_fx.imaging.figure import figure

    torch.manual_seed(0)
    last = Net(nn.Conv2d(3, 4, 3), nn.Linear(4, 3), lambda head, f: head(f.mean((2, 3))))
    model = nn.Sequential(Permute(), last).eval()
    images = torch.rand(1, 8, 9, 3)
    drawn = figure(agf_fx.compile(model).explain(images, 1))
    assert drawn.axes[0].images[0].get_array().shape == (8, 9, 3)


class Permute(nn.Module):
    def forward(self, x):
        return x.permute(0, 3, 1, 2)


def test_slices_are_spread_over_a_volume():
    from agf_fx.imaging.forms import MAX_SLICES, sheet

    volume = np.arange(20.0)[:, None, None] * np.ones((1, 2, 3))
    page = sheet(volume)
    assert page.shape == (6, 9)
    assert {page[0, 0], page[-1, -1]} == {0.0, 19.0}
    assert len(np.unique(page)) == MAX_SLICES
    assert sheet(volume[:1]).shape == (2, 3)


@pytest.mark.parametrize("form", [lambda g: g, lambda g: g[..., None], lambda g: g[:, None], list])
def test_grey_pixels_are_shown_as_grey(form):
    from agf_fx.imaging.pixels import display_pixels

    pixels = np.random.default_rng(0).integers(0, 255, (2, 8, 9), dtype=np.uint8)
    shown = display_pixels(torch.zeros(2, 1, 8, 9), form(pixels))
    assert np.array_equal(shown, pixels[..., None].repeat(3, axis=-1))
