"""Checks the explanation of every classifier of torchvision, by AGF or by every method, and measures what it costs.

    tools/coverage --json out/coverage.json --markdown docs/coverage.md        all of them: hours
    tools/coverage --models resnet18 vit_b_16                                  a few, the report on standard output
    tools/coverage --no-cost --json out/coverage.json --resume                 what the file does not hold yet
    tools/coverage --methods --json out/methods.json                           every method on every classifier
    tools/coverage --methods lrp-epsilon gradcam --models resnet18             two methods on one

Every model runs in a process of its own, the ones with the fewest parameters first. Progress goes to standard error.
The exit status is 1 where a model fails.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from benchmark.machine import processor
from coverage_report.apart import apart
from coverage_report.cost import cost
from coverage_report.methods import SINGLE, explained
from coverage_report.methods_page import methods_page
from coverage_report.networks import architecture, names, parameters
from coverage_report.page import page, passed, sound
from coverage_report.rows import checked

from agf_fx.atomic import atomic_write, save_json
from agf_fx.methods import REGISTRY

Record = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Check the models that are asked for, write the results, and return the exit status."""
    arguments = parse(argv)
    kept = load(arguments.json, arguments.size) if arguments.resume and arguments.json.exists() else {}
    record: Record = {"machine": machine(argv), "size": arguments.size, "models": kept}
    kind = methods_kind(arguments) if arguments.methods is not None else agf_kind(arguments)
    wanted = [name for name in names() if name in arguments.models and not kind.done(kept.get(name))]
    for position, name in enumerate(wanted, 1):
        print(f"[{position}/{len(wanted)}] {name} ...", file=sys.stderr, end=" ", flush=True)
        kept[name] = kind.examine(name, kept.get(name))
        print("passes" if kind.passed(kept[name]) else "FAILS", file=sys.stderr, flush=True)
        write(record, arguments, kind.page)
    write(record, arguments, kind.page)  # where nothing was left to run, too
    if not arguments.markdown:
        print(kind.page(record))
    return 0 if all(kind.passed(kept[name]) for name in arguments.models) else 1


class Kind(NamedTuple):
    """What is examined of every model.

    Attributes:
        examine: the name of a model, and its earlier row if there is one -> its row.
        passed: whether a row has no failure.
        done: whether an earlier row, or None, needs nothing more.
        page: all rows, in Markdown.
    """

    examine: Callable[[str, Record | None], Record]
    passed: Callable[[Record], bool]
    done: Callable[[Record | None], bool]
    page: Callable[[Record], str]


def agf_kind(arguments: argparse.Namespace) -> Kind:
    """AGF, in detail."""
    return Kind(
        examine=lambda name, earlier: examine(name, earlier, arguments),
        passed=passed,
        done=lambda row: done(row, arguments.cost),
        page=page,
    )


PER_PROCESS = 4  # methods of a model that takes much of the memory


def methods_kind(arguments: argparse.Namespace) -> Kind:
    """Every method, or those named."""
    methods = arguments.methods or [*REGISTRY]

    def further(name: str, earlier: Record | None) -> Record:
        kept = (earlier or {}).get("methods", {})
        missing = [method for method in methods if method not in kept or kept[method]["failures"]]
        few = PER_PROCESS if parameters(name) > SINGLE else len(missing) or 1
        row: Record = {}
        for first in range(0, len(missing), few):
            some = missing[first : first + few]
            found = apart(explained, name, arguments.size, some, limit_s=arguments.limit)
            if "error" in found and few == len(missing):
                return found
            if "error" in found:
                each = {"failures": [found["error"]]}
                found = {"methods": dict.fromkeys(some, each), "took_s": found["took_s"]}
            kept = kept | found["methods"]
            row = {**row, **found, "took_s": row.get("took_s", 0) + found["took_s"]}
        return (row or (earlier or {})) | {"methods": kept}

    def all_pass(row: Record) -> bool:
        return "error" not in row and all(not found["failures"] for found in row["methods"].values())

    return Kind(
        examine=further,
        passed=all_pass,
        done=lambda row: row is not None and all_pass(row) and set(methods) <= set(row["methods"]),
        page=methods_page,
    )


def examine(name: str, earlier: Record | None, arguments: argparse.Namespace) -> Record:
    """The row of one model; checks that passed in an earlier run are not repeated."""
    row = earlier if earlier and sound(earlier) else check(name, arguments)
    if arguments.cost and "error" not in row:
        row["cost"] = apart(cost, name, limit_s=arguments.limit)
    return row


def check(name: str, arguments: argparse.Namespace) -> Record:
    """The row of one model without its cost."""
    model = {"architecture": architecture(name), "parameters": parameters(name)}
    return model | apart(checked, name, arguments.size, limit_s=arguments.limit)


def done(row: Record | None, with_cost: bool) -> bool:
    """Whether a row of an earlier run needs nothing more."""
    return row is not None and passed(row) and ("cost" in row or not with_cost)


def load(file: Path, size: int) -> Record:
    """The rows of an earlier run with images of the same size, by model."""
    record = json.loads(file.read_text())
    if record["size"] != size:
        sys.exit(f"tools/coverage: {file} holds checks of size {record['size']}; name another file, or that --size")
    return record["models"]


def write(record: Record, arguments: argparse.Namespace, page: Callable[[Record], str]) -> None:
    """Write what there is, so that an interrupted run loses one model at most."""
    if arguments.json:
        save_json(arguments.json, record)
    if arguments.markdown:
        with atomic_write(arguments.markdown) as file:
            file.write(page(record).encode() + b"\n")


def machine(argv: Sequence[str] | None) -> Record:
    """What the models were run on, and how."""
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "command": shlex.join(["tools/coverage", *(sys.argv[1:] if argv is None else argv)]),
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    head, _, details = __doc__.partition("\n")
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("tools/coverage", description=head, epilog=details, formatter_class=raw)
    add = parser.add_argument
    add(
        "--models",
        nargs="+",
        default=names(),
        choices=names(),
        metavar="NAME",
        help="names of torchvision (default: all)",
    )
    add(
        "--methods",
        nargs="*",
        choices=[*REGISTRY],
        metavar="NAME",
        help="check these methods, or every method if none is named, in the place of AGF's details",
    )
    add("--size", type=int, default=64, help="height and width of the images of the checks, about (default: 64)")
    add("--json", type=Path, help="file for the results")
    add("--markdown", type=Path, help="file for the report (default: standard output)")
    add("--resume", action="store_true", help="keep what the JSON file holds; run what is missing there, or failed")
    add("--no-cost", dest="cost", action="store_false", help="leave the cost out")
    add("--limit", type=float, default=1800, help="seconds that a model may take (default: 1800)")
    arguments = parser.parse_args(argv)
    if arguments.resume and not arguments.json:
        parser.error("--resume continues what is in the file of --json; name it")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
