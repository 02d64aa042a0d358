"""Evaluation of networks that were trained without labels, by the class that Alg. 2 finds."""

import json

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import agf_fx
from agf_fx.cli import app
from agf_fx.data.datasets import batches, open_dataset
from agf_fx.evaluate.imputation import constant
from agf_fx.evaluate.perturbation import perturbation
from agf_fx.evaluate.segmentation import segmentation

SCENES, OTHERS = "digits:6", "digits:40"


def run(*words, status=0):
    command = ["evaluate", *map(str, words)]
    result = CliRunner().invoke(app, [*command, "-m", "digits-rotation", "-d", SCENES, "--methods", "agf"])
    assert result.exit_code == status, result.output + result.stderr
    return result


@pytest.fixture(scope="module")
def loaded():
    return agf_fx.load_model("digits-rotation")


@pytest.fixture(scope="module")
def memory(loaded):
    read = batches(open_dataset("digits", "40"), loaded.preprocessing, size=16)
    return agf_fx.ssl.MemoryBank.build(loaded.model, [batch.images for batch in read])


@pytest.fixture(scope="module")
def scenes(loaded):
    (batch,) = batches(open_dataset("digits", "6"), loaded.preprocessing, size=16)
    return batch


@pytest.mark.parametrize("combine", ["difference", "sum", "none"])
def test_areas_are_those_of_the_class_of_alg_2(loaded, memory, scenes, combine, tmp_path):
    words = [] if combine == "none" else ["--neighbours", OTHERS]
    run("negative-perturbation", "--combine", combine, *words, "-o", tmp_path)
    rows = pd.read_csv(tmp_path / "rows.csv")
    found = agf_fx.ssl.explain(loaded.model, scenes.images, None if combine == "none" else memory, combine=combine)
    shown = loaded.preprocessing
    black = constant(tuple(-mean / std for mean, std in zip(shown.mean, shown.std, strict=True)))
    predicted = found.logits.argmax(1, keepdim=True)
    assert combine != "difference" or not torch.equal(found.target, predicted)
    curves = perturbation(loaded.model, scenes.images, found.maps, found.target, labels=predicted, impute=black)
    expected = curves.area(curves.correct)[:, 0]
    own = rows[rows["which"] == "predicted"]
    assert own["area"].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert own["target"].tolist() == predicted[:, 0].tolist()
    assert (tmp_path / "memory.safetensors").exists() == (combine != "none")


def test_objects_count_as_one(loaded, memory, scenes, tmp_path):
    run("segmentation", "--combine", "sum", "--neighbours", OTHERS, "-o", tmp_path)
    rows = pd.read_csv(tmp_path / "rows.csv")
    maps = agf_fx.ssl.explain(loaded.model, scenes.images, memory, combine="sum").maps[:, 0]
    expected = segmentation(maps, scenes.masks.any(1)).pixel_accuracy
    assert rows["pixel_accuracy"].tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_a_folder_holds_one_way_of_finding_classes(tmp_path, monkeypatch):
    run("pointing", "--combine", "sum", "--neighbours", OTHERS, "-o", tmp_path)
    assert json.loads((tmp_path / "experiment.json").read_text())["own_task"] == f"sum, {OTHERS}"
    monkeypatch.setattr(agf_fx.ssl.MemoryBank, "build", lambda *args, **kwargs: pytest.fail("the bank is there"))
    run("pointing", "--combine", "sum", "--neighbours", OTHERS, "-o", tmp_path)
    for words in (["--combine", "difference", "--neighbours", OTHERS], ["--combine", "none"], []):
        assert "something else" in run("pointing", *words, "-o", tmp_path, status=2).stderr


def test_a_folder_holds_one_state_of_the_neighbours(tmp_path):
    scenes = open_dataset("digits", "5")
    (tmp_path / "near" / "all").mkdir(parents=True)
    for number in range(4):
        scenes[number].image.save(tmp_path / "near" / "all" / f"{number}.png")
    words = "pointing", "--combine", "sum", "--neighbours", f"folder:{tmp_path / 'near'}", "-o", tmp_path / "out"
    run(*words)
    scenes[4].image.save(tmp_path / "near" / "all" / "4.png")
    assert "evaluation of something else (neighbours: " in " ".join(run(*words, status=2).stderr.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pointing", "--combine", "both", "--neighbours", OTHERS], "both"),
        (["pointing", "--combine", "sum"], "--combine sum needs neighbours"),
        (["pointing", "--combine", "none", "--neighbours", OTHERS], "looks at no neighbours"),
        (["pointing", "--neighbours", OTHERS], "--neighbours is for --combine"),
        (["grid", "--combine", "none"], "finds one class for each picture, and grid asks for several"),
        (["class-sensitivity", "--combine", "none"], "and class-sensitivity asks for several"),
    ],
)
def test_what_has_no_meaning_is_refused(words, message, tmp_path):
    said = " ".join(run(*words, "-o", tmp_path / "out", status=2).stderr.split())
    assert message in said
    assert not (tmp_path / "out" / "rows.jsonl").exists()
