"""What an explanation costs, as multiples of the network's own forward pass, all measured side by side in one run.

    tools/bench                                           four networks, batches of 1 and 8, 1 and 5 targets an image
    tools/bench --models resnet50 --backends eager inductor --precision model bfloat16 --json bench.json
    tools/bench --models vgg16 --batches 1 2 4 8 --targets 1 5 20    does the cost grow with images and targets alone?
    tools/bench --peers                                   with Captum, Zennit and pytorch-grad-cam, where installed

Machines are noisy: compare multiples, not seconds. Weights are random, which changes no cost.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from benchmark.machine import first_capture_s, machine
from benchmark.measurement import measure
from benchmark.peers import PEERS, peer_versions
from benchmark.rows import explanation_rows, forward_row, peer_rows
from benchmark.starting import starting_row
from benchmark.subjects import OWN, Settings, Subject, setup
from benchmark.tables import page

from agf_fx.atomic import save_json
from agf_fx.options import BACKENDS, MEMORY_FORMATS, PRECISIONS, CompileOptions

Record = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> Record:
    """Measure, print the tables, write the figures, and return them."""
    arguments = parse(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    settings = settings_of(arguments)
    record: Record = {
        "machine": machine(settings.device) | {"first_capture_s": first_capture_s(), "peers": peer_versions()},
        "settings": asdict(settings) | {"device": str(settings.device)},
        **{rows: [] for rows in ("setup", "starts", "forwards", "explanations", "peers")},
    }
    try:
        for name in settings.models:
            add_network(record, Subject(name, settings), arguments.json)
    finally:
        print(page(record))  # an interrupted run shows what it has
    return record


def add_network(record: Record, subject: Subject, file: Path | None) -> None:
    """Measure one network and add its rows to ``record``, writing it after every batch size."""
    record["setup"].append(setup(subject))
    if subject.settings.starts:
        print(f"{subject.name}, new processes ...", file=sys.stderr, flush=True)
        record["starts"].append(starting_row(subject.name, subject.settings))
    for batch in subject.settings.batches:
        print(f"{subject.name}, batch {batch} ...", file=sys.stderr, flush=True)
        measured = measure(subject, batch)
        rows = forward_row(measured), explanation_rows(measured), peer_rows(measured)
        record["forwards"].append(rows[0])
        record["explanations"].extend(rows[1])
        record["peers"].extend(rows[2])
        if file:
            save_json(file, record)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    head, _, details = __doc__.partition("\n")
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("tools/bench", description=head, epilog=details, formatter_class=raw)
    add = parser.add_argument
    add("--models", nargs="+", default=["vgg16", "vgg19", "resnet50", "resnet18"], help="names of torchvision")
    add("--size", type=positive, default=224, help="height and width of the images (default: 224)")
    add("--batches", nargs="+", type=positive, default=[1, 8], help="batch sizes (default: 1 8)")
    add("--targets", nargs="+", type=positive, default=[1, 5], help="targets per image (default: 1 5)")
    add("--backends", nargs="+", default=["eager"], choices=BACKENDS)
    add("--precision", nargs="+", default=[OWN], choices=(OWN, *PRECISIONS), help="model: the model's own, float32")
    names = [peer.name for peer in PEERS]
    add("--peers", nargs="*", choices=names, metavar="NAME", help="other methods to measure too: all, or those named")
    add("--no-memory", dest="memory", action="store_false", help="leave the memory table out")
    add("--repeats", type=positive, default=5, help="rounds (default: 5)")
    add("--starts", type=int, default=3, help="rounds of new processes, cold and warm (default: 3; 0: none)")
    add("--turn", type=float, default=0.1, help="seconds for which a short run is repeated in its turn (default: 0.1)")
    add("--device", type=torch.device, default=torch.device("cpu"))
    add("--threads", type=positive, help="threads of PyTorch (default: as PyTorch chooses)")
    add("--max-batch", type=positive, help="CompileOptions.max_batch")
    add("--memory-limit", type=positive, help="CompileOptions.memory_limit, bytes")
    add("--memory-format", default="auto", choices=MEMORY_FORMATS, help="CompileOptions.memory_format")
    add("--json", type=Path, help="file for the figures")
    return parser.parse_args(argv)


def settings_of(arguments: argparse.Namespace) -> Settings:
    """What the command line asks for."""
    return Settings(
        models=tuple(arguments.models),
        batches=tuple(sorted(set(arguments.batches))),
        targets=tuple(sorted(set(arguments.targets))),
        backends=tuple(arguments.backends),
        precisions=tuple(arguments.precision),
        size=arguments.size,
        repeats=arguments.repeats,
        turn=arguments.turn,
        starts=arguments.starts,
        peers=arguments.peers,
        memory=arguments.memory,
        device=arguments.device,
        options=CompileOptions(arguments.max_batch, arguments.memory_limit, arguments.memory_format),
    )


def positive(text: str) -> int:
    """A whole number above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not above 0")
    return value


if __name__ == "__main__":
    main()
