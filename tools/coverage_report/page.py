"""The report, in Markdown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from benchmark.tables import seconds, section, times
from coverage_report.checks import CLASS_LIMIT, FORWARD_LIMIT, GRADIENT_LIMIT, OPTIMISED_LIMIT
from coverage_report.networks import names

Row = dict[str, Any]
Rows = dict[str, Row]


def page(record: Row) -> str:
    """All of it."""
    rows: Rows = dict(sorted(record["models"].items()))
    explained = {name: row for name, row in rows.items() if "error" not in row}
    failing = {name: row for name, row in rows.items() if not passed(row)}
    sections = [f"# Coverage\n\n{summary(record)}"]
    if explained:
        sections += [models(explained), operations(explained), roles(explained)]
    sections += [failure(name, row) for name, row in failing.items()]
    return "\n\n".join(sections)


def passed(row: Row) -> bool:
    """Whether a model could be explained and everything holds."""
    return sound(row) and "error" not in row.get("cost", {})


def sound(row: Row) -> bool:
    """The same, whatever became of the cost."""
    return "error" not in row and not row["failures"]


def summary(record: Row) -> str:
    """How many pass, what that means, and what it was found on."""
    rows, machine = record["models"], record["machine"]
    passing = sum(map(passed, rows.values()))
    images = f"{record['size']}×{record['size']}"
    missing = len(set(names()) - set(rows))
    partly = f" ({missing} more were not run)" if missing else ""
    return (
        f"{passing} of {len(rows)} image classifiers of torchvision pass{partly}. For each, with random weights in "
        f"float64, two images of about {images} and two targets an image: the logits are the model's (to "
        f"{FORWARD_LIMIT:.0e} of the largest); the gradient stream is autograd's gradient of the same scalar, at the "
        f"images and at three inner layers (to {GRADIENT_LIMIT:.0e} of the largest entry); maps are finite, not "
        f"constant (unless the gradient is 0), and those of two classes differ (by {CLASS_LIMIT:.0e} of the largest "
        "entry or more); the emitted graph gives the bits of the interpreter, and the maps of the optimised graph are "
        f"the same to {OPTIMISED_LIMIT:.0e} of their largest entry; every graph passes the verifier.\n\n"
        f"Written by `{machine['command']}` on {machine['processor']} with {threads(machine['threads'])}, Python "
        f"{machine['python']}, torch {machine['torch']}, torchvision {machine['torchvision']}."
    )


def threads(count: int) -> str:
    """A number of threads."""
    return "1 thread" if count == 1 else f"{count} threads"


def models(rows: Rows) -> str:
    """One line a model."""
    header = ["model", "parameters", "image", "operations", "nodes", "compile", "logits", "gradient", "optimised"]
    header += ["classes", "arriving", "largest loss", "cost", "result"]
    return section(
        "Models",
        "*Operations*: calls in the canonical graph that depend on the images; *nodes*: of the optimised explanation "
        "graph. *Compile*: processor time of capture and lowering. *Logits*, *gradient* (the worst of four places), "
        "*optimised*: the differences above. *Classes*: the least that the maps of an image's two targets differ by, "
        "over the largest entry. With exact division, *arriving* is the sum of relevance at the image over the initial "
        "sum, where that is farthest from 1, and *largest loss* the largest change of the sum in passing one "
        "operation, over the sum of absolute relevance there; the initial sum is small beside the absolute relevance "
        "inside, so that a small loss can outweigh it. *Cost*: an explanation over a forward pass, float32, one "
        "224×224 image, one target, eager, medians of 3; - where not measured, or it would take more than a minute.",
        header,
        [model_cells(name, row) for name, row in rows.items()],
    )


def model_cells(name: str, row: Row) -> list[str]:
    """The cells of a model."""
    checks, sums = row["checks"], row["conservation"]
    multiple = row.get("cost", {}).get("multiple")
    calls = sum(count for ops in row["ops"].values() for count in ops.values())
    return [
        name,
        millions(row["parameters"]),
        str(row["size"]),
        str(calls),
        str(row["nodes"]),
        seconds(row["compile_s"]),
        small(checks["forward"]),
        small(max(map(float, checks["gradient"].values()))),
        small(checks["optimised"]),
        f"{float(checks['between_classes']):.2f}",
        ratio(float(sums["arriving"])),
        f"{small(sums['loss'])} ({sums['lost_by']})",
        times(multiple) if multiple else "-",
        "passes" if passed(row) else "fails",
    ]


def operations(rows: Rows) -> str:
    """Which operations occur, by family."""
    used: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for name, row in rows.items():
        for family, ops in row["ops"].items():
            for op, count in ops.items():
                used[family, op][name] = count
    cells = [
        [family, op, str(len(calls)), str(sum(calls.values())), listed(rows[name]["architecture"] for name in calls)]
        for (family, op), calls in sorted(used.items(), key=lambda item: (item[0][0], -len(item[1]), item[0][1]))
    ]
    return section(
        "Operations",
        "Canonical operations on the images' signal, by the family whose rule they get; a sum or a product with a "
        "constant is pass-through.",
        ["family", "operation", "models", "calls", "architectures"],
        cells,
    )


def roles(rows: Rows) -> str:
    """How many calls have each role, by architecture."""
    kinds = list(next(iter(rows.values()))["roles"])
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows.values():
        groups[row["architecture"]].append(row)
    cells = [
        [architecture, str(len(group)), *(span(row["roles"][name] for row in group) for name in kinds)]
        for architecture, group in sorted(groups.items())
    ]
    return section(
        "Roles",
        "Calls with each fact that the analyses find, from the model with the fewest to the one with the most.",
        ["architecture", "models", *(name.replace("_", " ") for name in kinds)],
        cells,
    )


def failure(name: str, row: Row) -> str:
    """What is wrong with a model."""
    if "error" in row:
        lines = ["It could not be explained:", *quoted(row)]
    else:
        lines = [f"- {found}" for found in row["failures"]]
        cost = row.get("cost", {})
        lines += ["The cost could not be measured:", *quoted(cost)] if "error" in cost else []
    return "\n".join([f"## {name}", "", *lines])


def quoted(row: Row) -> list[str]:
    """An error, and where it was raised."""
    place = [f"raised at {row['raised_at']}"] if "raised_at" in row else []
    return ["", "```", row["error"], *place, "```"]


def listed(items: Iterable[str]) -> str:
    """Names in order, each once."""
    return ", ".join(sorted(set(items)))


def span(values: Iterable[int]) -> str:
    """The least and the most, or the one number that there is."""
    low, *_, high = sorted([*values] * 2)
    return str(low) if low == high else f"{low}–{high}"


def millions(count: int) -> str:
    """A number of parameters."""
    return f"{count / 1e6:.1f} M"


def small(value: float | str) -> str:
    """A difference; NaN and infinity are stored as texts."""
    return f"{float(value):.0e}" if float(value) else "0"


def ratio(value: float) -> str:
    """A ratio, exactly where it is close to 1."""
    deviation = abs(value - 1)
    if deviation < 5e-3:
        return f"1 ± {deviation:.0e}" if deviation else "1"
    return f"{value:.2f}" if abs(value) < 1000 else f"{value:.0e}"
