"""How well the cost model knows operations and peak memory: its numbers beside counted and allocated ones.

tools/cost [--networks resnet18,...] [--methods agf,...] [--images 8] [--targets 2] [--size 64] [--json FILE]

Networks are torchvision's, with random weights. For every network and method one explanation runs on the CPU: PyTorch's
FlopCounterMode counts the operations of products; memory is the peak of what PyTorch's allocator hands out, by its
profiler, scratch space of kernels included. What ``explainer.cost(N, K)`` says is divided by both. Prints a table in
Markdown; the exit status is 1 if operations are off by more than 5 % anywhere, or memory by more than 25 %.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torchvision
from benchmark.memory import allocator_peak
from torch.utils.flop_counter import FlopCounterMode

import agf_fx
from agf_fx.runtime.stepping import explained_with

NETWORKS = (
    "resnet18",
    "resnet50",
    "vgg11_bn",
    "squeezenet1_1",
    "mobilenet_v2",
    "shufflenet_v2_x0_5",
    "mnasnet0_5",
    "regnet_x_400mf",
    "googlenet",
    "convnext_tiny",
)
METHODS = ("agf", "lrp-epsilon", "gradcam", "integrated-gradients", "guided-backprop")
MOST_FLOPS, MOST_MEMORY = 0.05, 0.25
_SETTINGS = {"googlenet": {"aux_logits": False, "init_weights": False}}


def main() -> int:
    """Measure, print, and say whether the model holds."""
    arguments = parse()
    torch.set_num_threads(1)
    rows = []
    for name in arguments.networks.split(","):
        for method in arguments.methods.split(","):
            rows.append(measured(name, method, arguments.images, arguments.targets, arguments.size))
            print("{network} {method} {flops_ratio:.4f} {memory_ratio:.3f}".format(**rows[-1]), file=sys.stderr)
    print(table(rows))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    off = [
        row for row in rows if abs(row["flops_ratio"] - 1) > MOST_FLOPS or abs(row["memory_ratio"] - 1) > MOST_MEMORY
    ]
    return 1 if off else 0


def parse() -> argparse.Namespace:
    """The command line."""
    head, _, details = __doc__.partition("\n")
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("tools/cost", description=head, epilog=details, formatter_class=raw)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--targets", type=int, default=2)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--json", metavar="FILE", help="also write the rows")
    return parser.parse_args()


def measured(name: str, method: str, count: int, targets: int, size: int) -> dict[str, Any]:
    """One explanation: what the model says of it, what is counted and allocated, and their quotients."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, **_SETTINGS.get(name, {})).eval()
    images, target = torch.randn(count, 3, size, size), torch.arange(targets).expand(count, targets).contiguous()
    explainer = agf_fx.compile(model, images[:1], method=method)
    cost, bound = explainer.cost(count, targets), explainer._captured()
    weights = bound.weights.current(model)

    def run() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            explained_with(bound.program, explainer._rules, images, target, weights, bound.weights)

    run()  # what is prepared once is no part of it
    with FlopCounterMode(display=False) as counter:
        run()
    flops, memory = counter.get_total_flops(), allocator_peak(run)
    return {
        "network": name,
        "method": method,
        "flops": int(cost.product_flops),
        "flops_counted": flops,
        "flops_ratio": float(cost.product_flops) / flops,
        "peak": int(cost.peak),
        "peak_measured": memory,
        "memory_ratio": float(cost.peak) / memory,
        "piece": list(cost.piece),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The quotients of memory in Markdown, networks down and methods across, and the extremes of both."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines = [f"| network | {' | '.join(methods)} |", f"|---|{'---|' * len(methods)}"]
    for name in dict.fromkeys(row["network"] for row in rows):
        of = {row["method"]: row for row in rows if row["network"] == name}
        cells = (f"{of[m]['memory_ratio']:.2f} of {of[m]['peak_measured'] / 1e6:.1f} MB" for m in methods)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for key in ("flops_ratio", "memory_ratio"):
        values = [row[key] for row in rows]
        lines.append(f"\n{key}: {min(values):.4f} to {max(values):.4f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
