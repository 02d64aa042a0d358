"""``agf-fx export`` and ``agf-fx cache``."""

from __future__ import annotations

import pytest
import torch
from test_cli import errors, run

import agf_fx


@pytest.fixture(autouse=True)
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("AGF_FX_CACHE", "disk")
    monkeypatch.setenv("AGF_FX_CACHE_DIR", str(tmp_path / "cache"))
    agf_fx.cache.forget()  # what earlier tests compiled was kept in memory only
    yield
    agf_fx.cache.forget()


def test_export_writes_a_file_with_all_that_it_takes_to_use_it(tmp_path):
    path = tmp_path / "explainer.pt"
    result = run("export", "digits-resnet", "--out", path, "--format", "torchscript")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{path}: torchscript, ")
    assert result.stdout.endswith("images 3x64x64\n")
    loaded = agf_fx.load(path)
    assert loaded.description.class_names == tuple("0123456789")
    assert loaded.description.preprocessing["crop"] == [64, 64]
    model = agf_fx.load_model("digits-resnet").model
    x = torch.randn(2, 3, 64, 64)
    expected = agf_fx.compile(model)(x, 3)
    assert (loaded(x, 3) - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_export_takes_another_image_size(tmp_path):
    result = run(
        "export", "digits-vgg", "-o", tmp_path / "file", "--input-size", 64, 72, "--method", "gradient_x_input"
    )
    assert result.exit_code == 0
    assert agf_fx.load(tmp_path / "file").description.preprocessing["crop"] == [64, 72]
    assert agf_fx.load(tmp_path / "file").description.image_shape == (3, 64, 72)


def test_export_needs_weights_or_a_word(tmp_path):
    result = run("export", "squeezenet1_1", "-o", tmp_path / "file")
    assert result.exit_code == 2
    assert "random weights" in errors(result)[0]


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (["-o", "/missing/folder/file"], 1, "cannot be written"),
        (["-o", "file", "--format", "pickle"], 2, "torchscript"),
    ],
)
def test_export_says_what_is_wrong(arguments, status, reason):
    result = run("export", "digits-vgg", *arguments)
    assert result.exit_code == status
    assert reason in errors(result)[0]


def test_the_cache_is_shown_pruned_and_cleared(tmp_path):
    assert run("inspect", "digits-vgg").exit_code == 0
    shown = run("cache", "info")
    assert str(tmp_path / "cache") in shown.stdout
    assert "graphs    2 (" in shown.stdout
    pruned = run("cache", "prune", "--max-size", "1G", "--older-than", 30)
    assert pruned.stdout.startswith("removed 0 bytes")
    assert run("cache", "prune", "--max-size", "20k").exit_code == 0
    assert "graphs    1 (" in run("cache", "info").stdout
    assert run("cache", "clear").stdout.startswith("removed 1 graphs")
    assert "graphs    0 (" in run("cache", "info").stdout


def test_prune_asks_for_a_limit():
    assert run("cache", "prune").exit_code == 2
    assert run("cache", "prune", "--max-size", "much").exit_code == 2
