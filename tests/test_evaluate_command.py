"""``agf-fx evaluate``, from a dataset to tables; and mosaics."""

from __future__ import annotations

import dataclasses
import json
import sys
import types

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from PIL import Image
from typer.testing import CliRunner

import agf_fx
from agf_fx.cli import app
from agf_fx.data import digit_scenes
from agf_fx.data.datasets import batches, open_dataset
from agf_fx.errors import InputError, OptionsError
from agf_fx.evaluate.evaluation import Part
from agf_fx.evaluate.localisation import localisation
from agf_fx.evaluate.mosaics import Tiles, confident_tiles, mosaic_batches
from agf_fx.models.digits import DIGITS_MEAN, DIGITS_STD
from agf_fx.runs.evaluation_report import _parts


def run(*words, status=0):
    result = CliRunner().invoke(app, ["evaluate", *map(str, words)])
    assert result.exit_code == status, result.output + result.stderr
    return result


SEPARATION = "separation", "--model", "digits-vgg", "--dataset", "digits:6", "--methods", "agf,gradient-x-input"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation")
    run(*SEPARATION, "--out", out)
    return out


def test_rows_are_those_of_the_measures(folder):
    rows = pd.read_csv(folder / "rows.csv")
    assert rows.equals(pd.read_parquet(folder / "rows.parquet")[list(rows)])
    scenes = digit_scenes(6, split="test", seed=2)
    mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (DIGITS_MEAN, DIGITS_STD))
    maps = agf_fx.compile(agf_fx.load_model("digits-vgg").model)((scenes.images - mean) / std, scenes.labels)
    expected = localisation(maps, scenes.masks)
    own = rows[rows["method"] == "agf"]
    assert len(own) == 12
    assert own["target"].tolist() == scenes.labels.flatten().tolist()
    assert own["share"].mean() == pytest.approx(expected.own_share, abs=1e-3)  # pixels of 8 bits
    assert own["wins"].mean() == expected.own_wins
    means = pd.read_csv(folder / "summary.csv").set_index(["method", "measure"])
    assert means.loc[("agf", "share"), "mean"] == pytest.approx(own["share"].mean())
    assert means.loc[("agf", "share"), "low"] <= own["share"].mean() <= means.loc[("agf", "share"), "high"]
    assert (folder / "figure.png").stat().st_size > 2000
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 2 * 6
    assert page.count("data:image/jpeg") == 12
    assert "http" not in page
    best = own.sort_values("share", ascending=False, kind="stable").iloc[0]
    assert f"best: {best['image']}, {best['target']}: share {best['share']:.3f}" in page


def test_the_same_command_goes_on(folder):
    before = (folder / "rows.jsonl").read_bytes()
    lines = before.splitlines(keepends=True)
    (folder / "rows.jsonl").write_bytes(b"".join(lines[:-1]))
    run(*SEPARATION, "--out", folder)
    assert [json.loads(line) for line in (folder / "rows.jsonl").read_bytes().splitlines()] == [
        json.loads(line) for line in lines
    ]
    said = run(*SEPARATION, "--out", folder, "--precision", "float64", status=2)
    assert "evaluation of something else" in said.stderr


def test_a_method_that_cannot_explain_the_network_costs_only_itself(tmp_path):
    words = [
        "segmentation",
        "--model",
        "digits-vgg",
        "--dataset",
        "digits:2",
        "--methods",
        "gradient-x-input,attnlrp,gradcam",
    ]
    said = run(*words, "--option", "gradcam.layer=nowhere", "--out", tmp_path, status=1)
    assert "gradcam" in said.stderr
    assert set(pd.read_csv(tmp_path / "rows.csv")["method"]) == {"gradient-x-input", "attnlrp"}


@pytest.mark.parametrize("experiment", ["negative-perturbation", "class-sensitivity", "sanity", "robustness"])
def test_other_experiments(experiment, tmp_path):
    few = ["--set", "samples=2"] if experiment == "robustness" else []
    hidden = ["--set", "impute=mean"] if experiment == "negative-perturbation" else []
    words = [experiment, "--model", "digits-vgg", "--dataset", "digits:2", "--methods", "gradient-x-input"]
    run(*words, *few, *hidden, "--out", tmp_path)
    means = pd.read_csv(tmp_path / "summary.csv")
    assert len(means)
    assert set(means["images"]) <= {2}
    assert (tmp_path / "figure.png").exists()


def test_experiments_are_listed():
    said = run("list").output
    assert "grid: grid pointing game" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["segmentaton", "-m", "digits-vgg"], "unknown experiment"),
        (["separation"], "--model is missing"),
        (["separation", "-m", "digits-vgg", "-d", "digits:none"], "no number of scenes"),
        (["separation", "-m", "digits-vgg", "-d", "kittens:/x"], "kittens"),
        (["separation", "-m", "digits-vgg", "--set", "cells"], "NAME=VALUE"),
    ],
)
def test_words_that_cannot_be_meant(words, message, tmp_path):
    assert message in run(*words, "--out", tmp_path, status=2).stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["grid", "-m", "digits-vgg", "-d", "photographs"], "no class"),
        (["separation", "-m", "digits-vgg", "-d", "digits:2", "--set", "cell=2"], "no setting 'cell'"),
        (["negative-perturbation", "-m", "digits-vgg", "-d", "digits:2", "--set", "impute=white"], "impute"),
        (["separation", "-m", "digits-vgg", "-d", "digits:2", "--set", "confidence=0.5"], "give cells=2 too"),
        (
            ["positive-perturbation", "-m", "digits-vgg", "-d", "digits:2", "--set", "options=1"],
            "it has impute, seed, region",
        ),
        (["segmentation", "-m", "digits-vgg", "-d", "digits:2", "--set", "threshold=true"], "auto, mean"),
        (["pointing", "-m", "digits-vgg", "-d", "digits:2", "--set", "tolerance=1.5"], "a whole number"),
        (["grid", "-m", "digits-vgg", "-d", "photographs", "--set", "cells=0"], "1 or more"),
        (["grid", "-m", "digits-vgg", "-d", "photographs", "--set", "confidence=high"], "a finite number"),
        (["saliency-bias", "-m", "digits-vgg", "-d", "digits:2", "--set", "contrasts=dark"], "a list of numbers"),
        (["sanity", "-m", "digits-vgg", "-d", "digits:2", "--set", "order=down"], "cascading, independent"),
        (["segmentation", "-m", "digits-vgg", "-d", "digits:2", "--set", "threshold=NaN"], "a finite number"),
        (["negative-perturbation", "-m", "digits-vgg", "-d", "digits:2", "--set", "region=0"], "give 1 or more"),
        (["pointing", "-m", "digits-vgg", "-d", "digits:2", "--set", "tolerance=-1"], "give 0 or more"),
        (["robustness", "-m", "digits-vgg", "-d", "digits:2", "--set", "samples=0"], "give 1 or more"),
    ],
)
def test_what_does_not_go_together(words, message, tmp_path):
    assert message in run(*words, "--out", tmp_path, status=2).stderr


# Mosaics


def tiles(classes, size=4):
    images = torch.arange(len(classes)).reshape(-1, 1, 1, 1).expand(-1, 3, size, size + 1).double()
    return Tiles(tuple(f"t{n}" for n in range(len(classes))), images, torch.tensor(classes))


def test_no_picture_of_a_mosaic_shows_the_class_of_another():
    shown = tuple(map(frozenset, ({0, 1}, {1}, {2}, {3, 0}, {4})))
    given = dataclasses.replace(tiles(range(5)), shown=shown)
    found = [set(batch.targets.flatten().tolist()) for batch in mosaic_batches(given, limit=20, size=1)]
    assert sorted(map(sorted, found)) == [[1, 2, 3, 4]]
    with pytest.raises(InputError, match="show none of the classes of each other"):
        list(mosaic_batches(dataclasses.replace(given, shown=(frozenset(range(5)),) * 5)))


def test_names_of_mosaics_are_taken_apart_whatever_they_hold():
    assert _parts("a+b+c+d", {*"abcd"}) == [*"abcd"]
    assert _parts("a+b+c+d", {"a+b", "c", "d", "x"}) == ["a+b", "c", "d"]
    assert _parts("3/a+1.png+b", {"3/a+1.png", "b"}) == ["3/a+1.png", "b"]
    assert _parts("a+b", {"a"}) == []


@pytest.mark.parametrize("cells", [1, 2, 3])
def test_mosaics_show_their_pictures_row_by_row(cells):
    given = tiles([*range(9), 0, 1])
    found = list(mosaic_batches(given, cells=cells, limit=20, size=6))
    assert sum(len(batch.names) for batch in found) == {1: 11, 2: 20, 3: 4}[cells]
    for batch in found:
        assert batch.images.shape[1:] == (3, 4 * cells, 5 * cells)
        for name, image, target in zip(batch.names, batch.images, batch.targets, strict=True):
            numbers = [int(part[1:]) for part in name.split("+")]
            assert given.classes[numbers].tolist() == target.tolist()
            assert len({*target.tolist()}) == cells**2
            seen = image.unflatten(1, (cells, 4)).unflatten(3, (cells, 5)).permute(0, 1, 3, 2, 4)
            assert bool((seen == torch.tensor(numbers).reshape(1, cells, cells, 1, 1)).all())


def test_mosaics_are_chosen_by_a_seed_and_all_where_there_are_few():
    few = list(mosaic_batches(tiles([0, 1, 2, 3, 4]), limit=100, size=100))
    assert len({frozenset(name.split("+")) for name in few[0].names}) == 5
    many = [next(iter(mosaic_batches(tiles(list(range(60))), limit=7, seed=seed))).names for seed in (0, 0, 1)]
    assert many[0] == many[1] != many[2]
    assert len(many[0]) == len({*many[0]}) == 7
    with pytest.raises(InputError, match="as many classes"):
        next(mosaic_batches(tiles([0, 0, 1, 2])))
    with pytest.raises(OptionsError):
        next(mosaic_batches(tiles([0, 1, 2, 3]), cells=0))


def test_pictures_that_the_network_knows_are_taken():
    logits = torch.tensor([[9.0, 0, 0], [0, 9.0, 0], [0.2, 0, 0], [0, 0, 9.0]])
    batch = Part(
        ["right", "wrong", "unsure", "no class"],
        torch.zeros(4, 3, 2, 2),
        torch.tensor([[0], [0], [0], [-1]]),
        None,
        None,
    )
    found = confident_tiles(lambda images: logits, [batch], confidence=0.5)
    again = confident_tiles(
        lambda images: logits, [batch], confidence=0.5, read=lambda name: batch.images[list(batch.names).index(name)]
    )
    assert torch.equal(again.images([1, 0]), found.images[[1, 0]])
    assert again.names == found.names
    assert found.names == ("right", "no class")
    assert found.classes.tolist() == [0, 2]
    with pytest.raises(InputError, match="no picture"):
        confident_tiles(lambda images: logits, [batch], confidence=0.99999)


def test_bundled_datasets():
    photographs = open_dataset("photographs", "")
    assert len(photographs) == 7
    assert [photographs[n].classes for n in range(len(photographs))] == [(n,) for n in range(len(photographs))]
    assert photographs.class_names[photographs[0].classes[0]]
    for example in photographs:
        assert example.masks.shape == (1, example.image.height, example.image.width)
        assert 0.01 < example.masks.mean() < 0.85
    scenes = open_dataset("digits", "3", seed=5)
    (batch,) = batches(scenes, agf_fx.load_model("digits-vgg").preprocessing)
    expected = digit_scenes(3, split="test", seed=5)
    assert torch.equal(batch.masks, expected.masks)
    assert torch.equal(batch.targets, expected.labels)
    assert torch.allclose(batch.images * 0.5 + 0.5, expected.images, atol=0.5 / 255 + 1e-6)
    for path in ("0", "-1", "x"):
        with pytest.raises(OptionsError):
            open_dataset("digits", path)
    with pytest.raises(OptionsError):
        open_dataset("photographs", "/tmp")


def test_views_of_photographs_keep_the_object():
    whole, views = open_dataset("photographs", ""), open_dataset("photographs", "3")
    assert len(views) == 3 * len(whole)
    assert views.example_name(7) == whole.example_name(0) + "-2"
    for index in range(len(whole)):
        original, crop, again = (views[index + view * len(whole)] for view in (0, 1, 1))
        assert np.array_equal(np.array(original.image), np.array(whole[index].image))
        assert crop.classes == original.classes
        assert np.array_equal(np.array(crop.image), np.array(again.image))
        assert crop.masks.sum() >= 0.8 * original.masks.sum()
        pixels, mask = np.array(crop.image)[:, ::-1, 0], crop.masks[0, :, ::-1]
        height, width = mask.shape
        windows = np.lib.stride_tricks.sliding_window_view(np.array(original.image)[..., 0], (height, width))
        assert windows[..., 0, 0].size > 1
        places = np.argwhere((windows[:, :, 0] == pixels[0]).all(2))
        assert any(
            np.array_equal(windows[y, x], pixels)
            and np.array_equal(original.masks[0, y : y + height, x : x + width], mask)
            for y, x in places
        )


def linear(classes):
    """A network that sees red, green and blue, in this order of its outputs."""
    torch.manual_seed(0)
    order = ["red", "green", "blue"]
    layers = (
        torch.nn.Conv2d(3, 3, 1, bias=False),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(3, len(classes)),
    )
    model = torch.nn.Sequential(*layers)
    with torch.no_grad():
        layers[0].weight.copy_(torch.eye(3)[..., None, None])
        layers[3].weight.copy_(20 * torch.eye(3)[[order.index(name) for name in classes]])
        layers[3].bias.zero_()
    return model.eval()


@pytest.fixture
def colours(tmp_path, monkeypatch):
    """Pictures of two colours in folders, and networks that see them: a module, and a folder for what comes out."""
    for name, colour in (("green", (0, 255, 0)), ("red", (255, 0, 0))):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (32, 32), colour).save(tmp_path / "data" / name / f"{name}{number}.png")
    monkeypatch.setitem(sys.modules, "colour_networks", types.ModuleType("colour_networks"))
    sys.modules["colour_networks"].__dict__.update(
        right=lambda: linear(["red", "green"]), turned=lambda: linear(["green", "red"])
    )
    return tmp_path


def accuracy(colours, out, *words, network="right", names="red\ngreen", status=0):
    (colours / "names.txt").write_text(names)
    command = ["negative-perturbation", "-m", f"colour_networks:{network}", "--class-names", colours / "names.txt"]
    done = run(
        *command,
        "-d",
        f"folder:{colours / 'data'}",
        "--methods",
        "gradient-x-input",
        "-o",
        colours / out,
        *words,
        status=status,
    )
    rows = pd.read_csv(colours / out / "rows.csv") if (colours / out / "rows.csv").exists() else None
    return done, rows


def test_classes_are_matched_by_name_whatever_their_order(colours):
    for network, names in (("right", "red\ngreen"), ("turned", "green\nred")):
        _, rows = accuracy(colours, network, network=network, names=names)
        assert len(rows) == 8
        assert rows["accuracy at 10 %"].mean() == 1
    done, _ = accuracy(colours, "partly", names="red\nleaf", status=2)
    assert "'red' at another place" in " ".join(done.stderr.split())
    done, rows = accuracy(colours, "none", names="a\nb")
    assert "in their order" in " ".join(done.stderr.split())
    assert rows["accuracy at 10 %"].mean() == 0  # as the order is another


def test_a_folder_holds_one_network(colours):
    accuracy(colours, "one")
    for words in ({"network": "turned"}, {"names": "green\nred"}):
        done, _ = accuracy(colours, "one", status=2, **words)
        assert "something else" in done.stderr
    done, _ = accuracy(colours, "one", "--multi-label", status=2)
    assert "multi_label" in done.stderr


def test_an_image_with_another_label_is_measured_again(colours):
    """And it alone; the same file written again changes nothing, and a row that is gone is in no table."""
    (colours / "names.txt").write_text("red\ngreen")
    table = colours / "list.csv"
    rows = ["image,label", "data/red/red0.png,red", "data/red/red1.png,green", "data/green/green0.png,green"]
    table.write_text("\n".join(rows))
    command = ["negative-perturbation", "-m", "colour_networks:right", "--class-names", colours / "names.txt"]
    command += ["-d", f"table:{table}", "--methods", "gradient-x-input", "-o", colours / "out"]
    run(*command)
    found = (colours / "out" / "rows.jsonl").read_bytes()
    table.write_text("\n".join(rows))
    run(*command)
    assert (colours / "out" / "rows.jsonl").read_bytes() == found
    before = pd.read_csv(colours / "out" / "rows.csv").set_index("image")
    table.write_text("\n".join(rows).replace("red1.png,green", "red1.png,red"))
    run(*command)
    added = (colours / "out" / "rows.jsonl").read_bytes()[len(found) :]
    assert json.loads(added)["images"] == ["data/red/red1.png"]
    after = pd.read_csv(colours / "out" / "rows.csv").set_index("image")
    assert len(after) == len(before) == 6
    assert before.loc["data/red/red1.png", "accuracy at 10 %"].tolist() == [0, 0]
    assert after.loc["data/red/red1.png", "accuracy at 10 %"].tolist() == [1, 1]
    table.write_text("\n".join([*rows[:2], rows[3]]))
    run(*command)
    left = {*pd.read_csv(colours / "out" / "rows.csv")["image"]}
    assert left == {"data/red/red0.png", "data/green/green0.png"}


def test_options_of_the_dataset(tmp_path):
    command = ["separation", "-m", "digits-vgg", "-d", "digits:2", "--methods", "gradcam", "-o", tmp_path]
    run(*command, "--dataset-option", "seed=5", "--dataset-option", "split=train")
    rows = pd.read_csv(tmp_path / "rows.csv")
    assert rows["image"].unique().tolist() == ["scene-5-00000", "scene-5-00001"]
    assert rows["target"].tolist() == digit_scenes(2, split="train", seed=5).labels.flatten().tolist()
    about = json.loads((tmp_path / "experiment.json").read_text())
    assert about["dataset"] == "digits:2, seed=5, split=train"
    run(*command, "--dataset-option", "split=train", "--dataset-option", "seed=05")
    said = " ".join(run(*command, "--dataset-option", "seed=5", status=2).stderr.split())
    assert "something else" in said
    assert "dataset: 'digits:2, seed=5, split=train' there, 'digits:2, seed=5' now" in said


@pytest.mark.parametrize(
    ("data", "words", "message"),
    [
        ("digits:2", ["sed=1"], "the kind digits has no option 'sed'; it has split, seed"),
        ("digits:2", ["path=3"], "no option 'path'"),
        ("imagenet-segmentation:/x", ["split=val"], "has no option 'split'; it has none"),
        ("digits:2", ["seed=-1"], "seed is '-1'; give a whole number"),
        ("digits:2", ["seed=1", "seed=2"], "seed is given as 1 and as 2"),
        ("digits:2", ["split=val"], "choose one of train, test"),
        ("digits:2", ["split"], "write NAME=VALUE"),
        ("digits:2", ["split="], "write NAME=VALUE"),
        ("digits:2", ["=train"], "write NAME=VALUE"),
        ("voc2012:/nowhere", ["split=train"], "no ImageSets/Segmentation"),
    ],
)
def test_options_of_the_dataset_that_cannot_be_meant(data, words, message, tmp_path):
    given = [part for word in words for part in ("--dataset-option", word)]
    said = run("separation", "-m", "digits-vgg", "-d", data, *given, "-o", tmp_path / "out", status=2).stderr
    assert message in " ".join(said.split())
    assert not (tmp_path / "out").exists()


def test_a_mistake_does_not_claim_a_folder(tmp_path):
    command = ["separation", "-m", "digits-vgg", "-d", "digits:2", "-o", tmp_path, "--methods", "agf,cam=gradcam"]
    run(*command, "--option", "cam.layer=nothing", status=1)
    run(*command)
    assert {*pd.read_csv(tmp_path / "rows.csv")["method"]} == {"agf", "cam"}


def test_labels_are_no_markup(tmp_path):
    run("separation", "-m", "digits-vgg", "-d", "digits:2", "-o", tmp_path, "--methods", "[/b]=gradcam")
    assert {*pd.read_csv(tmp_path / "rows.csv")["method"]} == {"[/b]"}


def test_pictures_that_cannot_be_read_are_named_beside_mosaics(colours):
    (colours / "data" / "red" / "torn.png").write_bytes(b"\x89PNG no more")
    (colours / "names.txt").write_text("red\ngreen")
    command = ["grid", "-m", "colour_networks:right", "--class-names", colours / "names.txt", "--set", "cells=1"]
    done = run(*command, "-d", f"folder:{colours / 'data'}", "--methods", "gradcam", "-o", colours / "out", status=1)
    assert "torn" in done.stderr


def test_images_of_one_object_are_passed_over_by_separation(tmp_path, monkeypatch):
    """In any batch; and where there are no others, that is said."""
    monkeypatch.setitem(sys.modules, "colour_networks", types.ModuleType("colour_networks"))
    sys.modules["colour_networks"].__dict__.update(right=lambda: linear(["red", "green"]))
    (tmp_path / "names.txt").write_text("red\ngreen")
    (tmp_path / "data").mkdir()
    lines = ["image,label,mask"]
    for number, halves in enumerate([1, 1, 2]):
        pixels = np.zeros((32, 32, 3), np.uint8)
        pixels[:, 16:] = (255, 0, 0) if halves == 1 else (0, 255, 0)
        pixels[:, :16] = (255, 0, 0)
        Image.fromarray(pixels).save(tmp_path / "data" / f"{number}.png")
        files = [f"{number}-{half}.png" for half in range(halves)]
        lines.append(f"{number}.png,{';'.join(['red', 'green'][:halves])},{';'.join(files)}")
        for half, file in enumerate(files):
            mask = np.zeros((32, 32), np.uint8)
            mask[:, 16 * half : 16 * (half + 1)] = 255
            Image.fromarray(mask).save(tmp_path / "data" / file)
    command = ["separation", "-m", "colour_networks:right", "--class-names", tmp_path / "names.txt", "--methods"]
    command += ["gradient-x-input", "--batch-size", 2]
    (tmp_path / "data" / "all.csv").write_text("\n".join(lines))
    run(*command, "-d", f"table:{tmp_path / 'data' / 'all.csv'}", "-o", tmp_path / "all")
    rows = pd.read_csv(tmp_path / "all" / "rows.csv")
    assert rows["image"].tolist() == ["2.png"] * 2
    assert "nan" not in (tmp_path / "all" / "report.html").read_text(encoding="utf-8")  # one image has no interval
    (tmp_path / "data" / "single.csv").write_text("\n".join(lines[:3]))
    done = run(*command, "-d", f"table:{tmp_path / 'data' / 'single.csv'}", "-o", tmp_path / "single", status=1)
    assert "no image of" in " ".join(done.stderr.split())


def test_what_failed_once_is_forgotten_with_its_picture(colours):
    torn = colours / "data" / "red" / "torn.png"
    torn.write_bytes(b"\x89PNG no more")
    done, _ = accuracy(colours, "out", status=1)
    assert "torn" in done.stderr
    torn.unlink()
    done, _ = accuracy(colours, "out")
    assert "torn" not in done.stderr


def test_a_run_that_is_stopped_says_how_it_goes_on(tmp_path, monkeypatch):
    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("agf_fx.runs.evaluation.evaluate", stopped)
    command = ["evaluate", *SEPARATION, "--out", str(tmp_path)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 130
    assert "the same command goes on from there" in " ".join(done.stderr.split())


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    done = run(*SEPARATION, "--out", tmp_path / "file", status=2)
    assert "is a file; name a folder" in " ".join(done.stderr.split())


def test_damaged_files_and_another_run_are_said(tmp_path):
    command = ["separation", "-m", "digits-vgg", "-d", "digits:2", "-o", tmp_path, "--methods", "gradcam"]
    run(*command)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{broken\n" + rows.read_text())
    assert "line 1 is damaged" in " ".join(run(*command, status=2).stderr.split())
    rows.write_text("")
    (tmp_path / "experiment.json").write_text('{"experiment"')
    assert "is damaged" in " ".join(run(*command, status=2).stderr.split())
    with FileLock(tmp_path / ".lock"):
        assert "another evaluation is at work" in " ".join(run(*command, status=2).stderr.split())


def test_other_experiments_take_mosaics_too(tmp_path):
    command = ["-m", "efficientnet-lite0", "--methods", "gradcam", "--limit", "1", "--batch-size", "1"]
    run("grid", *command, "-o", tmp_path / "grid")
    run("separation", *command, "--set", "cells=2", "-o", tmp_path / "separation")
    bias = [*command, "--set", "cells=2", "--set", "contrasts=[1]", "--set", "impute=mean"]
    run("saliency-bias", *bias, "-o", tmp_path / "bias")
    shares = [
        pd.read_csv(tmp_path / name / "rows.csv").groupby("target")["share"].mean()
        for name in ("grid", "separation", "bias")
    ]
    assert len(shares[0]) == 4
    for other in shares[1:]:
        pd.testing.assert_series_equal(shares[0], other, rtol=1e-6)
    assert (tmp_path / "bias" / "figure.png").stat().st_size > 5000
    run("separation", "-m", "efficientnet-lite0", "-o", tmp_path / "none", status=1)  # one object each, no mosaics


def test_a_method_may_be_measured_twice_under_two_labels(tmp_path):
    command = ["separation", "-m", "digits-vgg", "-d", "digits:2", "-o", str(tmp_path)]
    run(*command, "--methods", "agf,paper=agf", "--option", "paper.dialect=paper")
    rows = pd.read_csv(tmp_path / "rows.csv").set_index("method")
    assert not np.allclose(rows.loc["agf", "share"], rows.loc["paper", "share"], atol=1e-4)
    run(*command, "--methods", "gradcam")  # joins the others
    assert {*pd.read_csv(tmp_path / "summary.csv")["method"]} == {"agf", "paper", "gradcam"}
    done = run(*command, "--methods", "paper=agf", status=2)
    assert "another folder" in " ".join(done.stderr.split())
    for methods in ("=agf", "a.b=agf", "x=agf,x=gradcam", "x="):
        run(*command, "--methods", methods, status=2)
