"""tools/evaluation: its commands have a meaning, and its page says what the files say."""

from __future__ import annotations

import shlex
import sys
from inspect import signature
from pathlib import Path

import pandas as pd
import pytest
import typer.main

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

from evaluation_report.kept import joined
from evaluation_report.page import MARK, page, section
from evaluation_report.studies import GROUPS, STUDIES

from agf_fx.cli import app
from agf_fx.cli.options import of_methods
from agf_fx.data.datasets import parse_dataset
from agf_fx.evaluate.experiments import EXPERIMENTS
from agf_fx.methods import REGISTRY


def test_every_method_is_in_one_group():
    names = [label for name in {*GROUPS} - {"some"} for label in GROUPS[name] if label in REGISTRY]
    assert sorted(names) == sorted(REGISTRY)


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_commands_can_be_meant(study):
    experiment = EXPERIMENTS[study.experiment]
    assert study.order in experiment.measures
    assert {*study.settings} <= {*signature(experiment.measure).parameters, "cells", "confidence"}
    parse_dataset(study.dataset)
    for command in study.commands([group for group in study.groups if group != "patterns"]):  # which need a file
        program, name, *words = shlex.split(command)
        assert (program, name) == ("agf-fx", "evaluate")
        group = typer.main.get_command(app)
        parsed = group.commands[name].make_context(name, words).params
        methods = of_methods(parsed["methods"], parsed["option"] or [])
        assert parsed["experiment"] == study.experiment
        assert len(methods) > 1
    assert study.commands([next(iter(study.groups))]) == study.commands()[:1]


def rows(method, share, low, high, images=4, **more):
    values = {"share": share, "wins": 1.0, "peak": 0.5}
    return [
        {"method": method, **more, "measure": name, "mean": mean, "low": low, "high": high, "images": images}
        for name, mean in values.items()
    ]


def test_a_table_has_the_best_first():
    study = STUDIES["grid-lite0"]
    text = section(study, pd.DataFrame([*rows("agf", 0.5, 0.4, 0.6), *rows("gradcam", 0.9, 0.85, 0.95, images=2)]))
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert lines[0].startswith("| method | share | wins | peak | images |")
    assert lines[2].startswith("| gradcam | 0.900 (0.850 to 0.950)")
    assert lines[2].endswith("| 2 |")
    assert lines[3].startswith("| agf | 0.500 (0.400 to 0.600)")
    assert study.commands()[0] in text
    assert study.commands()[1] not in text  # no method of it is there


def test_a_table_has_a_column_for_each_kind_of_map():
    study = STUDIES["negative-perturbation-lite0"]
    values = [
        {"method": "agf", "which": which, "measure": name, "mean": mean, "low": 0.0, "high": 1.0, "images": 3}
        for which, mean in (("predicted", 0.25), ("target", 0.75))
        for name in EXPERIMENTS[study.experiment].measures
    ]
    text = section(study, pd.DataFrame(values))
    assert "| method | predicted area | predicted log odds area | target area | target log odds area | images |" in text
    row = next(line for line in text.splitlines() if line.startswith("| agf"))
    assert [cell.split()[0] for cell in row.split("|")[2:6]] == ["0.250", "0.250", "0.750", "0.750"]


def test_the_page_keeps_its_words(tmp_path):
    pd.DataFrame(rows("agf", 0.5, 0.4, 0.6)).to_csv(tmp_path / "grid-lite0.csv", index=False)
    first = page("# Title\n\nWords.\n", tmp_path)
    assert first.startswith(f"# Title\n\nWords.\n\n{MARK}\n\n## ")
    assert page(first, tmp_path) == first


def test_what_is_kept_of_other_methods_stays(tmp_path):
    found, kept = tmp_path / "found.csv", tmp_path / "kept.csv"
    pd.DataFrame([*rows("rise", 0.1, 0.0, 0.2), *rows("agf", 0.5, 0.4, 0.6)]).to_csv(found, index=False)
    study = STUDIES["grid-lite0"]
    assert [*joined(found, kept, study)["method"].unique()] == ["agf", "rise"]
    pd.DataFrame([*rows("gradcam", 0.9, 0.8, 1.0), *rows("agf", 0.2, 0.1, 0.3)]).to_csv(kept, index=False)
    means = joined(found, kept, study)
    assert [*means["method"].unique()] == ["agf", "gradcam", "rise"]
    shares = means[means["measure"] == "share"].set_index("method")["mean"]
    assert shares.to_dict() == {"agf": 0.5, "gradcam": 0.9, "rise": 0.1}
