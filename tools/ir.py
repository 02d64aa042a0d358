"""Graphs as text: what every step of the pipeline makes of one, and what a change of the compiler does to it.

tools/ir passes MODEL [--size 64] [--dialect paper] [--text] [--only STEP]
tools/ir diff COMMIT MODEL [--size 64] [--dialect paper]

MODEL is a torchvision name, a bundled one such as digits-vgg, or package.module:factory. Weights are random: they
change no graph. Runs of spaces are shortened before lines are compared, as columns are as wide as their widest cell.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

import agf_fx
from agf_fx.errors import AgfFxError
from agf_fx.models.sources import BUNDLED

ROOT = Path(__file__).parent.parent

# Runs in a process of its own, in which agf_fx is that of another commit.
FINAL_TEXT = "import sys; sys.path[:0] = [sys.argv[1]]; import ir; ir.print_final_text(*sys.argv[2:])"


class UsageError(Exception):
    """What was asked for does not exist."""


def main() -> int:
    """Run a subcommand; 2 for a request that cannot be met."""
    arguments = parse()
    try:
        arguments.run(arguments)
    except (UsageError, AgfFxError) as error:
        print(f"tools/ir: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    head, _, details = __doc__.partition("\n")
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("tools/ir", description=head, epilog=details, formatter_class=raw)
    commands = parser.add_subparsers(required=True, metavar="passes|diff")
    passes = commands.add_parser("passes", help="one line a step: nodes, lines added and removed")
    passes.set_defaults(run=show_passes)
    passes.add_argument("--text", action="store_true", help="print the whole graph after every step")
    passes.add_argument("--only", metavar="STEP", help="print the whole graph after this step only")
    diff = commands.add_parser("diff", help="how the final graph differs from that of a commit")
    diff.set_defaults(run=show_diff)
    diff.add_argument("commit", help="anything that git understands: HEAD, HEAD~3, a branch, a hash")
    for command in (passes, diff):
        command.add_argument("model", help="torchvision name, a bundled one or package.module:factory")
        command.add_argument("--size", type=int, default=64, help="height and width of the images (default: 64)")
        command.add_argument("--dialect", default="reference", help="dialect of AGFOptions (default: reference)")
    return parser.parse_args()


# --- passes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Snapshot:
    """A graph after one step."""

    step: str
    kind: type
    nodes: int
    text: str


def show_passes(arguments: argparse.Namespace) -> None:
    """Print the graph after every step, or a line about it."""
    steps = snapshots(arguments.model, arguments.size, arguments.dialect)
    if arguments.only:
        names = list(dict.fromkeys(snapshot.step for snapshot in steps))
        if arguments.only not in names:
            raise UsageError(f"no step {arguments.only!r}; choose one of {', '.join(names)}")
        steps = [snapshot for snapshot in steps if snapshot.step == arguments.only]
    if arguments.text or arguments.only:
        for snapshot in steps:
            print(f"### {snapshot.step}\n{snapshot.text}")
    else:
        print_summary(steps)


def snapshots(name: str, size: int, dialect: str) -> list[Snapshot]:
    """The graph as captured, and after every step of the pipeline."""
    from agf_fx.methods.agf import attribution_guided_factorization
    from agf_fx.pipeline import Graph, lower

    taken: list[Snapshot] = []

    def take(step: str, graph: Graph) -> None:
        taken.append(Snapshot(step, type(graph), len(graph.graph.nodes), str(graph)))

    model, images = model_and_images(name, size)
    canonical = agf_fx.capture(model, images)
    take("capture", canonical)
    lower(canonical, attribution_guided_factorization(agf_fx.AGFOptions(dialect=dialect)), take)
    return taken


def print_summary(steps: list[Snapshot]) -> None:
    """One line a step; capture and emission, which make a new graph, add all of it."""
    width = max(len(snapshot.step) for snapshot in steps)
    print(f"{'step':{width}}  nodes   added  removed")
    for before, after in zip([None, *steps], steps, strict=False):
        known = before.text if before and before.kind is after.kind else ""
        changes = [line[0] for line in difference(known, after.text) if not line.startswith(("+++", "---"))]
        added, removed = changes.count("+"), changes.count("-")
        print(f"{after.step:{width}}  {after.nodes:5}  {f'+{added}':>6}  {f'-{removed}':>7}")


# --- diff ------------------------------------------------------------------------------------------------------------


def show_diff(arguments: argparse.Namespace) -> None:
    """Print the unified diff of the final graph's text, from the commit to the working tree."""
    commit = resolved(arguments.commit)
    after = final_text(arguments.model, arguments.size, arguments.dialect)
    with checked_out(commit) as folder:
        before = final_text_of(folder, arguments)
    labels = f"{arguments.commit} ({commit[:10]})", "working tree"
    lines = list(difference(before, after, *labels))
    print("\n".join(lines) if lines else f"the graph of {arguments.model} is the same as at {labels[0]}")


def difference(before: str, after: str, *labels: str) -> Iterator[str]:
    """The unified diff of two texts, columns narrowed."""
    old, new = (re.sub(r" {2,}", "  ", text).splitlines() for text in (before, after))
    return difflib.unified_diff(old, new, *labels, lineterm="")


def final_text(name: str, size: int, dialect: str) -> str:
    """The text of the compiled explanation graph. Uses what the package offers to users, which commits share."""
    model, images = model_and_images(name, size)
    return str(agf_fx.compile(model, images, options=agf_fx.AGFOptions(dialect=dialect)).graph)


def final_text_of(folder: Path, arguments: argparse.Namespace) -> str:
    """`final_text` by the package in ``folder``."""
    tools, request = str(Path(__file__).parent), [arguments.model, str(arguments.size), arguments.dialect]
    # -P: the current folder, which holds the package of the working tree, is not searched.
    command = [sys.executable, "-P", "-c", FINAL_TEXT, tools, str(folder), *request]
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"{arguments.commit} cannot compile {arguments.model}:\n{done.stderr.strip()}")
    return done.stdout


def print_final_text(folder: str, name: str, size: str, dialect: str) -> None:
    """`final_text`, after making sure that it comes from ``folder``; the entry point of the other process."""
    for module in (agf_fx, importlib.import_module("agf_fx.passes")):
        if not Path(module.__file__).is_relative_to(folder):
            sys.exit(f"{module.__name__} was imported from {module.__file__}, not from {folder}")
    try:
        sys.stdout.write(final_text(name, int(size), dialect))
    except (UsageError, AgfFxError) as error:
        sys.exit(str(error))


def resolved(commit: str) -> str:
    """The hash of a commit."""
    found = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
    if found.returncode:
        raise UsageError(f"no commit {commit!r} in this repository; give a hash, a branch, a tag or HEAD~1")
    return found.stdout.decode().strip()


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """The package as it was at ``commit``, importable from a temporary folder."""
    archive = git("archive", "--format=tar", commit, "--", "agf_fx", "passes")
    if archive.returncode:
        raise UsageError(f"commit {commit[:10]} has no package to compile with ({archive.stderr.decode().strip()})")
    with tempfile.TemporaryDirectory(prefix="agf-fx-ir-") as name:
        folder = Path(name).resolve()
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
            files.extractall(folder, filter="data")
        (folder / "agf_fx" / "passes").symlink_to(folder / "passes")  # what package-dir in pyproject.toml says
        yield folder


def git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run git in this repository."""
    try:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
    except FileNotFoundError as error:
        raise UsageError("git is not installed") from error


# --- models ----------------------------------------------------------------------------------------------------------


def model_and_images(name: str, size: int) -> tuple[nn.Module, Tensor]:
    """A model in evaluation mode, and one image of its dtype."""
    model = factory(name)().eval()
    dtype = next((weight.dtype for weight in model.parameters()), torch.float32)
    return model, torch.zeros(1, 3, size, size, dtype=dtype)


def factory(name: str) -> Callable[[], nn.Module]:
    """What builds the model of that name."""
    if ":" in name:
        return own_factory(name)
    if name in BUNDLED:
        return lambda: agf_fx.load_model(name).model
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        close = difflib.get_close_matches(name, [*known, *BUNDLED])
        hint = f"did you mean {' or '.join(close)}?" if close else "give a torchvision name or package.module:factory"
        raise UsageError(f"unknown model {name!r}; {hint}")
    return lambda: torchvision.models.get_model(name, weights=None)


def own_factory(name: str) -> Callable[[], nn.Module]:
    """The function or class of ``package.module:factory``; the current folder is searched last."""
    module, _, attribute = name.partition(":")
    sys.path.append(os.getcwd())
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"{name} cannot be loaded ({error}); write package.module:factory") from error


if __name__ == "__main__":
    sys.exit(main())
