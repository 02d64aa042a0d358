"""What an explanation costs, as multiples of the network's own forward pass, measured side by side in one run.

python tools/bench.py [--models vgg16 resnet50] [--batches 1 8] [--size 224] [--repeats 5] [--json bench.json]

For every network and batch size: the forward pass, the explanation, and the bare convolution-sized products of the same
graph (nothing else: a lower bound). The three are interleaved and medians are reported, because machines are noisy;
compare ratios, not seconds. Weights are random, which changes no cost.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, fx

import agf_fx
from agf_fx.atomic import save_json
from agf_fx.ir.graph import ExplanationGraph
from agf_fx.ir.types import TensorType
from agf_fx.methods.agf import attribution_guided_factorization
from agf_fx.options import AGFOptions
from agf_fx.pipeline import lower

aten = torch.ops.aten
PRODUCTS = (aten.conv2d.default, aten.convolution_backward.default, aten.linear.default, aten.matmul.default)


def main() -> None:
    """Print one row per network and batch size, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["vgg16", "vgg19", "resnet18", "resnet50"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    record: dict[str, Any] = {"machine": machine(), "rows": []}
    print(json.dumps(record["machine"]))
    print("| network | batch | forward | explanation | bare products | graph nodes | capture | emit and passes |")
    print("|---|---|---|---|---|---|---|---|")
    for name in arguments.models:
        for row in measure(name, arguments.batches, arguments.size, arguments.repeats):
            record["rows"].append(row)
            print(
                f"| {row['network']} | {row['batch']} | {row['forward_s']:.3f} s | {row['explanation']:.1f}x "
                f"| {row['bare_products']:.1f}x | {row['nodes']} | {row['capture_s']:.1f} s | {row['emit_s']:.1f} s |",
                flush=True,
            )
    record["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    if arguments.json:
        save_json(arguments.json, record)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "agf_fx": agf_fx.__version__,
    }


def measure(name: str, batches: list[int], size: int, repeats: int) -> list[dict[str, Any]]:
    """The rows of one network."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    example = torch.randn(1, 3, size, size)
    started = time.perf_counter()
    canonical = agf_fx.capture(model, example)
    captured = time.perf_counter()
    explanation = lower(canonical, attribution_guided_factorization(AGFOptions()))
    emitted = time.perf_counter()
    explainer = agf_fx.compile(model, example)
    rows = []
    for batch in batches:
        images, target = torch.randn(batch, 3, size, size), torch.zeros(batch, dtype=torch.int64)
        runs = {
            "forward": lambda images=images: model(images),
            "explanation": lambda images=images, target=target: explainer(images, target),
            "bare": bare_products(explanation, batch),
        }
        seconds = interleaved(runs, repeats)
        rows.append(
            {
                "network": name,
                "batch": batch,
                "forward_s": seconds["forward"],
                "explanation": seconds["explanation"] / seconds["forward"],
                "bare_products": seconds["bare"] / seconds["forward"],
                "nodes": len(explanation),
                "capture_s": captured - started,
                "emit_s": emitted - captured,
            }
        )
    return rows


def interleaved(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each run, taken in turns after one warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for repeat in range(repeats + 1):
            for name, run in runs.items():
                started = time.perf_counter()
                run()
                if repeat:
                    seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def bare_products(explanation: ExplanationGraph, batch: int) -> Callable[[], None]:
    """The convolutions and matrix products of the graph alone, on random tensors of the same shapes."""
    explanation.infer_types()
    pool: dict[TensorType, Tensor] = {}

    def tensor(node: fx.Node) -> Tensor:
        kind = node.meta["type"]
        if kind not in pool:
            pool[kind] = torch.randn([size if isinstance(size, int) else batch for size in kind.shape])
        return pool[kind]

    calls = [
        (node.target, fx.map_arg(node.args, tensor))
        for node in explanation.graph.nodes
        if node.op == "call_function" and node.target in PRODUCTS
    ]

    def run() -> None:
        for target, args in calls:
            target(*args)

    return run


if __name__ == "__main__":
    main()
