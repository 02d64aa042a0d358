"""Loading models: the three sources, checkpoints, class names, and what each refuses."""

import json
import subprocess
import sys
import textwrap
import urllib.error

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file, save_model
from torch import nn

from agf_fx.errors import CheckpointError, ModelLoadError, OptionsError, TargetError
from agf_fx.imaging.preprocess import IMAGENET_MEAN, Preprocessing
from agf_fx.models import check_model, class_index, load_model, read_class_names
from agf_fx.models.digits import DIGITS_CLASSES, DIGITS_MEAN, DIGITS_SIZE, DIGITS_STD, digits_vgg
from agf_fx.models.sources import weights_entry


class Tiny(nn.Module):
    """Two layers: enough to load."""

    def __init__(self, num_classes: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.norm = nn.BatchNorm2d(5)
        self.fc = nn.Linear(5, num_classes)

    def forward(self, images):
        return self.fc(self.norm(self.conv(images)).relu().mean((2, 3)))


class Tied(nn.Module):
    """Two names for one weight, which safetensors stores once."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight

    def forward(self, images):
        return self.second(self.first(images.mean((2, 3))))


def not_a_model():
    return {"weights": 1}


def fails():
    raise RuntimeError("no luck\ntoday")


def wants_an_argument(depth):
    return Tiny()


class ReturnsDict(Tiny):
    def forward(self, images):
        return {"logits": super().forward(images)}


a_number = 3

HERE = f"{__name__}:"


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(5)
    path = tmp_path / "tiny.safetensors"
    save_file(Tiny().state_dict(), path)
    return path


# --- bundled ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits-vgg", "digits-resnet", "digits-basic"])
def test_bundled_models_come_with_everything(name):
    loaded = load_model(name)
    assert not loaded.model.training
    assert loaded.name == name
    assert loaded.class_names == DIGITS_CLASSES
    assert loaded.multi_label
    assert loaded.weights == "bundled"
    assert loaded.preprocessing == Preprocessing.square(DIGITS_SIZE, mean=DIGITS_MEAN, std=DIGITS_STD)
    logits = loaded.model(torch.zeros(2, 3, DIGITS_SIZE, DIGITS_SIZE))
    torch.testing.assert_close(loaded.probabilities(logits), logits.sigmoid())


def test_bundled_model_with_another_checkpoint(tmp_path):
    model = digits_vgg()
    save_model(model, tmp_path / "mine.safetensors")
    loaded = load_model("digits-vgg", checkpoint=tmp_path / "mine.safetensors")
    assert torch.equal(loaded.model.features[0].weight, model.features[0].weight)
    assert loaded.weights == str(tmp_path / "mine.safetensors")


# --- torchvision --------------------------------------------------------------------------------------------


def test_random_weights_are_refused():
    with pytest.raises(ModelLoadError, match=r"random weights.*DEFAULT.*checkpoint"):
        load_model("resnet18")


def test_untrained_torchvision_model_for_its_structure():
    loaded = load_model("squeezenet1_1", untrained=True)
    assert loaded.class_names[:2] == ("0", "1")
    assert len(loaded.class_names) == 1000
    assert not loaded.multi_label


def test_torchvision_model_with_checkpoint(tmp_path):
    model = torchvision.models.squeezenet1_1(num_classes=7)
    save_file(model.state_dict(), tmp_path / "s.safetensors")
    loaded = load_model("squeezenet1_1", checkpoint=tmp_path / "s.safetensors", num_classes=7, size=100, std=(1, 1, 2))
    assert loaded.class_names == tuple("0123456")
    assert loaded.preprocessing == Preprocessing.square(100, mean=IMAGENET_MEAN, std=(1, 1, 2))
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[key], value)
    with pytest.raises(CheckpointError, match=r"classifier.1.bias is \(7,\), the model has \(1000,\)"):
        load_model("squeezenet1_1", checkpoint=tmp_path / "s.safetensors")


def test_published_weights_bring_preprocessing_and_names(monkeypatch):
    state = torchvision.models.squeezenet1_1().state_dict()
    entry = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: state)
    for name in ("DEFAULT", "IMAGENET1K_V1", "SqueezeNet1_1_Weights.IMAGENET1K_V1"):
        assert weights_entry("squeezenet1_1", name) is entry
    loaded = load_model("squeezenet1_1", weights="DEFAULT")
    assert loaded.class_names == tuple(entry.meta["categories"])
    assert loaded.preprocessing == Preprocessing.from_transforms(entry.transforms())
    assert loaded.weights == "SqueezeNet1_1_Weights.IMAGENET1K_V1"
    assert torch.equal(loaded.model.features[0].weight, state["features.0.weight"])


@pytest.mark.parametrize("error", [urllib.error.URLError("no route to host"), RuntimeError("invalid hash value")])
def test_without_network_one_clear_error(monkeypatch, error):
    def no_network(*_, **__):
        raise error

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    with pytest.raises(ModelLoadError, match=r"cannot be downloaded.*connect to the internet") as caught:
        load_model("squeezenet1_1", weights="DEFAULT")
    assert "\n" not in str(caught.value)


def test_unknown_weights_entry():
    with pytest.raises(OptionsError, match="choose from DEFAULT, IMAGENET1K_V1, IMAGENET1K_V2"):
        load_model("resnet50", weights="IMAGENET22K")


# --- factories ----------------------------------------------------------------------------------------------


def test_factory_with_checkpoint(checkpoint):
    loaded = load_model(HERE + "Tiny", checkpoint=checkpoint, size=32, mean=(0, 0, 0), std=(1, 1, 1))
    for key, value in load_file(checkpoint).items():
        assert torch.equal(loaded.model.state_dict()[key], value)
    assert loaded.class_names == ("0", "1", "2", "3")
    assert loaded.preprocessing == Preprocessing.square(32, mean=(0, 0, 0), std=(1, 1, 1))
    assert not loaded.model.training


def test_factory_defaults_are_imagenets_at_224():
    loaded = load_model(HERE + "Tiny", num_classes=6, multi_label=True, class_names=list("abcdef"))
    assert loaded.preprocessing == Preprocessing()
    assert loaded.class_names == tuple("abcdef")
    assert loaded.multi_label
    assert loaded.weights == "as the factory sets them"


def test_factory_in_the_current_folder(tmp_path):
    (tmp_path / "my_net.py").write_text(
        textwrap.dedent("""
        import helper_of_my_net
        from torch import nn
        def build():
            return nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        """)
    )
    (tmp_path / "helper_of_my_net.py").touch()
    code = "from agf_fx.models import load_model; print(len(load_model('my_net:build').class_names))"
    import agf_fx

    root = str(next(iter(agf_fx.__path__)) + "/..")
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.append({root!r}); {code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.returncode) == ("2\n", 0), done.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:build", "no module 'no_such_module'"),
        (HERE + "Tinny", "did you mean Tiny"),
        (HERE + "a_number", "not a function"),
        (HERE + "not_a_model", "returned dict"),
        (HERE + "fails", "RuntimeError: no luck today"),
        (HERE + "wants_an_argument", "TypeError"),
        (HERE + "ReturnsDict", "returns dict, not logits"),
        (HERE, "package.module:factory"),
        (":build", "package.module:factory"),
    ],
)
def test_factories_that_do_not_work(name, message):
    with pytest.raises(ModelLoadError, match=message) as caught:
        load_model(name)
    assert "\n" not in str(caught.value)


def test_module_that_cannot_be_imported(tmp_path, monkeypatch):
    (tmp_path / "broken_net.py").write_text("1 / 0")
    (tmp_path / "exiting_net.py").write_text("raise SystemExit(3)")
    (tmp_path / "needy_net.py").write_text("import a_package_nobody_has")
    monkeypatch.chdir(tmp_path)
    for name, message in (
        ("broken_net", "ZeroDivisionError"),
        ("exiting_net", "SystemExit: 3"),
        ("needy_net", "'a_package_nobody_has'"),
    ):
        with pytest.raises(ModelLoadError, match=message):
            load_model(f"{name}:build")
    assert str(tmp_path) not in sys.path


def test_size_the_model_cannot_take():
    with pytest.raises(ModelLoadError, match=r"fails on a float32 image \(1, 3, 1, 1\)"):
        load_model(HERE + "Tiny", size=1)


# --- names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "guess"), [("digit-vgg", "digits-vgg"), ("ResNet-50", "resnet50")])
def test_unknown_names_suggest_close_ones(name, guess):
    with pytest.raises(ModelLoadError, match=f"unknown model '{name}'.*{guess}"):
        load_model(name)


def test_a_name_that_is_no_string():
    with pytest.raises(ModelLoadError, match="a string, not a NoneType"):
        load_model(None)


def test_unknown_name_like_no_other():
    with pytest.raises(
        ModelLoadError,
        match=r"digits-vgg, digits-resnet, digits-basic, .*, efficientnet-lite0, .*-lite2, a torchvision name",
    ):
        load_model("qqqqqq")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"weights": "DEFAULT", "checkpoint": "x.safetensors"}),
        ("resnet18", {"weights": "DEFAULT", "num_classes": 3}),
        ("resnet18", {"checkpoint": "x.safetensors", "num_classes": 0}),
        ("digits-vgg", {"weights": "DEFAULT"}),
        ("digits-vgg", {"num_classes": 3}),
        (HERE + "Tiny", {"weights": "DEFAULT"}),
    ],
)
def test_options_that_contradict_each_other(name, options):
    with pytest.raises(OptionsError):
        check_model(name, **options)


# --- checkpoints --------------------------------------------------------------------------------------------


def bad(path, *words: str, name: str = HERE + "Tiny") -> None:
    with pytest.raises(CheckpointError) as caught:
        load_model(name, checkpoint=path, size=8)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_checkpoint_missing_folder_empty_damaged(tmp_path, checkpoint):
    bad(tmp_path / "gone.safetensors", "no such checkpoint")
    (tmp_path / "folder.safetensors").mkdir()
    bad(tmp_path / "folder.safetensors", "is a folder")
    (tmp_path / "empty.safetensors").touch()
    bad(tmp_path / "empty.safetensors", "empty (0 bytes)")
    data = checkpoint.read_bytes()
    for name, content in (("text", b"hello"), ("cut", data[:-10]), ("head", data[:20]), ("long", data + b"\0")):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        bad(path, "damaged")


@pytest.mark.parametrize("ending", ["pt", "pth", "bin", "ckpt", "pkl"])
def test_pickles_are_refused_with_a_way_to_convert(tmp_path, ending):
    path = tmp_path / f"model.{ending}"
    torch.save(Tiny().state_dict(), path)
    bad(path, "pickle", "weights_only=True", "model.safetensors")


def test_the_conversion_that_the_message_names_works(tmp_path):
    path = tmp_path / "model.pth"
    torch.save(Tiny().state_dict(), path)
    with pytest.raises(CheckpointError) as caught:
        load_model(HERE + "Tiny", checkpoint=path)
    code = str(caught.value).split('python -c "')[1].split('"')[0]
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    load_model(HERE + "Tiny", checkpoint=tmp_path / "model.safetensors", size=8)


def test_missing_and_unexpected_parameters_are_named(tmp_path):
    state = Tiny().state_dict()
    del state["fc.bias"], state["conv.weight"]
    state |= {f"extra.{index}": torch.zeros(1) for index in range(5)}
    path = tmp_path / "x.safetensors"
    save_file(state, path)
    bad(path, "2 missing from it (conv.weight, fc.bias)", "5 unknown", "extra.0, extra.1, extra.2, and 2 more")


def test_shapes_that_do_not_fit_are_named(tmp_path):
    save_file(Tiny(num_classes=9).state_dict(), tmp_path / "x.safetensors")
    bad(tmp_path / "x.safetensors", "fc.weight is (9, 5), the model has (4, 5)", "fc.bias is (9,)")


def test_prefix_of_a_parallel_wrapper_is_recognised(tmp_path):
    save_file({f"module.{key}": value for key, value in Tiny().state_dict().items()}, tmp_path / "x.safetensors")
    bad(tmp_path / "x.safetensors", "every name starts with 'module.'")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    state = Tiny().state_dict()
    state["fc.bias"][1] = value
    save_file(state, tmp_path / "x.safetensors")
    bad(tmp_path / "x.safetensors", "NaN or infinite weights in fc.bias")


def test_half_precision_checkpoints_and_tied_weights_load(tmp_path):
    state = {key: value.half() if value.is_floating_point() else value for key, value in Tiny().state_dict().items()}
    save_file(state, tmp_path / "half.safetensors")
    loaded = load_model(HERE + "Tiny", checkpoint=tmp_path / "half.safetensors", size=8)
    assert loaded.model.fc.weight.dtype == torch.float32
    assert torch.equal(loaded.model.fc.weight, state["fc.weight"].float())
    model = Tied()
    save_model(model, str(tmp_path / "tied.safetensors"))
    assert len(load_file(tmp_path / "tied.safetensors")) == 1
    loaded = load_model(HERE + "Tied", checkpoint=tmp_path / "tied.safetensors", size=8)
    assert torch.equal(loaded.model.second.weight, model.first.weight)


# --- class names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "cat\ndog \ngreat white shark\n\n"),
        ("bom.txt", "\ufeffcat\r\ndog\r\ngreat white shark"),
        ("names.json", json.dumps(["cat", "dog", "great white shark"])),
        ("index.json", json.dumps({"1": "dog", "0": "cat", "2": "great white shark"})),
    ],
)
def test_class_names_from_a_file(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_class_names(tmp_path / name) == ("cat", "dog", "great white shark")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.txt", b""),
        ("x.txt", b"cat\n\ndog"),
        ("x.txt", b"\xff\xfe\xff"),
        ("x.json", b"[1, 2]"),
        ("x.json", b'{"0": "cat", "2": "dog"}'),
        ("x.json", b"3"),
        ("x.json", b"[oops"),
    ],
)
def test_bad_class_name_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelLoadError, match=r"class names|JSON|keys|list of names") as caught:
        read_class_names(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_missing_class_name_file(tmp_path):
    with pytest.raises(ModelLoadError, match="cannot be read"):
        read_class_names(tmp_path / "gone.txt")


def test_wrong_number_of_class_names():
    with pytest.raises(ModelLoadError, match="2 class names for the 4 outputs"):
        load_model(HERE + "Tiny", size=8, class_names=["a", "b"])


def test_class_index_takes_names_before_indices():
    names = ["cat", "Dog", "dog", "1", "crane", "crane"]
    assert class_index("cat", names) == 0
    assert class_index(" CAT ", names) == 0
    assert class_index("dog", names) == 2
    assert class_index("Dog", names) == 1
    assert class_index("1", names) == 3
    assert class_index("2", names) == 2
    assert class_index("005", names) == 5
    for text, message in (
        ("DOG", "indices 1 and 2"),
        ("crane", "indices 4 and 5"),
        ("catt", "did you mean cat"),
        ("6", "from 0 to 5"),
        ("-1", "from 0 to 5"),
        ("", "from 0 to 5"),
        ("²", "from 0 to 5"),
        ("zebra", "names like cat, Dog and dog"),
    ):
        with pytest.raises(TargetError, match=message):
            class_index(text, names)
    assert class_index("7", DIGITS_CLASSES) == 7
