"""Exported files read back, and files that must be refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
import warnings
import zipfile
from importlib.metadata import PackageNotFoundError

import pytest
import torch
from torch import nn

import agf_fx
from agf_fx.errors import ExportLoadError, InputError, NonFiniteInputError, OptionsError, PicklingError, TargetError
from agf_fx.exports.metadata import described
from agf_fx.imaging.preprocess import Preprocessing
from agf_fx.methods.lrp import between_layers, linear_layer, relevance_method
from agf_fx.methods.table import RuleTable
from agf_fx.rules import lrp
from agf_fx.runtime import exported as loading

READABLE = ("torchscript", "export", "onnx")  # aoti: with its own tests, as each file takes a compiler
NAMES = ["zero", "one", "two", "three", "four"]


def tiny(seed=0):
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(4 * 2 * 3, 5)).eval()


def images(count=3):
    return torch.randn(count, 3, 11, 15, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An explainer, and its files by format."""
    folder, explainer = tmp_path_factory.mktemp("exported"), agf_fx.compile(tiny(), images(1))
    for format in READABLE:
        explainer.export(folder / format, format, class_names=NAMES, preprocessing=Preprocessing(resize=11, crop=None))
    return explainer, {format: folder / format for format in READABLE}


@pytest.mark.parametrize("format", READABLE)
def test_a_loaded_explainer_is_like_the_explainer(exported, format):
    explainer, paths = exported
    loaded = agf_fx.load(paths[format], fingerprint=explainer.fingerprint)
    x = images()
    for target in (None, 2, [0, 1, 2], [[0, 4], [1, 3], [2, 2]]):
        found, expected = loaded(x, target), explainer(x, target)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    result, expected = loaded.explain(x, top_k=3), explainer.explain(x, top_k=3)
    assert torch.equal(result.target, expected.target)
    torch.testing.assert_close(result.logits, expected.logits)


@pytest.mark.parametrize("format", READABLE)
def test_a_file_describes_itself(exported, format):
    _, paths = exported
    description = agf_fx.load(paths[format]).description
    assert description.class_names == tuple(NAMES)
    assert description.preprocessing["resize"] == 11
    assert description.options["dialect"] == "reference"
    assert description.versions["torch"] == torch.__version__
    assert description.versions["agf_fx"] == agf_fx.__version__ != "unknown"
    assert description.image_shape == (3, 11, 15)
    assert description.format == format
    assert repr(agf_fx.load(paths[format])) == f"ExportedExplainer(Sequential, method='agf', {format}, 3x11x15)"


def test_bad_requests_are_refused_in_words(exported):
    loaded = agf_fx.load(exported[1]["torchscript"])
    x = images()
    with pytest.raises(
        InputError, match=r"shape \(N, 3, 11, 15\) on cpu, and was given torch.float32 \(3, 3, 11, 14\)"
    ):
        loaded(x[..., :-1])
    with pytest.raises(InputError, match=r"torch\.float64"):
        loaded(x.double())
    with pytest.raises(InputError, match="given list"):
        loaded([1])
    with pytest.raises(InputError, match="empty"):
        loaded(x[:0])
    with pytest.raises(NonFiniteInputError):
        loaded(torch.where(x > 2, torch.nan, x))
    with pytest.raises(TargetError, match="outside"):
        loaded(x, 5)
    with pytest.raises(OptionsError):
        loaded.explain(x, 1, top_k=2)
    with pytest.raises(OptionsError):
        loaded.explain(x, top_k=6)
    with pytest.raises(PicklingError, match=r"agf_fx\.load there"):
        pickle.dumps(loaded)


@pytest.mark.parametrize("format", READABLE)
def test_another_fingerprint_is_refused(exported, format):
    other = agf_fx.compile(tiny(), images(1), options=agf_fx.AGFOptions(dialect="paper"))
    with pytest.raises(ExportLoadError, match="method, options or versions differ"):
        agf_fx.load(exported[1][format], fingerprint=other.fingerprint)


def test_methods_of_ones_own_have_fingerprints_of_what_they_compute():
    def gamma(value):
        table = RuleTable.of([(linear_layer, lrp.gamma_rule(value))]) + between_layers(lrp.norm())
        return relevance_method("mine", table)

    found = [agf_fx.compile(tiny(), images(1), method=gamma(value)).fingerprint for value in (0.1, 0.1, 0.9)]
    assert found[0] == found[1] != found[2]


def test_models_of_one_architecture_have_one_fingerprint(exported):
    assert agf_fx.compile(tiny(seed=1), images(1)).fingerprint == exported[0].fingerprint


@pytest.mark.parametrize("format", READABLE)
@pytest.mark.parametrize("damage", ["truncated", "appended", *range(12)])
def test_a_damaged_file_is_refused(exported, format, damage, tmp_path):
    content = bytearray(exported[1][format].read_bytes())
    if damage == "truncated":
        content = content[: len(content) * 2 // 3]
    elif damage == "appended":
        content += content[:100]
    else:
        content[len(content) * damage // 12] ^= 1 << damage % 8
    path = tmp_path / "file"
    path.write_bytes(content)
    try:
        loaded = agf_fx.load(path)
    except ExportLoadError:
        return
    assert format != "onnx"  # archives have bytes that nothing reads
    assert torch.equal(loaded(images(), 1), agf_fx.load(exported[1][format])(images(), 1))


def test_an_onnx_model_with_another_weight_is_refused(exported, tmp_path):
    import onnx

    model = onnx.load(exported[1]["onnx"])
    weight = model.graph.initializer[0]
    weight.raw_data = bytes(len(weight.raw_data))
    onnx.save(model, tmp_path / "file")
    with pytest.raises(ExportLoadError, match="has been changed"):
        agf_fx.load(tmp_path / "file")


def test_a_graph_that_cannot_be_run_is_a_typed_error(exported):
    def broken(images, target):
        raise RuntimeError("size mismatch")

    description = agf_fx.load(exported[1]["torchscript"]).description
    for run, reason in ((broken, "size mismatch"), (lambda images, target: (images, target), "other results")):
        with pytest.raises(ExportLoadError, match=reason):
            loading.ExportedExplainer(run, description)(images())


def odd(kind, source, path):
    """What stands in the place of a file, or an archive with a member that is none."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "large":
        with open(path, "wb") as file:
            file.write(b"\x08\x08")
            file.truncate(2**40)
    elif kind == "encrypted":
        content = bytearray(source.read_bytes())
        for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            start = content.find(mark)
            while start >= 0:
                content[start + place] |= 1
                start = content.find(mark, start + 4)
        path.write_bytes(content)
    else:
        texts = {
            "no text": b'{"kind": "\xff"}',
            "deep": b"[" * 10**5,
            "long": b" " * 2**28,
            "list": b"[1]",
            "number": b"9" * 5000,
        }
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/constants.pkl", b"")
            archive.writestr("a/extra/agf_fx.json", texts[kind])


ODD = ["pipe", "device", "large", "encrypted", "no text", "deep", "long", "list", "number"]


@pytest.mark.parametrize("kind", ODD)
def test_odd_files_are_refused_at_once(exported, kind, tmp_path):
    path, started = tmp_path / "file", time.monotonic()
    odd(kind, exported[1]["torchscript"], path)
    with pytest.raises(ExportLoadError):
        agf_fx.load(path)
    assert time.monotonic() - started < 5


def test_a_path_that_no_file_can_have_is_refused():
    with pytest.raises(ExportLoadError, match="cannot be read"):
        agf_fx.load("a\0b")


def foreign(kind, path):
    if kind == "text":
        path.write_text("hello")
    elif kind == "empty":
        path.touch()
    elif kind == "checkpoint":
        torch.save({"weight": torch.zeros(3)}, path)
    elif kind == "archive":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "hello")
    elif kind == "torchscript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
    elif kind == "program":
        torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), path)
    elif kind == "onnx":
        from onnx import TensorProto, helper, save

        value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
        graph = helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "g", value[:1], value[1:])
        save(helper.make_model(graph), path)
    elif kind == "folder":
        path.mkdir()


@pytest.mark.parametrize(
    "kind", ["text", "empty", "checkpoint", "archive", "torchscript", "program", "onnx", "folder", "missing"]
)
def test_foreign_files_are_refused_before_they_are_loaded(kind, tmp_path, monkeypatch):
    path = tmp_path / "foreign.pt2"
    foreign(kind, path)
    monkeypatch.setattr(loading, "_LOADERS", {})
    with pytest.raises(ExportLoadError, match=r"no explainer of agf-fx|cannot be read"):
        agf_fx.load(path)


def rewritten(source, path, change):
    """A copy of an archive with other metadata."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("agf_fx.json"):
                content = json.dumps(json.loads(content) | change).encode()
            new.writestr(name, content)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kind": "something"}, "something"),
        ({"layout": 99}, "its layout is 99"),
        ({"fingerprint": "x"}, "fingerprint"),
        ({"dtype": "load"}, "dtype"),
        ({"image_shape": None}, "nothing that can be loaded"),
        ({"format": "aoti"}, "says that it is aoti and is torchscript"),
        *(({"classes": value}, "classes") for value in ("5", float("nan"), 5.0, True, 0, -1, None, 10**30)),
        *(({"class_names": value}, "class_names") for value in (["a"], "abcde", [1, 2, 3, 4, 5], {}, [["a"]] * 5)),
        *(({"positions": value}, "positions") for value in (["a"], None, [0], [1.5], "ab", [[1]], [1] * 99)),
        *(({"image_shape": value}, "image_shape") for value in ([], [3, "2"], {"a": 1}, [True, 2, 2])),
        *(({"versions": value}, "versions") for value in (None, [], {"torch": None}, {"torch": ["2"]})),
        *(({"options": value}, "options") for value in (None, [])),
        *(({name: 5}, name) for name in ("format", "model", "method", "fingerprint", "device", "dtype")),
        ({"preprocessing": [1]}, "preprocessing"),
    ],
    ids=str,
)
def test_metadata_that_makes_no_sense_is_refused(exported, change, reason, tmp_path):
    rewritten(exported[1]["torchscript"], tmp_path / "file", change)
    with pytest.raises(ExportLoadError, match=reason):
        agf_fx.load(tmp_path / "file")


def test_another_version_of_torch_is_told(exported, tmp_path):
    rewritten(exported[1]["torchscript"], tmp_path / "file", {"versions": {"torch": "1.0.0"}})
    with pytest.warns(loading.VersionWarning, match=r"written with torch 1\.0\.0"):
        agf_fx.load(tmp_path / "file")


def test_machine_code_of_another_version_is_refused(tmp_path):
    description = described(
        {
            "kind": "agf-fx explainer",
            "layout": 1,
            "format": "aoti",
            "model": "M",
            "method": "agf",
            "options": {},
            "fingerprint": "0" * 64,
            "image_shape": [3, 2, 2],
            "dtype": "float32",
            "device": "cpu",
            "classes": 2,
            "positions": [],
            "class_names": None,
            "preprocessing": None,
            "versions": {"torch": "1.0.0"},
        }
    )
    with pytest.raises(ExportLoadError, match=r"compiled for torch 1\.0\.0"):
        loading._check_versions(tmp_path / "file", description)


def test_a_copy_under_another_name_loads(exported, tmp_path):
    for format in READABLE:
        shutil.copy(exported[1][format], tmp_path / "explainer")
        assert agf_fx.load(tmp_path / "explainer").description.format == format


def test_metadata_of_the_wrong_form_is_refused_when_exporting(exported, tmp_path):
    with pytest.raises(OptionsError, match="2 class names for 5 classes"):
        exported[0].export(tmp_path / "file", class_names=["a", "b"])
    with pytest.raises(OptionsError, match="preprocessing is a str"):
        exported[0].export(tmp_path / "file", preprocessing="resize")
    assert not list(tmp_path.iterdir())


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("agf_fx.version.version", missing)
    assert agf_fx.__version__ == "unknown"
