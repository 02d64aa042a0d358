"""The steps, most important first."""

from __future__ import annotations

from typing import NamedTuple


class Step(NamedTuple):
    """One process.

    Attributes:
        name: names the step on the command line, and its function in `gpu_report.steps`.
        title: what it finds out.
        seconds: its time limit.
    """

    name: str
    title: str
    seconds: int


STEPS = (
    Step("machine", "what machine and which versions these are", 60),
    Step("tests", "tests of the device, eager: every method's maps, pieces, files, several threads", 100),
    Step("maps", "maps of the eager graph against float64 on the CPU, TF32 off and on", 150),
    Step("capture", "capture, and the look at what was captured, in every dtype", 90),
    Step("methods", "maps and cost of every method, eager", 150),
    Step("eager", "cost and memory of the eager graph, beside forward, backward and bare products", 150),
    Step("compiled", "tests of the device for Inductor and CUDA graphs", 200),
    Step("inductor", "cost, maps and compile time of Inductor", 300),
    Step("cudagraphs", "cost, maps and recording time of CUDA graphs", 150),
    Step("bfloat16", "cost and maps with products in bfloat16", 120),
    Step("memory", "pieces within a memory limit, and recovery from running out of memory", 90),
    Step("exports", "TorchScript and AOTInductor files, written and run on the device", 400),
    Step("throughput", "images a second at the best batch size", 90),
    Step("peers", "cost of every method and of the other libraries that are installed", 150),
)
