"""Exported explainers run where agf-fx is not installed."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import warnings

import pytest
import torch
from networks import basic_resnet, small_vgg

import agf_fx
from agf_fx.errors import ExportError, InputError

RUN_ELSEWHERE = """
    import sys, warnings
    class Blocker:  # agf-fx is not importable here
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("agf_fx", "passes"):
                raise ImportError(name)
    sys.meta_path.insert(0, Blocker())
    try:
        import agf_fx
        raise SystemExit("agf_fx was importable")
    except ImportError:
        pass
    import torch
    warnings.simplefilter("ignore")
    extra = {"agf_fx.json": ""}
    explain = torch.jit.load(sys.argv[1], _extra_files=extra)
    cases = torch.load(sys.argv[2])
    torch.save([explain(images, target) for images, target in cases], sys.argv[3])
    print(extra["agf_fx.json"].decode() if isinstance(extra["agf_fx.json"], bytes) else extra["agf_fx.json"])
"""


@pytest.mark.parametrize(("build", "size"), [(small_vgg, 16), (basic_resnet, 33)])
def test_torchscript_in_a_process_without_agf_fx(build, size, tmp_path):
    model = build().float()
    cases = []
    for count, targets in ((1, 1), (3, 2), (8, 3)):
        generator = torch.Generator().manual_seed(count)
        target = (torch.arange(count)[:, None] + torch.arange(targets)) % 5
        cases.append((torch.randn(count, 3, size, size, generator=generator), target))
    cases.append((cases[1][0], torch.tensor([[-1, 0], [4, -2], [-5, -1]])))  # ranks among classes
    explainer = agf_fx.compile(model, cases[0][0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explainer.export(tmp_path / "explainer.pt", format="torchscript")
    torch.save(cases, tmp_path / "cases.pt")

    arguments = [str(tmp_path / name) for name in ("explainer.pt", "cases.pt", "results.pt")]
    command = [sys.executable, "-c", textwrap.dedent(RUN_ELSEWHERE), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr

    for (images, target), (maps, logits) in zip(cases, torch.load(tmp_path / "results.pt"), strict=True):
        ranked = logits.argsort(1, descending=True)
        result = explainer.explain(
            images, torch.where(target < 0, ranked.gather(1, (-target - 1).clamp(min=0)), target)
        )
        assert maps.shape == (*target.shape, size, size)
        assert (logits - result.logits).abs().max() <= 1e-5 * result.logits.abs().max()
        assert (maps - result.maps).abs().max() <= 1e-5 * result.maps.abs().max()
    metadata = json.loads(done.stdout)
    assert metadata["method"] == "agf"
    assert metadata["image_shape"] == [3, size, size]
    assert metadata["classes"] == 5


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
