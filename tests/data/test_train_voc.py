"""tools/train_voc: what it trains is what ``agf-fx evaluate`` then segments VOC with."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from dataset_files import write_voc
from typer.testing import CliRunner

import agf_fx
from agf_fx.cli import app
from agf_fx.data.datasets import open_dataset

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import train_voc


def test_train_and_segment(tmp_path, capsys):
    person, dog = np.zeros((40, 60)), np.zeros((50, 40))
    person[5:30, 10:40], dog[10:40, 5:25] = 15, 12
    write_voc(tmp_path, {"a": person, "b": dog}, split="train")
    lists = tmp_path / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    (lists / "val.txt").write_text("a\nb\n")
    out = tmp_path / "voc.safetensors"
    words = [str(tmp_path), "--network", "squeezenet1_1", "--weights", "none", "--out", str(out)]
    assert not train_voc.main(
        [*words, "--epochs", "2", "--workers", "0", "--batch-size", "2", "--learning-rate", "0.05"]
    )
    said = capsys.readouterr().err
    assert said.count("mean average precision on val") == 2
    first, second = (float(line.split("loss ")[1].split(",")[0]) for line in said.splitlines())
    assert second < first
    loaded = agf_fx.load_model("squeezenet1_1", checkpoint=out, num_classes=20, multi_label=True)
    assert loaded.logits(torch.zeros(1, 3, 224, 224)).shape == (1, 20)
    command = ["evaluate", "segmentation", "-m", "squeezenet1_1", "--checkpoint", str(out), "--num-classes", "20"]
    command += ["--multi-label", "-d", f"voc2012:{tmp_path}", "--methods", "gradient-x-input", "--set", "minimum=0"]
    done = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "found")])
    assert done.exit_code == 0, done.output
    rows = pd.read_csv(tmp_path / "found" / "rows.csv")
    assert rows[["image", "target"]].to_numpy().tolist() == [["a", 14], ["b", 11]]


def test_what_cannot_be_read_is_named_once_and_left_out(tmp_path, capsys):
    dog = np.zeros((50, 40))
    dog[10:40, 5:25] = 12
    write_voc(tmp_path, dict.fromkeys("abcd", dog), split="train")
    root = tmp_path / "VOCdevkit" / "VOC2012"
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("d\nb\n")
    (root / "JPEGImages" / "a.jpg").write_bytes(b"no picture")
    (root / "SegmentationClass" / "b.png").unlink()
    out = tmp_path / "voc.safetensors"
    words = [str(tmp_path), "--network", "squeezenet1_1", "--weights", "none", "--out", str(out), "--workers", "0"]
    assert train_voc.main([*words, "--epochs", "2", "--batch-size", "1"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert sorted(line.split(":")[1].rsplit("/")[-1] for line in said if "left out" in line) == [
        *("a.jpg", "b.png", "b.png")  # of train, and of val
    ]
    assert len(said) == 5
    assert out.exists()


def test_what_cannot_be_trained_on_is_said(tmp_path, capsys):
    write_voc(tmp_path, {"a": np.zeros((8, 8))}, split="train")
    root = tmp_path / "VOCdevkit" / "VOC2012"
    words = [str(tmp_path), "--network", "squeezenet1_1", "--weights", "none", "--out", str(tmp_path / "x")]
    assert train_voc.main([*words, "--workers", "0"]) == 1
    assert "has no list val.txt; it holds" in capsys.readouterr().err
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("a\n")
    assert train_voc.main([*words, "--workers", "0", "--epochs", "1"]) == 0
    assert "mean average precision on val nan" in capsys.readouterr().err  # as no class occurs
    (tmp_path / "x").unlink()
    (root / "SegmentationClass" / "a.png").write_bytes(b"no mask")
    assert train_voc.main([*words, "--workers", "0"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert "a.png: is no mask that can be read" in said[0]
    assert said[1:] == ["error: voc2012-train: no picture can be read; look at what is said of each"]
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("\n")
    assert train_voc.main([*words, "--workers", "0"]) == 1
    assert "no picture can be read" in capsys.readouterr().err
    assert train_voc.main([*words, "--network", "nothing"]) == 1
    assert "error: " in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_labels_and_mirrors_of_a_pass(tmp_path):
    values = {name: np.zeros((60, 60)) for name in "abcdefgh"}
    for number, mask in enumerate(values.values()):
        mask[:20], mask[30:40] = 1 + number, 20
    write_voc(tmp_path, {**values, "none": np.zeros((60, 60))}, split="train")
    data = open_dataset("voc2012", tmp_path, split="train")
    preprocessing = agf_fx.load_model("digits-vgg").preprocessing
    torch.manual_seed(0)
    still, shuffled = (
        train_voc.Labelled(data, preprocessing, shuffled=shuffled, size=4, workers=0) for shuffled in (False, True)
    )
    images, labels = map(torch.cat, zip(*still, strict=True))
    assert [row.nonzero().flatten().tolist() for row in labels] == [*([number, 19] for number in range(8)), []]
    assert labels.dtype == torch.float32
    found = list(shuffled)
    assert len(found) == len(shuffled) == 3
    order, mirrored = [], set()
    for image, label in zip(*map(torch.cat, zip(*found, strict=True)), strict=True):
        same = [[torch.equal(image, own), torch.equal(image, own.flip(-1))] for own in images]
        ((index, turned),) = torch.tensor(same).nonzero().tolist()
        assert torch.equal(label, labels[index])
        order.append(index)
        mirrored.add(turned)
    assert sorted(order) == list(range(9)) != order
    assert mirrored == {0, 1}


def test_all_but_the_last_layer_comes_from_the_weights(monkeypatch):
    torch.manual_seed(0)
    trained = agf_fx.load_model("squeezenet1_1", untrained=True)
    real = agf_fx.load_model
    monkeypatch.setattr(agf_fx, "load_model", lambda *a, **k: trained if k.get("weights") else real(*a, **k))
    model = train_voc.start("squeezenet1_1", "DEFAULT").model
    assert model.classifier[1].out_channels == 20
    own, other = model.state_dict(), trained.model.state_dict()
    assert [name for name in own if own[name].shape != other[name].shape] == [
        "classifier.1.weight",
        "classifier.1.bias",
    ]
    assert all(torch.equal(own[name], other[name]) for name in own if own[name].shape == other[name].shape)
