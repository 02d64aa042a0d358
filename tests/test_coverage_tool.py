"""tools/coverage: its checks find what is wrong, a model that cannot be run is a row, and a run can be resumed."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from networks import small_vgg
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

from coverage_report import networks
from coverage_report.apart import apart
from coverage_report.case import EXACT, compiled
from coverage_report.checks import check, failures
from coverage_report.conservation import conservation
from coverage_report.cost import cost
from coverage_report.methods import by
from coverage_report.methods import failures as failures_of_method
from coverage_report.methods_page import methods_page
from coverage_report.page import page
from coverage_report.rows import plain

import agf_fx
from agf_fx.methods.agf import attribution_guided_factorization
from agf_fx.methods.table import RuleTable, op
from agf_fx.options import AGFOptions
from agf_fx.pipeline import lower
from agf_fx.rules import numerics
from agf_fx.rules.propagation import selective

SMALL = "squeezenet1_1"

# By its path: another package has the name "coverage".
spec = importlib.util.spec_from_file_location("coverage_tool", Path(__file__).parent.parent / "tools" / "coverage.py")
coverage = importlib.util.module_from_spec(spec)
spec.loader.exec_module(coverage)


@pytest.fixture(scope="module")
def case():
    return compiled(small_vgg(classes=6), networks.random_images(2, 8, torch.float64, seed=2))


def test_a_sound_model_passes(case):
    assert failures(check(case)) == []


def test_wrong_logits_are_found(case, monkeypatch):
    wrong = replace(case.streams, logits=case.streams.logits * (1 + 1e-9))
    monkeypatch.setitem(case.__dict__, "streams", wrong)
    assert "logits differ from the model's by 1.0e-09" in failures(check(case))


@pytest.mark.parametrize("place", range(4))
def test_a_wrong_gradient_is_found_anywhere(case, place, monkeypatch):
    name = list(check(case)["gradient"])[place]
    gradient = dict(case.streams.gradient) | {name: case.streams.gradient[name] * (1 + 1e-7)}
    messages = dict(case.streams.messages) | {"gradient": gradient}
    monkeypatch.setitem(case.__dict__, "streams", replace(case.streams, messages=messages))
    assert failures(check(case)) == [f"gradient at {name} differs from autograd's by 1.0e-07"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda maps: maps * torch.nan, "maps are not finite"),
        (lambda maps: maps * 0 + 1, "4 of 4 maps are constant"),
        (lambda maps: maps[:, :1].expand_as(maps), "maps of two classes differ by 0.0e+00 only"),
        (lambda maps: maps * (1 + 1e-15), "the emitted graph gives other bits than the interpreter"),
    ],
)
def test_bad_maps_are_found(case, change, expected, monkeypatch):
    monkeypatch.setitem(case.__dict__, "streams", replace(case.streams, maps=change(case.streams.maps)))
    assert expected in failures(check(case))


def test_another_optimised_graph_is_found(case):
    method = attribution_guided_factorization(AGFOptions().only_c())
    (found,) = failures(check(replace(case, optimised=lower(case.canonical, method))))
    assert found.startswith("maps of the optimised graph differ from the emitted graph's by")


def test_figures_that_are_no_numbers_fail(case):
    figures = check(case) | dict.fromkeys(("forward", "optimised", "between_classes"), float("nan"))
    assert len(failures(figures)) == 3


def test_conservation_says_what_arrives_and_where_most_is_lost(case):
    sums = conservation(case)
    assert sums["arriving"] == pytest.approx(1, abs=1e-6)
    assert 0 <= sums["loss"] < 1e-6
    assert sums["lost_at"] in case.canonical.to_networkx()


def test_conservation_finds_what_is_lost(case, monkeypatch):
    def halving(*arguments):
        return tuple(phi / 2 for phi in selective.function(*arguments))

    pool, relevance = torch.ops.aten.max_pool2d_with_indices.default, EXACT.stream("relevance")
    half = RuleTable.of([(op(pool), replace(selective, function=halving, division=numerics.EXACT))])
    lossy = replace(EXACT, streams=(EXACT.streams[0], replace(relevance, rules=half + relevance.rules)))
    monkeypatch.setattr("coverage_report.conservation.EXACT", lossy)
    sums = conservation(case)
    assert sums["arriving"] == pytest.approx(0.25, abs=1e-6)  # there are two
    assert sums["lost_by"] == "max_pool2d_with_indices"
    assert sums["lost_at"] in [node.name for node in case.canonical.calls if node.target is pool]
    assert sums["loss"] > 1e-5


@pytest.mark.parametrize(
    ("job", "argument", "expected"),
    [
        (dict, [("value", 1)], {"value": 1}),
        (int, "one", {"error": "ValueError: invalid literal for int() with base 10: 'one'"}),
        (os._exit, 7, {"error": "the process ended with exit code 7"}),
        (time.sleep, 600, {"error": "took longer than 2 s"}),
    ],
)
def test_work_apart(job, argument, expected):
    row = apart(job, argument, limit_s=2 if job is time.sleep else 100)
    assert {key: row[key] for key in expected} == expected
    assert 0 < row["took_s"] < 100


def test_json_has_words_for_numbers_that_it_cannot_write():
    assert plain({"a": {"b": float("nan")}, "c": 1.5, "d": float("-inf")}) == {"a": {"b": "nan"}, "c": 1.5, "d": "-inf"}


def test_all_classifiers_are_covered_small_ones_first():
    assert set(networks.names()) == set(torchvision.models.list_models(module=torchvision.models))
    assert networks.names()[0] == "squeezenet1_1"
    assert networks.names()[-1] == "regnet_y_128gf"


@pytest.mark.parametrize(
    ("name", "size"), [("resnet18", 64), ("vit_b_16", 64), ("vit_h_14", 56), ("maxvit_t", 224), ("inception_v3", 96)]
)
def test_image_sizes(name, size):
    assert networks.image_size(name, 64) == size


def test_nothing_is_left_at_the_values_of_an_initialisation():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, 5))
    nn.init.zeros_(model[-1].weight)
    images = networks.random_images(2, 4, torch.float32, seed=0)
    assert networks.lively(model, images) is model
    assert not any((parameter == parameter.flatten()[0]).all() for parameter in model.parameters())
    features = model[0](images)
    torch.testing.assert_close(model[1].running_mean, features.mean((0, 2, 3)))
    torch.testing.assert_close(model[1].running_var, features.var((0, 2, 3)))
    assert not any(module.training for module in model.modules())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on one model: its exit status, the results and the report."""
    folder = tmp_path_factory.mktemp("coverage")
    files = ["--json", str(folder / "results.json"), "--markdown", str(folder / "report.md")]
    status = coverage.main(["--models", SMALL, "--size", "48", "--no-cost", *files])
    return status, json.loads((folder / "results.json").read_text()), (folder / "report.md").read_text()


def test_a_run_writes_results_and_report(run):
    status, record, report = run
    assert status == 0
    assert list(record["models"]) == [SMALL]
    row = record["models"][SMALL]
    assert row["size"] == 48
    assert row["failures"] == []
    assert row["ops"]["convolution"] == {"conv2d": 26}
    assert row["roles"]["input_layer"] == row["roles"]["head"] == 1
    assert row["roles"]["pointwise"] == 17
    assert row["compile_s"] > 0
    assert report == page(record) + "\n"
    assert "1 of 1 image classifiers of torchvision pass (79 more were not run)." in report


def resume(monkeypatch, folder, models, *arguments):
    """Resume from given rows; returns the exit status, the calls of jobs, and the rows."""
    called = []

    def recorded(job, name, *_, limit_s):
        called.append((job.__name__, name))
        return {"multiple": 3.0} if job is cost else {"error": "not today"}

    monkeypatch.setattr(coverage, "apart", recorded)
    file = folder / "results.json"
    file.write_text(json.dumps({"size": 48, "models": models}))
    status = coverage.main(
        ["--resume", "--size", "48", "--json", str(file), "--markdown", str(folder / "report.md"), *arguments]
    )
    return status, called, json.loads(file.read_text())["models"]


def test_what_passed_is_not_run_again(run, monkeypatch, tmp_path):
    models = run[1]["models"]
    status, called, rows = resume(monkeypatch, tmp_path, models, "--models", SMALL, "--no-cost")
    assert (status, called, rows) == (0, [], models)


def test_only_the_cost_is_added(run, monkeypatch, tmp_path):
    models = run[1]["models"]
    status, called, rows = resume(monkeypatch, tmp_path, models, "--models", SMALL)
    assert (status, called) == (0, [("cost", SMALL)])
    assert rows == {SMALL: models[SMALL] | {"cost": {"multiple": 3.0}}}
    assert "| 3.00x | passes |" in (tmp_path / "report.md").read_text()


def test_failed_and_missing_models_are_run_and_others_kept(run, monkeypatch, tmp_path):
    models = run[1]["models"] | {"alexnet": run[1]["models"][SMALL] | {"failures": ["maps are not finite"]}}
    status, called, rows = resume(monkeypatch, tmp_path, models, "--models", "resnet18", "alexnet", "--no-cost")
    assert status == 1
    assert called == [("checked", "resnet18"), ("checked", "alexnet")]
    assert rows[SMALL] == models[SMALL]
    assert rows["alexnet"]["error"] == rows["resnet18"]["error"] == "not today"


def test_a_failed_cost_is_measured_again(run, monkeypatch, tmp_path):
    models = {SMALL: run[1]["models"][SMALL] | {"cost": {"error": "took longer than 9 s"}}}
    status, called, _ = resume(monkeypatch, tmp_path, models, "--models", SMALL)
    assert (status, called) == (0, [("cost", SMALL)])


def test_checks_of_another_size_are_not_mixed_in(run, monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match="holds checks of size 48"):
        resume(monkeypatch, tmp_path, run[1]["models"], "--size", "64")


def test_the_report_shows_failures(run):
    row = run[1]["models"][SMALL]
    models = {
        SMALL: row,
        "resnet18": {"architecture": "resnet", "parameters": 1, "error": "ValueError: no", "raised_at": "emit.py:7"},
        "alexnet": row | {"failures": ["maps are not finite"]},
        "vgg11": row | {"cost": {"error": "took longer than 9 s"}},
    }
    report = page(run[1] | {"models": models})
    assert "1 of 4 image classifiers of torchvision pass (76 more were not run)." in report
    assert "## resnet18\n\nIt could not be explained:\n\n```\nValueError: no\nraised at emit.py:7\n```" in report
    assert "## alexnet\n\n- maps are not finite" in report
    assert "## vgg11\n\nThe cost could not be measured:\n\n```\ntook longer than 9 s\n```" in report
    lines = report.splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.endswith("| fails |")] == ["alexnet", "vgg11"]
    for above, below in itertools.pairwise(lines):
        if above.startswith("|") and below.startswith("|"):
            assert above.count("|") == below.count("|")


def test_a_report_of_failures_alone(run):
    report = page(run[1] | {"models": {"alexnet": {"architecture": "alexnet", "parameters": 1, "error": "no"}}})
    assert "0 of 1 image classifiers" in report
    assert "## alexnet" in report


# --- every method ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def explained():
    model, images = small_vgg(classes=6), networks.random_images(2, 16, torch.float64, seed=2)
    target = model(images).detach().topk(2).indices
    explainer = agf_fx.compile(model, method="gradient")
    alone = explainer.explain(images[:1], target[:1, 1:])
    logits = model(images).detach()
    return explainer.explain(images, target), alone, alone, logits, logits


def test_a_sound_explanation_passes(explained):
    assert failures_of_method(*explained, class_specific=True) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda maps: maps * torch.nan, "maps are not finite"),
        (lambda maps: maps * 0 + 1, "4 of 4 maps are constant"),
        (lambda maps: maps.flip(1), "an image alone has another map, by "),
        (lambda maps: maps[:, 1:].expand_as(maps), "maps of two classes are the same"),
    ],
)
def test_bad_maps_of_a_method_are_found(explained, change, expected):
    result, alone, nudged, logits, moved = explained
    (found,) = failures_of_method(
        replace(result, maps=change(result.maps)), alone, nudged, logits, moved, class_specific=True
    )
    assert found.startswith(expected)
    other = logits * (1 + 1e-9)
    (found,) = failures_of_method(result, alone, nudged, other, other, class_specific=True)
    assert found == "logits are not the model's"
    rounded = other * (1 + 2e-10)  # the model's own logits move as far
    assert failures_of_method(result, alone, nudged, other, rounded, class_specific=True) == []


def test_a_map_may_move_among_others_as_far_as_by_rounding(explained):
    result, alone, _, logits, rounded = explained
    among = replace(result, maps=result.maps * (1 + 5e-6))
    for moved, found in ((1e-7, ["an image alone has another map, by 5.0e-06"]), (1e-6, [])):
        nudged = replace(alone, maps=alone.maps * (1 + moved))
        assert failures_of_method(among, alone, nudged, logits, rounded, class_specific=True) == found


def test_a_refusal_is_no_failure_and_a_crash_is_one(monkeypatch):
    headless = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()).double().eval()
    images = networks.random_images(2, 8, torch.float64, seed=2)
    refused = by(headless, images, "agf", dict)
    assert refused["refused"].startswith("CaptureError: ")
    assert refused["failures"] == []
    monkeypatch.setattr("coverage_report.methods.failures", lambda *arguments: 1 / 0)
    assert by(small_vgg(classes=6), images, "gradient", dict)["failures"][0].startswith("ZeroDivisionError")


def test_a_run_over_methods_is_continued(tmp_path, monkeypatch, capsys):
    file, page = tmp_path / "methods.json", tmp_path / "methods.md"
    words = ["--models", SMALL, "--json", str(file), "--markdown", str(page)]
    assert coverage.main([*words, "--methods", "gradient"]) == 0
    asked = []
    real = coverage.explained

    def noting(name, size, methods):
        asked.append(methods)
        return real(name, size, methods)

    monkeypatch.setattr(coverage, "apart", lambda job, *arguments, limit_s: noting(*arguments) | {"took_s": 0.0})
    assert coverage.main([*words, "--methods", "gradient", "gradcam", "--resume"]) == 0
    assert asked == [["gradcam"]]
    record = json.loads(file.read_text())
    assert list(record["models"][SMALL]["methods"]) == ["gradient", "gradcam"]
    assert "| `gradcam` | 1 | 0 | 0 |" in page.read_text()
    monkeypatch.setattr(coverage, "SINGLE", 0)  # as of a large model, in processes that have a few methods each
    monkeypatch.setattr(coverage, "PER_PROCESS", 1)
    killed = {"error": "the process ended with exit code -9", "took_s": 0.0}
    monkeypatch.setattr(
        coverage,
        "apart",
        lambda job, *arguments, limit_s: killed if arguments[2] == ["clrp"] else noting(*arguments) | {"took_s": 1.0},
    )
    assert coverage.main([*words, "--methods", "gradcam", "clrp", "gradient-x-input", "--resume"]) == 1
    row = json.loads(file.read_text())["models"][SMALL]
    assert row["took_s"] == 1.0
    assert {name: found["failures"] for name, found in row["methods"].items()} == {
        "gradient": [],
        "gradcam": [],
        "clrp": [killed["error"]],
        "gradient-x-input": [],
    }
    record["models"][SMALL]["methods"]["gradcam"]["failures"] = ["maps are not finite"]
    text = methods_page(record)
    assert "| `gradcam` | 0 | 0 | 1 |" in text
    assert f"- maps are not finite: `gradcam`: {SMALL}" in text
