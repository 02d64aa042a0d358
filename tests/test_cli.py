"""The command line: files, targets, errors, exit status, and a few runs of the real program."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import agf_fx
from agf_fx.atomic import save_array
from agf_fx.cli import app
from agf_fx.data import sample_scenes
from agf_fx.errors import InputError, UnsupportedOpError
from agf_fx.imaging.render import overlay
from agf_fx.models import load_model
from agf_fx.runs.console import printable
from agf_fx.runs.naming import clean, output_stem, unique_stems
from agf_fx.runtime.degenerate import DegenerateMapWarning

DIGITS = ["--model", "digits-vgg"]


def run(*arguments: object, env: dict | None = None):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=env)


def explain(*arguments: object):
    return run("explain", *arguments)


def program(*arguments: object, cwd: Path | None = None, **options) -> subprocess.CompletedProcess:
    """The real program in its own process."""
    root = str(Path(next(iter(agf_fx.__path__))).parent)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "agf_fx.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, **options)


def errors(result) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("error: ")]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class FakeExplainer:
    """Answers with maps that name their image and target: constant ``sum of pixels + 1000 * target``."""

    graph = "the graph"

    def __init__(self, model) -> None:
        self.model = model
        self.batches: list[int] = []

    def explain(self, images, target=None, top_k=None, check=False):
        self.batches.append(len(images))
        with torch.inference_mode():
            logits = self.model(images)
        if target is None:
            target = logits.topk(top_k, dim=1).indices
        assert target.shape[0] == len(images)
        value = images.sum((1, 2, 3))[:, None] + 1000 * target
        maps = value[..., None, None].expand(*target.shape, *images.shape[2:])
        precision = 10.0**-target if check else None  # class 4 is exact to 1e-4
        return SimpleNamespace(maps=maps, target=target, logits=logits, images=images, precision=precision)


def small_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


@pytest.fixture
def fake(monkeypatch):
    """Replace the compiler, for tests of files and options; returns what was compiled."""
    made = SimpleNamespace(explainer=None, calls=[])

    def compile(model, example_inputs=None, *, method="agf", **options):
        made.calls.append((tuple(example_inputs.shape), method))
        made.explainer = FakeExplainer(model)
        return made.explainer

    monkeypatch.setattr(agf_fx, "compile", compile)
    return made


@pytest.fixture
def pictures(tmp_path):
    """Three good pictures of different sizes and kinds."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index, (name, mode) in enumerate((("a.png", "RGB"), ("b.jpg", "L"), ("c.webp", "RGBA"))):
        pixels = rng.integers(0, 256, (80 + index, 70, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / name)
    return folder


# --- the real thing -----------------------------------------------------------------------------------------


def test_explain_a_scene_for_both_digits_in_it(tmp_path, monkeypatch):
    made_by_compile = []
    compile = agf_fx.compile
    monkeypatch.setattr(
        agf_fx, "compile", lambda *a, **k: made_by_compile.append(compile(*a, **k)) or made_by_compile[-1]
    )
    scene = sample_scenes()[0]
    first, second = scene.labels
    out = tmp_path / "out"
    result = explain(scene.path, *DIGITS, "-t", first, "-t", second, "-o", out, "--contact-sheet", "--json")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    summary = json.loads(result.stdout)
    (image,) = summary["images"]
    loaded = load_model("digits-vgg")
    tensor, shown = loaded.preprocessing.prepare(Image.open(scene.path).convert("RGB"))
    (explainer,) = made_by_compile
    expected = explainer.explain(tensor[None], target=torch.tensor([[first, second]]))
    for made, label, relevance in zip(image["maps"], (first, second), expected.maps[0].float().numpy(), strict=True):
        stored = np.load(made["map"])
        assert (stored.shape, stored.dtype) == ((64, 64), np.float32)
        np.testing.assert_allclose(stored, relevance, rtol=1e-4, atol=1e-5 * np.abs(relevance).max())
        np.testing.assert_array_equal(np.asarray(Image.open(made["overlay"])), np.asarray(overlay(shown, stored)))
        assert made["class"] == label
        assert made["logit"] == pytest.approx(expected.logits[0, label].item(), abs=1e-4)
        assert made["probability"] == pytest.approx(torch.sigmoid(expected.logits[0, label]).item(), abs=1e-4)
    stem = scene.path.stem
    files = [f"{stem}.class-{label}.{ending}" for label in (first, second) for ending in ("npy", "png")]
    assert names(out) == sorted([*files, "contact-sheet.png"])


def test_inspect_prints_the_graph_and_the_captured_graph():
    shown = run("inspect", f"{__name__}:small_net", "--input-size", 20, 30, "--full")
    assert shown.exit_code == 0, shown.output
    assert shown.stderr == ""
    assert shown.stdout == f"{agf_fx.compile(small_net().eval(), torch.zeros(1, 3, 20, 30)).graph}\n"
    captured = run("inspect", f"{__name__}:small_net", "--canonical")
    explainer = agf_fx.compile(small_net().eval(), torch.zeros(1, 3, 224, 224))
    assert captured.stdout == f"{explainer.graph.canonical}\n"
    assert "input layer" in captured.stdout


def test_program_explains_and_keeps_stdout_for_json(tmp_path, pictures):
    (tmp_path / "chatty.py").write_text(
        "from torch import nn\n"
        "print('noise at import')\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        print('noise when built')\n"
        "        self.conv = nn.Conv2d(3, 4, 3)\n"
        "        self.fc = nn.Linear(4, 2)\n"
        "    def forward(self, x):\n"
        "        x = self.conv(x).relu()\n"
        "        x = nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)\n"
        "        return self.fc(x)\n"
    )
    (tmp_path / "names.json").write_text('["cat", "dog"]')
    (pictures / "bad.png").write_bytes(b"no picture")
    options = ["--class-names", "names.json", "--size", 24, "--mean", 0, 0, 0, "--std", 1, 1, 1, "--json"]
    done = program("explain", "pictures", "-m", "chatty:Net", "-t", "dog", *options, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    summary = json.loads(done.stdout)
    assert [Path(image["path"]).name for image in summary["images"]] == ["a.png", "b.jpg", "c.webp"]
    assert summary["model"]["preprocessing"].startswith("resize the shorter side to 24")
    assert "Traceback" not in done.stderr
    assert "error: pictures/bad.png: is not an image that can be read; convert it to PNG or JPEG\n" in done.stderr
    assert np.load(tmp_path / "out" / "a.class-1-dog.npy").shape == (24, 24)


def test_program_help_is_quick_and_does_not_import_torch():
    code = "import sys; sys.argv = ['agf-fx', '--help']\ntry:\n    from agf_fx.cli import main; main()\n"
    code += "finally:\n    assert not {'torch', 'numpy', 'matplotlib', 'PIL'} & set(sys.modules)"
    root = Path(next(iter(agf_fx.__path__))).parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("explain", "inspect", "models"):
        assert command in done.stdout


# --- targets ------------------------------------------------------------------------------------------------


def maps_of(result) -> list[list[int]]:
    return [[made["class"] for made in image["maps"]] for image in json.loads(result.stdout)["images"]]


def top(pictures: Path, k: int) -> list[list[int]]:
    loaded = load_model("digits-vgg")
    tensors = [loaded.preprocessing.prepare(_rgb(path))[0] for path in sorted(pictures.iterdir())]
    return loaded.model(torch.stack(tensors)).topk(k, dim=1).indices.tolist()


def _rgb(path: Path) -> Image.Image:
    from agf_fx.imaging.read import read_image

    return read_image(path)


def test_default_is_the_strongest_class(tmp_path, pictures, fake):
    assert maps_of(explain(pictures, *DIGITS, "-o", tmp_path / "o", "--json")) == top(pictures, 1)


def test_top_k_alone(tmp_path, pictures, fake):
    assert maps_of(explain(pictures, *DIGITS, "--top-k", 3, "-o", tmp_path / "o", "--json")) == top(pictures, 3)


def test_targets_and_top_k_together_without_repeats(tmp_path, pictures, fake):
    strongest = top(pictures, 2)
    fixed = [strongest[0][0], (strongest[0][0] + 1) % 10]
    options = ["-t", fixed[0], "-t", fixed[1], "-t", fixed[0], "--top-k", 2]
    result = explain(pictures, *DIGITS, *options, "-o", tmp_path / "o", "--json")
    assert maps_of(result) == [list(dict.fromkeys(fixed + row)) for row in strongest]


def test_every_file_belongs_to_its_image_and_target(tmp_path, pictures, fake):
    result = explain(pictures, *DIGITS, "-t", 2, "-t", 9, "-o", tmp_path / "o", "--batch-size", 2, "--json")
    assert fake.explainer.batches == [2, 1]
    loaded = load_model("digits-vgg")
    for image in json.loads(result.stdout)["images"]:
        total = loaded.preprocessing.prepare(_rgb(image["path"]))[0].sum()
        for made, target in zip(image["maps"], (2, 9), strict=True):
            np.testing.assert_allclose(np.load(made["map"]), float(total + 1000 * target), rtol=1e-4)


def test_unknown_class_does_not_cost_the_others(tmp_path, pictures, fake):
    result = explain(pictures, *DIGITS, "-t", "cat", "-t", 3, "-t", 12, "-o", tmp_path / "o", "--json")
    assert result.exit_code == 1
    assert maps_of(result) == [[3]] * 3
    assert errors(result)[0] == "error: --target cat: unknown class 'cat'; give an index from 0 to 9"
    assert errors(result)[1].startswith("error: --target 12: unknown class '12'; ")
    assert [error["source"] for error in json.loads(result.stdout)["errors"]] == ["--target cat", "--target 12"]


def test_only_unknown_classes(tmp_path, pictures, fake):
    result = explain(pictures, *DIGITS, "-t", "cat", "-o", tmp_path / "o", "--json")
    assert result.exit_code == 1
    assert len(errors(result)) == 1
    assert json.loads(result.stdout)["images"] == []
    assert not (tmp_path / "o").exists()


# --- bad images ---------------------------------------------------------------------------------------------


def test_bad_images_get_one_line_each_and_the_others_are_explained(tmp_path, pictures, fake):
    (pictures / "empty.png").touch()
    (pictures / "text.png").write_text("hello")
    (pictures / "cut.png").write_bytes((pictures / "a.png").read_bytes()[:900])
    Image.new("1", (10_001, 10_000)).save(pictures / "huge.png")
    gone, void = tmp_path / "gone.png", tmp_path / "void"
    void.mkdir()
    result = explain(gone, void, pictures, *DIGITS, "-t", 3, "-o", tmp_path / "o", "--json")
    assert result.exit_code == 1
    assert len(maps_of(result)) == 3
    lines = errors(result)
    assert len(lines) == 6
    assert result.stderr.count("\n") == 6
    for path, words in (
        (gone, "no such file"),
        (void, "no images in this folder"),
        (pictures / "empty.png", "empty (0 bytes)"),
        (pictures / "text.png", "not an image"),
        (pictures / "cut.png", "damaged or truncated"),
        (pictures / "huge.png", "too large"),
    ):
        assert any(line.startswith(f"error: {path}: ") and words in line for line in lines), (path, lines)
    assert [error["message"] for error in json.loads(result.stdout)["errors"]] == [line[7:] for line in lines]


def test_only_bad_images(tmp_path, fake):
    (tmp_path / "bad.png").write_text("hello")
    result = explain(tmp_path / "bad.png", *DIGITS, "-o", tmp_path / "o")
    assert result.exit_code == 1
    assert errors(result) == [f"error: {tmp_path}/bad.png: is not an image that can be read; convert it to PNG or JPEG"]
    assert "no image was explained" in result.stdout


def test_nothing_to_explain(tmp_path, fake):
    result = explain(tmp_path / "gone", *DIGITS, "-o", tmp_path / "o")
    assert result.exit_code == 1
    assert errors(result) == [f"error: {tmp_path}/gone: no such file or folder; check the path"]
    assert not (tmp_path / "o").exists()


def test_missing_files_and_folders_that_take_no_files_are_named_before_any_work(tmp_path, pictures):
    started = "import sys; from agf_fx.cli import app; sys.argv[1:] = {}; app(standalone_mode=True)"
    (tmp_path / "file").touch()
    for arguments in (["gone"], [str(pictures), "-o", "file/o"], [str(pictures), "-o", "/proc/o"]):
        line = ["explain", *arguments, *DIGITS]
        code = f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); {started.format(line)}"
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stdout == "False\n"
        assert len(done.stderr.splitlines()) == 1
        assert arguments[-1] in done.stderr


def test_a_folder_in_which_nothing_was_written_is_gone_again(tmp_path, fake):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert explain(tmp_path / "broken.png", *DIGITS, "-o", tmp_path / "new" / "o").exit_code == 1
    assert names(tmp_path) == ["broken.png"]


def test_maps_are_checked_against_float64(tmp_path, pictures, fake):
    result = explain(pictures, *DIGITS, "-t", 2, "-t", 4, "--check", "-o", tmp_path / "o", "--json")
    assert result.exit_code == 0
    maps = json.loads(result.stdout)["images"][0]["maps"]
    assert [made["precision"] for made in maps] == [pytest.approx(1e-2), pytest.approx(1e-4)]
    warned = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warned) == len(json.loads(result.stdout)["images"])
    assert "the map of class 2 is 0.01 of its largest value away" in warned[0]


def test_max_pixels(tmp_path, pictures, fake):
    result = explain(pictures, *DIGITS, "--max-pixels", 5650, "-o", tmp_path / "o", "--json")
    assert result.exit_code == 1
    assert len(maps_of(result)) == 1


def test_file_names_that_disturb_a_terminal(tmp_path, fake):
    name = "a\nb\x1b[31m [red]c.png"
    Image.new("RGB", (9, 9)).save(tmp_path / name)
    (tmp_path / "d\ne.png").touch()
    result = explain(tmp_path, *DIGITS, "-o", tmp_path / "o")
    assert result.exit_code == 1
    assert "\x1b" not in result.output
    assert len(result.stderr.splitlines()) == 1
    assert any("[red]" in made for made in names(tmp_path / "o"))
    assert printable("a\tb\x07\udcff") == "a b\\x07\\udcff"


# --- failures while explaining ------------------------------------------------------------------------------


def test_an_image_that_fails_in_a_batch_costs_only_itself(tmp_path, pictures, fake, monkeypatch):
    whole = FakeExplainer.explain
    loaded = load_model("digits-vgg")
    poison = loaded.preprocessing.prepare(_rgb(pictures / "b.jpg"))[0]

    def explain_or_fail(self, images, **options):
        if any(torch.equal(image, poison) for image in images):
            raise InputError("this one\nis poison") if len(images) == 1 else RuntimeError("batch failed")
        return whole(self, images, **options)

    monkeypatch.setattr(FakeExplainer, "explain", explain_or_fail)
    result = explain(pictures, *DIGITS, "-o", tmp_path / "o", "--json")
    assert result.exit_code == 1
    assert [Path(image["path"]).name for image in json.loads(result.stdout)["images"]] == ["a.png", "c.webp"]
    assert errors(result) == [f"error: {pictures}/b.jpg: this one is poison"]


def test_a_map_that_is_not_finite_is_an_error_of_its_image(tmp_path, pictures, fake, monkeypatch):
    whole = FakeExplainer.explain

    def with_a_hole(self, images, **options):
        result = whole(self, images, **options)
        result.maps = result.maps.clone()
        result.maps[1, 0, 3, 3] = torch.nan
        return result

    monkeypatch.setattr(FakeExplainer, "explain", with_a_hole)
    result = explain(pictures, *DIGITS, "-t", 1, "-o", tmp_path / "o")
    assert result.exit_code == 1
    assert names(tmp_path / "o") == ["a.class-1.npy", "a.class-1.png", "c.class-1.npy", "c.class-1.png"]
    assert "NaN or infinite" in errors(result)[0]


def test_a_map_of_zeros_is_a_warning_of_its_image(tmp_path, pictures, fake, monkeypatch):
    whole = FakeExplainer.explain

    def with_nothing(self, images, **options):
        result = whole(self, images, **options)
        result.maps = result.maps.clone()
        result.maps[1, 0] = 0
        warnings.warn("maps of images [1] are zero everywhere", DegenerateMapWarning, stacklevel=1)
        return result

    monkeypatch.setattr(FakeExplainer, "explain", with_nothing)
    result = explain(pictures, *DIGITS, "-t", 1, "-o", tmp_path / "o", "--json")
    assert result.exit_code == 0
    assert len(maps_of(result)) == 3
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"warning: {pictures}/b.jpg: the map of class 1 is zero everywhere")
    assert [item["source"] for item in json.loads(result.stdout)["warnings"]] == [f"{pictures}/b.jpg"]


def test_a_full_disk_is_an_error_of_each_image_and_leaves_no_part_files(tmp_path, pictures, fake, monkeypatch):
    def full(path, array):
        if "b.class" in str(path):
            with open(path, "wb"):
                pass
            os.unlink(path)
            raise OSError(28, "No space left on device")
        save_array(path, array)

    monkeypatch.setattr("agf_fx.runs.outputs.save_array", full)
    result = explain(pictures, *DIGITS, "-t", 1, "-o", tmp_path / "o")
    assert result.exit_code == 1
    assert errors(result) == [f"error: {pictures}/b.jpg: [Errno 28] No space left on device"]
    assert not [name for name in names(tmp_path / "o") if name.endswith(".part")]
    assert {"a.class-1.npy", "c.class-1.npy"} <= set(names(tmp_path / "o"))


def test_interrupt_keeps_what_is_done(tmp_path, pictures, fake, monkeypatch):
    whole = FakeExplainer.explain

    def interrupted_later(self, images, **options):
        if self.batches:
            raise KeyboardInterrupt
        return whole(self, images, **options)

    monkeypatch.setattr(FakeExplainer, "explain", interrupted_later)
    options = ["-t", 1, "--batch-size", 2, "--contact-sheet", "--json"]
    result = explain(pictures, *DIGITS, *options, "-o", tmp_path / "o")
    assert result.exit_code == 130
    summary = json.loads(result.stdout)
    assert summary["interrupted"]
    assert len(summary["images"]) == 2
    assert names(tmp_path / "o") == [
        "a.class-1.npy",
        "a.class-1.png",
        "b.class-1.npy",
        "b.class-1.png",
        "contact-sheet.png",
    ]


def test_a_model_that_cannot_be_compiled(tmp_path, pictures, monkeypatch):
    def refuse(*_, **__):
        raise UnsupportedOpError("aten.digamma has no rule; register one", op="aten.digamma")

    monkeypatch.setattr(agf_fx, "compile", refuse)
    result = explain(pictures, *DIGITS, "-o", tmp_path / "o")
    assert result.exit_code == 1
    assert errors(result) == ["error: aten.digamma has no rule; register one"]
    assert not (tmp_path / "o").exists()


# --- bad models and wrong usage -----------------------------------------------------------------------------


def test_bad_checkpoints_are_one_line_and_status_1(tmp_path, pictures, fake):
    (tmp_path / "bad.safetensors").write_bytes(b"\0" * 40)
    (tmp_path / "bad.pth").write_bytes(b"PK")
    for name in ("gone.safetensors", "bad.safetensors", "bad.pth"):
        result = explain(pictures, *DIGITS, "--checkpoint", tmp_path / name, "-o", tmp_path / "o")
        assert result.exit_code == 1
        assert result.stdout == ""
        assert errors(result) == result.stderr.splitlines()
        assert len(errors(result)) == 1
        assert name in errors(result)[0]


def test_weights_without_network_are_one_line_and_status_1(tmp_path, pictures, fake, monkeypatch):
    def no_network(*_, **__):
        print("Downloading ...")
        raise OSError("Network is unreachable")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    options = ["--model", "squeezenet1_1", "--weights", "DEFAULT", "--json"]
    result = explain(pictures, *options, "-o", tmp_path / "o")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert len(errors(result)) == 1
    assert "cannot be downloaded" in errors(result)[0]


@pytest.mark.parametrize(
    "options",
    [
        ["--model", "digits-vgg", "--colour", "blue"],
        ["--model", "digits-vgg", "--top-k", "0"],
        ["--model", "digits-vgg", "--top-k", "11"],
        ["--model", "digits-vgg", "--batch-size", "0"],
        ["--model", "digits-vgg", "--size", "-3"],
        ["--model", "digits-vgg", "--std", "0", "1", "1"],
        ["--model", "digits-vgg", "--mean", "1", "x", "1"],
        ["--model", "digits-vgg", "--weights", "DEFAULT"],
        ["--model", "resnet18"],
        ["--model", "resnet18", "--weights", "NONE_SUCH"],
        ["--model", "no-such-model"],
        [],
    ],
)
def test_wrong_usage_is_status_2(tmp_path, pictures, fake, options):
    result = explain(pictures, *options, "-o", tmp_path / "o")
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "o").exists()


def test_wrong_output_folders_are_status_2(tmp_path, pictures, fake):
    for out in (pictures / "a.png", pictures):
        result = explain(pictures, *DIGITS, "-o", out)
        assert result.exit_code == 2
    assert names(pictures) == ["a.png", "b.jpg", "c.webp"]


def test_output_folder_that_cannot_be_made(tmp_path, pictures, fake):
    (tmp_path / "file").touch()
    result = explain(pictures, *DIGITS, "-o", tmp_path / "file" / "o")
    assert result.exit_code == 1
    assert len(errors(result)) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "magic"), "error: no method 'magic'"),
        (("--method", "lrp-epsilon", "--option", "epsilom=1"), "error: 'lrp-epsilon' has no option 'epsilom' (did you"),
        (("--method", "lrp-epsilon", "--option", "epsilon=much"), "error: option epsilon is 'much'; give a value of"),
        (
            ("--method", "meta", "--option", "method=meta"),
            "error: meta takes one step, and the method inside is meta, too",
        ),
        (("--method", "meta", "--option", "options=epsilon=1"), "error: 'normgrad' has no option 'epsilon'; it has "),
    ],
)
def test_unknown_methods_and_options_are_wrong_usage(tmp_path, pictures, words, message):
    result = explain(pictures, *DIGITS, *words, "-o", tmp_path / "o")
    assert result.exit_code == 2
    (error,) = errors(result)
    assert error.startswith(message)


def test_methods_and_their_options_are_explained_with(tmp_path, pictures):
    out = tmp_path / "o"
    words = ("--method", "lrp_epsilon", "--option", "epsilon=0.1", "--target", "1", "-o", out)
    assert explain(pictures, *DIGITS, *words).exit_code == 0
    found = np.load(sorted(out.glob("*.npy"))[0])
    assert found.shape == (64, 64)
    assert np.abs(found).max() > 0


def test_no_images_named():
    assert explain(*DIGITS).exit_code == 2


# --- outputs ------------------------------------------------------------------------------------------------


def test_table_for_people(tmp_path, pictures, fake):
    result = explain(pictures, *DIGITS, "--top-k", 2, "-o", tmp_path / "o", "--contact-sheet")
    assert result.exit_code == 0
    assert result.stderr == ""
    for words in ("digits-vgg", "resize the shorter side to 64", "a.png", "class ", "%", "6 maps of 3 images"):
        assert words in result.stdout
    assert f"contact sheet: {tmp_path}/o/contact-sheet.png" in result.stdout


def test_running_again_over_a_folder_leaves_its_own_outputs_out(tmp_path, pictures, fake):
    for _ in range(2):
        result = explain(pictures, *DIGITS, "-o", pictures / "out", "--json")
        assert result.exit_code == 0
        assert len(maps_of(result)) == 3


def test_contact_sheets_in_pages(tmp_path, pictures, fake, monkeypatch):
    monkeypatch.setattr("agf_fx.runs.outputs.SHEET_ROWS", 2)
    result = explain(pictures, *DIGITS, "-o", tmp_path / "o", "--contact-sheet", "--json")
    sheets = [Path(path).name for path in json.loads(result.stdout)["contact_sheets"]]
    assert sheets == ["contact-sheet-001.png", "contact-sheet-002.png"]
    heights = [Image.open(tmp_path / "o" / sheet).height for sheet in sheets]
    assert heights[0] > 1.8 * heights[1]


def test_example_batch_has_the_size_the_model_takes(tmp_path, pictures, fake):
    explain(pictures, *DIGITS, "-o", tmp_path / "o", "--size", 48)
    assert fake.calls[0][0][1:] == (3, 48, 48)


def test_pictures_of_the_same_name_do_not_overwrite_each_other(tmp_path, fake):
    for name in ("a/x.png", "b/x.png", "b/x.bmp", "y.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (9, 9), (len(name), 0, 0)).save(tmp_path / name)
    result = explain(tmp_path, *DIGITS, "-t", 1, "-o", tmp_path / "out", "--json")
    files = [made["map"] for image in json.loads(result.stdout)["images"] for made in image["maps"]]
    assert [Path(file).name for file in files] == [
        "a-x.class-1.npy",
        "x-bmp.class-1.npy",
        "b-x.class-1.npy",
        "y.class-1.npy",
    ]


def test_unique_stems_never_collide():
    paths = [
        *(Path(f"{folder}/{name}") for folder in ("a", "b", "a-b", "c/a") for name in ("x.png", "X.png", "x.jpg")),
        Path("a-x.png"),
        Path("b-x-png.gif"),
        Path("a/a-x.png"),
        Path("k/x-png.webp"),
        Path("é.png"),
        Path("e\u0301.png"),
        Path("n" * 250 + "1.png"),
        Path("n" * 250 + "2.png"),
        Path("日" * 80 + ".png"),
        Path("..png"),
        Path("q/con:?.png"),
    ]
    stems = unique_stems(paths)
    assert set(stems) == set(paths)
    folded = [stem.casefold() for stem in stems.values()]
    assert len(set(folded)) == len(paths)
    assert all(len(f"{stem}.class-999-{'x' * 40}.npy".encode()) < 255 for stem in stems.values())
    assert not any(set(stem) & set('/\\:?*<>|"') or stem.startswith(".") for stem in stems.values())
    assert unique_stems(list(reversed(paths))) == stems


def test_output_stem_names_index_and_class():
    assert output_stem("scene", 3, "3") == "scene.class-3"
    assert output_stem("scene", 281, "tabby, tabby cat") == "scene.class-281-tabby-tabby-cat"
    assert output_stem("scene", 1, "../../x") == "scene.class-1-x"
    assert output_stem("scene", 1, "猫") == "scene.class-1"
    assert clean("") == "image"


def test_progress_bar_only_for_more_than_a_few_images_on_a_terminal(monkeypatch):
    from rich.console import Console

    from agf_fx.runs.run import _progress

    terminal = Console(stderr=True, force_terminal=True)
    assert not _progress(terminal, 5).disable
    assert _progress(terminal, 4).disable
    assert _progress(Console(stderr=True, force_terminal=False), 500).disable


# --- the other commands -------------------------------------------------------------------------------------


def test_models_lists_the_bundled_ones_and_says_where_others_come_from():
    result = run("models")
    assert result.exit_code == 0
    for words in ("digits-vgg", "digits-resnet", "--weights DEFAULT", "package.module:factory"):
        assert words in result.stdout
    listed = run("models", "--torchvision").stdout.splitlines()
    assert "resnet50" in listed
    assert "fasterrcnn_resnet50_fpn" not in listed


def test_version():
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("agf-fx ")


def test_inspect_refuses_wrong_usage(fake):
    assert run("inspect", "no-such-model").exit_code == 2
    assert run("inspect", "digits-vgg", "--input-size", 0, 5).exit_code == 2


def wide_net():
    """For images of one size alone."""
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 20 * 30, 5)).eval()


def test_models_of_one_size_are_inspected_with_pictures_of_it(tmp_path):
    noise = torch.randint(256, (50, 90, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    Image.fromarray(noise.numpy()).save(tmp_path / "noise.png")
    words = ["inspect", f"{__name__}:wide_net", "--input-size", 20, 30]
    assert run(*words).stdout.startswith("Sequential by agf: images f32[N, 3, 20, 30]")
    assert run(*words, "--image", tmp_path / "noise.png", "--html", tmp_path / "page.html").exit_code == 0
    assert "f32[N, 3, 20, 30]" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert run("inspect").exit_code == 2


def test_inspect_needs_no_weights(fake):
    result = run("inspect", "squeezenet1_1", "--input-size", 65, 70, "--full")
    assert result.exit_code == 0, result.output
    assert fake.calls == [((1, 3, 65, 70), "agf")]
    assert result.stdout == "the graph\n"


def test_precision_and_device_reach_the_explainer(tmp_path):
    scene = sample_scenes()[3].path
    for precision in ("float32", "bfloat16"):
        folder = tmp_path / precision
        result = explain(
            scene, *DIGITS, "--precision", precision, "--device", "cpu", "--backend", "eager", "-o", folder
        )
        assert result.exit_code == 0, result.output
    maps = [np.load(next((tmp_path / precision).glob("*.npy"))) for precision in ("float32", "bfloat16")]
    assert not np.array_equal(*maps)
    assert np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1] > 0.999


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--device", "nope", "--device nope cannot be used"),
        ("--backend", "xla", "choose one of 'eager', 'inductor', 'cudagraphs', 'auto'"),
        ("--precision", "int8", "choose one of 'float64', 'float32', 'tf32', 'bfloat16', 'float16'"),
    ],
)
def test_unknown_ways_of_running_are_wrong_usage(tmp_path, option, value, complaint):
    result = explain(sample_scenes()[3].path, *DIGITS, option, value, "-o", tmp_path)
    assert result.exit_code == 2
    assert complaint in result.stderr
