"""What the documents show runs: every block of Python in order, and every command exists with its options."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from agf_fx.cli import app

ROOT = Path(__file__).parent.parent
RUN = (
    "README.md",
    "docs/guide.md",
    "docs/methods.md",
    "docs/extending.md",
    "docs/evaluate.md",
    "docs/inspect.md",
    "docs/diagnose.md",
    "docs/self-supervised.md",
)
READ = (*RUN, "docs/exports.md", "docs/gpu.md", "examples/cpp/README.md")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(name: str, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall((ROOT / name).read_text(encoding="utf-8")) if kind == language]


@pytest.mark.parametrize("name", RUN)
def test_blocks_of_python_run_in_order(name, tmp_path):
    program = "\n".join(blocks(name, "python"))
    (tmp_path / "document.py").write_text(program, encoding="utf-8")
    command = [sys.executable, "-W", "error::DeprecationWarning:__main__", "document.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def commands() -> list[tuple[str, str]]:
    lines = [(name, line) for name in READ for block in blocks(name, "console") for line in block.splitlines()]
    return [(name, line.removeprefix("$ ").split("  #")[0].strip()) for name, line in lines if line.startswith("$ ")]


@pytest.mark.parametrize(("name", "line"), commands())
def test_commands_exist(name, line):
    words = shlex.split(line)
    if words[0].startswith("tools/"):
        assert (ROOT / words[0]).exists()
    if words[0] == "agf-fx":
        command = get_command(app)
        position = 1
        while hasattr(command, "commands"):
            command = command.commands[words[position]]
            position += 1
        options = {option for parameter in command.params for option in parameter.opts}
        used = {word for word in words[position:] if word.startswith("-")}
        assert used <= options, f"{name}: {used - options}"


def test_the_readme_is_short_and_its_pictures_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("http") or (ROOT / target).exists(), target
