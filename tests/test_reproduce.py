"""docs/reproduce.md: what its commands say has a meaning, though the data are not here."""

from __future__ import annotations

import re
import shlex
from inspect import signature
from pathlib import Path
from string import Template

import pytest
import typer.main

from agf_fx.cli import app
from agf_fx.cli.evaluate import _setting
from agf_fx.cli.options import of_methods
from agf_fx.data.datasets import parse_dataset
from agf_fx.evaluate.experiments import EXPERIMENTS

TEXT = (Path(__file__).parents[1] / "docs" / "reproduce.md").read_text(encoding="utf-8")


def commands():
    words: dict[str, str] = {}
    for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            assigned = re.fullmatch(r'(\w+)="?([^"]*)"?', line)
            if assigned:
                words[assigned[1]] = assigned[2]
            elif line.startswith("agf-fx "):
                yield Template(line).substitute(words)


COMMANDS = [*commands()]


def test_there_are_commands_for_every_kind():
    said = " ".join(COMMANDS)
    for word in ("compare", "negative-perturbation", "segmentation", "pointing", "class-sensitivity", "sanity"):
        assert word in said


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_can_be_meant(command):
    name, *words = shlex.split(command)[1:]
    group = typer.main.get_command(app)
    parsed = group.commands[name].make_context(name, words).params  # unknown options raise
    methods = of_methods(parsed["methods"], parsed["option"] or [])
    assert len(methods) > 1
    if name == "evaluate":
        parse_dataset(parsed["dataset"])
        known = [*signature(EXPERIMENTS[parsed["experiment"]].measure).parameters][2:]
        assert {key for key, _ in map(_setting, parsed["setting"] or [])} <= {*known}


def test_options_in_the_text_exist():
    found = re.findall(r"`--methods ([^`]+?)`", TEXT.replace("\n  ", " "))
    assert found
    for words in found:
        methods, *rest = shlex.split(words)
        options = [word for word in rest if word != "--option"]
        if methods == "gradcam,meta":
            options = ["meta.method=gradcam"]
        assert len(of_methods(methods, options)) > 1
