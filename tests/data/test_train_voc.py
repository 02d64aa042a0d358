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
    train_voc.main([*words, "--epochs", "2", "--workers", "0", "--batch-size", "2", "--learning-rate", "0.05"])
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
