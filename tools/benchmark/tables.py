"""The figures as markdown tables, each with a line on what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
MIB = 2**20
WAYS = ("live", "allocator", "rss_growth")


def page(record: Row) -> str:
    """All tables of a record."""
    sections = [costs(record), set_up(record), compilation(record)]
    if record["settings"]["memory"]:
        sections.insert(1, memory(record))
    if record["starts"]:
        sections.append(starts(record))
    if record["peers"]:
        sections.append(peers(record))
    return "\n\n".join(sections)


def costs(record: Row) -> str:
    """What explanations cost, next to the forward passes and the bare products."""
    fewest, *more = map(str, record["settings"]["targets"])
    header = ["network", "batch", "backend", "precision", "forward", "channels-last forward", "forward in precision"]
    header += [f"explanation K={fewest}", "bare products", "explanation / bare", "per image", "product calls"]
    header += ["per layer", "work"]
    for k in more:
        header += [f"each further target (K={k})", "bare", "work"]
    header.append("difference")
    cells = []
    for row, forward in with_forward(record):
        line = [*key(row), f"{seconds(forward['forward_s'])} ±{forward['forward_spread']:.0%}"]
        line += [times(forward["channels_last"]), times(row["forward_in_precision"])]
        line += [times(row[name][fewest]) for name in ("explanation", "bare_products")]
        line += [f"{row['over_bare_products'][fewest]:.2f}", f"{per_image(row, record['explanations'], fewest):.2f}"]
        line += [str(row["products"][fewest]), f"{row['products_per_layer'][fewest]:.1f}"]
        line.append(times(row["product_work"][fewest]))
        for k in more:
            line += [times(row[name][k]) for name in ("further_target", "bare_further_target", "work_further_target")]
        line.append("-" if row["difference"] is None else f"{row['difference']:.0e}")
        cells.append(line)
    return section(
        "Cost",
        "Multiples (x) of the network's own forward pass: eager, inference mode, contiguous, its own precision. All "
        f"runs take turns; medians of {record['settings']['repeats']} rounds, ± half the range. K: targets per image. "
        "*Bare products*: the convolutions and matrix products of the same explanation alone, in the layouts they run "
        "in. *Work*: their floating-point operations over those of the forward pass; *per layer*: their calls over "
        f"those of the forward pass. *Each further target*: what K targets cost beyond {fewest}, per target. *Per "
        "image*: seconds per image over those at the first batch size. *Difference*: from the maps of the eager "
        "backend in the model's precision, over their largest entry.",
        header,
        cells,
    )


def memory(record: Row) -> str:
    """Peak memory of one call."""
    header = ["network", "batch", "backend", "precision", "K", "live tensors", "allocator", "RSS growth"]
    header += ["everything kept", "share of it", "forward: live", "forward: allocator"]
    cells = []
    for row, forward in with_forward(record):
        for k, found in row["memory"].items():
            counted = best(found)
            share = "-" if counted is None else f"{counted / found['kept_alive']:.2f}"
            of_forward = [mib(forward["memory"][name]) for name in WAYS[:2]]
            kept = [mib(found["kept_alive"]), share]
            cells.append([*key(row), k, *(mib(found[name]) for name in WAYS), *kept, *of_forward])
    return section(
        "Memory",
        "Peak MiB of one call; weights, prepared constants and images are not counted. *Live tensors*: storages made "
        "and still referenced. *Allocator*: with the scratch space of kernels. *RSS growth*: of the process, a coarse "
        "check. *Everything kept*: all activations, and for each target all gradients and relevances, alive at once; "
        "the share is of live tensors, or of the allocator's bytes where only those are known.",
        header,
        cells,
    )


def set_up(record: Row) -> str:
    """The way from a model to its explanation graph."""
    header = ["network", "capture", "analyses", "emission", "passes", "nodes emitted", "nodes after passes"]
    header += ["nodes of prepare", "prepare", "prepared constants", "weights"]
    cells = [
        [
            row["network"],
            *(seconds(row[f"{name}_s"]) for name in ("capture", "analyses", "emission", "passes")),
            *(str(row[name]) for name in ("nodes_emitted", "nodes", "prepare_nodes")),
            seconds(row["prepare_s"]),
            *(f"{mib(row[name])} MiB" for name in ("prepared_bytes", "weight_bytes")),
        ]
        for row in record["setup"]
    ]
    return section(
        "Set-up",
        "Once per network and image size, nothing cached; *prepare*, the weight-only work, once per set of weights. "
        "The first capture of a process takes "
        f"{seconds(record['machine']['first_capture_s'])} more for imports.",
        header,
        cells,
    )


def compilation(record: Row) -> str:
    """What a first call takes beyond later ones."""
    first = record["settings"]["batches"][0]
    counts = [str(k) for k in record["settings"]["targets"]]
    header = ["network", "batch", "backend", "precision", "agf_fx.compile", *(f"first call K={k}" for k in counts)]
    header += [f"later calls K={k}" for k in counts]
    header.append("compilation")
    cells = []
    for row in (row for row in record["explanations"] if row["batch"] == first):
        calls = [(row["first_call_s"][k], row["later_call_s"][k]) for k in counts]
        beyond = sum(max(0.0, early - late) for early, late in calls)
        taken = [row["make_s"], *(early for early, _ in calls), *(late for _, late in calls), beyond]
        cells.append([*key(row), *map(seconds, taken)])
    return section(
        "Compilation",
        "*agf_fx.compile* captures and lowers; the first call prepares and compiles. *Compilation*: first calls beyond "
        "later ones, summed; for the eager backend, preparation and warm-up.",
        header,
        cells,
    )


def starts(record: Row) -> str:
    """New processes, with and without the cache."""
    header = ["network", "cache", "import torch", "import torchvision", "import agf_fx", "agf_fx.compile", "ready"]
    header += ["first map", "second map", "captures", "emissions"]
    stages = ("import_torch_s", "import_torchvision_s", "import_agf_fx_s", "compile_s", "ready_s")
    stages += ("first_map_s", "second_map_s")
    cells = [
        [
            *(row["network"], {"cold": "empty", "warm": "filled"}[cache]),
            *(seconds(row[cache][stage]) for stage in stages),
            *(str(row[cache]["counters"][name]) for name in ("captures", "emissions")),
        ]
        for row in record["starts"]
        for cache in ("cold", "warm")
    ]
    return section(
        "Starting a process",
        "From a new process to a network that is ready to be explained, eager, with an empty cache on disk and with "
        "one that a process before has filled. *Ready*: importing agf_fx and agf_fx.compile, which is what comes "
        "beyond importing torch and building the network. The first map prepares the weights. Medians of "
        f"{record['settings']['starts']} processes each.",
        header,
        cells,
    )


def peers(record: Row) -> str:
    """Other methods beside every variant."""
    names = list(dict.fromkeys(row["peer"] for row in record["peers"]))
    variants = list(dict.fromkeys((row["backend"], row["precision"]) for row in record["explanations"]))
    fewest = str(record["settings"]["targets"][0])
    heads = ["forward", *(f"agf-fx agf, {backend}, {precision}" for backend, precision in variants), *names]
    columns = []
    for forward in record["forwards"]:
        rows = [row for row in record["explanations"] if same(row, forward)]
        ours = [peer_cell(row["explanation"][fewest], row, fewest) for row in rows]
        found = {row["peer"]: row for row in record["peers"] if same(row, forward)}
        theirs = [row.get("refused") or peer_cell(row["multiple"], row) for row in map(found.get, names)]
        columns.append([seconds(forward["forward_s"]), *ours, *theirs])
    versions = ", ".join(f"{name} {version}" for name, version in record["machine"]["peers"].items() if version)
    return section(
        "Other methods",
        "Multiples of the same forward pass, in the same rounds, and peak MiB counted in the same way; one target an "
        f"image. The others run in float32 without compilation. {versions}.",
        ["method", *(f"{forward['network']}, batch {forward['batch']}" for forward in record["forwards"])],
        [[head, *row] for head, row in zip(heads, zip(*columns, strict=True), strict=True)],
    )


def section(title: str, text: str, header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A heading, a line of text and a table."""
    lines = [header, ["---"] * len(header), *cells]
    return f"## {title}\n\n{text}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_forward(record: Row) -> list[tuple[Row, Row]]:
    """Every row of explanations with the forward pass of its network and batch size."""
    return [(row, forward) for row in record["explanations"] for forward in record["forwards"] if same(row, forward)]


def same(row: Row, other: Row) -> bool:
    """Whether two rows are of the same network and batch size."""
    return (row["network"], row["batch"]) == (other["network"], other["batch"])


def per_image(row: Row, rows: Sequence[Row], targets: str) -> float:
    """Seconds per image over those of the same variant at the first batch size."""
    variant = ("network", "backend", "precision")
    first = next(other for other in rows if all(other[name] == row[name] for name in variant))
    here, there = (r["later_call_s"][targets] / r["batch"] for r in (row, first))
    return here / there


def key(row: Row) -> list[str]:
    """What was measured."""
    return [row["network"], str(row["batch"]), row["backend"], row["precision"]]


def times(value: float) -> str:
    """A multiple."""
    return f"{value:.2f}x"


def seconds(value: float) -> str:
    """Seconds, to the millisecond where they are few."""
    return f"{value:.1f} s" if value >= 10 else f"{value:.2f} s" if value >= 1 else f"{value * 1000:.3g} ms"


def mib(value: float | None) -> str:
    """Bytes in MiB."""
    if value is None:
        return "-"
    return f"{value / MIB:.1f}" if value < 100 * MIB else f"{value / MIB:.0f}"


def best(found: Row) -> int | None:
    """Bytes of live tensors where they are known, else the allocator's."""
    return found["allocator"] if found["live"] is None else found["live"]


def peer_cell(multiple: float, row: Row, targets: str | None = None) -> str:
    """A multiple, with memory where it was measured."""
    if "memory" not in row:
        return times(multiple)
    found = row["memory"] if targets is None else row["memory"][targets]
    return f"{times(multiple)}, {mib(best(found))} MiB"
