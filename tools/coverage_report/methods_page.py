"""The report on every method, in Markdown."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from benchmark.tables import section
from coverage_report.checks import CLASS_LIMIT
from coverage_report.methods import ROUNDING
from coverage_report.networks import names

Row = dict[str, Any]

_UNTRAINED = (
    "Weights are random here. PatternNet has no denominator in any layer, so in deep networks that were never trained "
    "the products of patterns leave the range of their dtype, which a warning says; and what some untrained networks "
    "say of classes depends on an image by so little that the area of a mask outweighs it, and all is hidden alike."
)
_KILLED = (
    "Exit code -9 is that of a process that the system has stopped for its memory. Patterns are fitted from sums in "
    "float64 that are four times as many as the weights: about 25 GB for 630 million of them."
)


def methods_page(record: Row) -> str:
    """All of it: a line a method, then what is refused and what fails."""
    rows, machine = record["models"], record["machine"]
    broken = {name: row["error"] for name, row in rows.items() if "error" in row}
    tried = {name: row["methods"] for name, row in sorted(rows.items()) if "error" not in row}
    methods = list(dict.fromkeys(method for found in tried.values() for method in found))
    missing = len(set(names()) - set(rows))
    partly = f" ({missing} more are not among them)" if missing else ""
    columns = [{name: found[method] for name, found in tried.items() if method in found} for method in methods]
    parts = [
        "# Methods on classifiers\n\n"
        f"Every method on {len(tried)} image classifiers of torchvision{partly}, with random weights, two images of "
        f"about {record['size']}×{record['size']} and two targets each, in float64, or float32 where a model has more "
        "than 250 million parameters: logits are the model's but for rounding, maps are finite and not constant, an "
        "image alone has the map that it has among others (to 1e-8 of the largest entry, 1e-2 in float32; or, where a "
        "network and a method "
        f"are that sensitive, to {ROUNDING} times what the last digit of its pixels makes), and methods that are made "
        f"to tell classes apart have two maps for two classes (differing by {CLASS_LIMIT:.0e} of the largest entry or "
        "more). Methods of many points look at two. What a method refuses is named with the reason.\n\n"
        f"Written by `{machine['command']}` on {machine['processor']}, Python {machine['python']}, torch "
        f"{machine['torch']}, torchvision {machine['torchvision']}."
    ]
    if methods:
        lines = [_line(method, found) for method, found in zip(methods, columns, strict=True)]
        header = ["method", "pass", "refused", "fail", "seconds each"]
        parts.append(section("Results", "Numbers of models, and the processor time of one.", header, lines))
    parts += [_why(kind, tried) for kind in ("refused", "failures")]
    parts += [f"## {name}\n\n```\n{error}\n```" for name, error in broken.items()]
    return "\n\n".join(part for part in parts if part)


def _line(method: str, found: dict[str, Row]) -> list[str]:
    fail = sum(bool(row["failures"]) for row in found.values())
    refused = sum("refused" in row for row in found.values())
    took = [row["took_s"] for row in found.values() if "took_s" in row]  # a process that was killed does not say
    seconds = sum(took) / max(1, len(took))
    return [f"`{method}`", str(len(found) - fail - refused), str(refused), str(fail), f"{seconds:.1f}"]


def _why(kind: str, tried: dict[str, dict[str, Row]]) -> str:
    """Reasons, and the models and methods that have them."""
    places: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, found in tried.items():
        for method, row in found.items():
            given = row.get(kind) or []
            for reason in [given] if isinstance(given, str) else given:
                places[reason.replace(name, "the model")][method].append(name)
    if not places:
        return ""
    title = {"refused": "Refused", "failures": "Failures"}[kind]
    items = [f"- {reason}: {_listed(by_method)}" for reason, by_method in places.items()]
    items += ["", _UNTRAINED] if kind == "failures" else []
    items += ["", _KILLED] if any("exit code -9" in reason for reason in places) else []
    return f"## {title}\n\n" + "\n".join(items)


def _listed(by_method: dict[str, list[str]]) -> str:
    return "; ".join(f"`{method}`: {', '.join(sorted(models))}" for method, models in by_method.items())
