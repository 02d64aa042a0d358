"""Exporting an explainer: what all formats have in common."""

from __future__ import annotations

import warnings

import pytest
import torch
from networks import small_vgg

import agf_fx
from agf_fx.errors import ExportError, InputError


def test_the_file_keeps_the_weights_of_its_moment(tmp_path):
    model = small_vgg()
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    explainer = agf_fx.compile(model, images)
    expected = explainer(images, [[1, 3], [1, 0]])
    explainer.export(tmp_path / "explainer.pt")
    with torch.no_grad():
        model.features[0].weight.zero_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        maps, _ = torch.jit.load(tmp_path / "explainer.pt")(images, torch.tensor([[1, 3], [1, 0]]))
    torch.testing.assert_close(maps, expected)
    assert not list(tmp_path.glob(".*"))


def test_what_cannot_be_written_says_so(tmp_path):
    explainer = agf_fx.compile(small_vgg(), torch.zeros(1, 3, 16, 16, dtype=torch.float64))
    with pytest.raises(ExportError, match="torchscript"):
        explainer.export(tmp_path / "x", format="pickle")
    with pytest.raises(ExportError, match="cannot be written"):
        explainer.export(tmp_path / "missing" / "explainer.pt")
    with pytest.raises(InputError, match="explain a batch first"):
        agf_fx.compile(small_vgg()).export(tmp_path / "x.pt")


def test_what_pytorch_cannot_write_is_said(tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("isIntList() INTERNAL ASSERT FAILED\nplease report a bug to PyTorch")

    import agf_fx.exports.exported_program as writer

    monkeypatch.setattr(writer, "write", fails)
    explainer = agf_fx.compile(small_vgg().eval(), torch.zeros(1, 3, 16, 16).double())
    with pytest.raises(ExportError, match=r"as export \(isIntList\(\) INTERNAL ASSERT FAILED\). Choose another format"):
        explainer.export(tmp_path / "e.pt2")
    assert not list(tmp_path.iterdir())


def test_an_ending_that_says_no_format_is_not_taken_for_torchscript(tmp_path):
    explainer = agf_fx.compile(small_vgg(), torch.randn(1, 3, 16, 16, dtype=torch.float64))
    with pytest.raises(ExportError, match=r"the ending \.xyz says no format; say which \(torchscript, "):
        explainer.export(tmp_path / "explainer.xyz")
    explainer.export(tmp_path / "explainer.xyz", "torchscript")
    explainer.export(tmp_path / "explainer")
    assert agf_fx.load(tmp_path / "explainer").description.format == "torchscript"
