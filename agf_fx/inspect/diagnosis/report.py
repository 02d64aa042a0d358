"""What a diagnosis says: findings, what was checked, and what could not be."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import fx

from agf_fx.ir.text import op_name

_WIDTH = 118


@dataclass(frozen=True)
class Place:
    """A call of the model.

    Attributes:
        node: its name in the canonical graph.
        layer: dotted path of the module that makes it.
        op: name of its operation.
    """

    node: str
    layer: str
    op: str

    @classmethod
    def of(cls, node: fx.Node) -> Place:
        """The place of a node; that of the images has no layer."""
        return cls(node.name, node.meta.get("module", ""), op_name(node.target) if node.op == "call_function" else "")


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a map, or explains why it looks as it does.

    Attributes:
        kind: of `agf_fx.inspect.diagnosis.KINDS`, such as ``"blank"``.
        severity: ``"problem"``, or ``"note"`` where the map is what the method says.
        layer: dotted path of the module where it begins on the way from the logits to the pixels; "" where that is the
            model itself, or unknown (then ``node`` is "" as well).
        node: name of the call in the canonical graph where it begins; "" where it is unknown.
        measured: name -> number, all numbers that the finding stands on.
        message: what was found.
        advice: what to do.
    """

    kind: str
    severity: str
    layer: str
    node: str
    measured: Mapping[str, float]
    message: str
    advice: str


@dataclass(frozen=True)
class Check:
    """One question that was asked of a map.

    Attributes:
        kind: as of a finding.
        measured: name -> number.
        limit: when there is a finding, in words.
        finding: what was found; None for nothing.
        left_out: why it, or a part of it, could not be checked; "" where all was.
    """

    kind: str
    measured: Mapping[str, float] = field(default_factory=dict)
    limit: str = ""
    finding: Finding | None = None
    left_out: str = ""

    @property
    def done(self) -> bool:
        """Whether anything was measured."""
        return bool(self.measured)


def found(
    kind: str,
    measured: Mapping[str, float],
    limit: str,
    place: Place | None,
    message: str,
    advice: str,
    *,
    severity: str = "problem",
    no_walk: str = "",
) -> Check:
    """A check with a finding at a place; ``no_walk`` says why there could be none."""
    layer, node = ("", "") if place is None else (place.layer, place.node)
    finding = Finding(kind, severity, layer, node, dict(measured), message, advice)
    return Check(kind, finding.measured, limit, finding, f"where it begins: {no_walk}" if no_walk else "")


@dataclass(frozen=True)
class MapDiagnosis:
    """What was found about one map.

    Attributes:
        image: number of the image in the batch.
        target: the class that the map explains; of one position of the logits, the code in `agf_fx.rules.targets`.
        logit: its value; the mean over positions, where there are several.
        checks: all questions, in the order in which they were asked.
    """

    image: int
    target: int
    logit: float
    checks: tuple[Check, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found."""
        return tuple(check.finding for check in self.checks if check.finding is not None)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def in_words(self, class_names: Sequence[str] | None = None) -> str:
        """What was found, measured and left out, in lines; classes by name where there are names."""
        return "\n".join(_lines(self, class_names))

    def __str__(self) -> str:
        return self.in_words()


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """What was found about the maps of a batch: ``print`` it, or go through its maps and their findings.

    Attributes:
        model: class name of the model.
        method: name of the method.
        maps: one for every image and target, images first.
    """

    model: str
    method: str
    maps: tuple[MapDiagnosis, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found about all maps."""
        return tuple(finding for each in self.maps for finding in each.findings)

    def __iter__(self) -> Iterator[MapDiagnosis]:
        return iter(self.maps)

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, index: int) -> MapDiagnosis:
        return self.maps[index]

    def to_dict(self) -> dict[str, Any]:
        """All of it as dictionaries, lists, words and numbers, as JSON has them; None for what is no number."""
        maps = [
            {
                "image": each.image,
                "target": each.target,
                "logit": each.logit,
                "checks": [{"done": check.done, **asdict(check)} for check in each.checks],
            }
            for each in self.maps
        ]
        return _plain({"model": self.model, "method": self.method, "maps": maps})

    def __repr__(self) -> str:
        kinds = dict.fromkeys(finding.kind for finding in self.findings)
        return f"Diagnosis({len(self.maps)} maps by {self.method}: {', '.join(kinds) or 'nothing found'}; print it)"

    def _repr_html_(self) -> str:
        """For notebooks: a table of what was found, a row for each finding. Names of the model are escaped."""
        rows = [
            (f"image {each.image}, class {each.target}", finding.kind, _where(finding).removeprefix(", from "), *said)
            for each in self.maps
            for finding in each.findings
            for said in [(finding.message, finding.advice, _numbers(finding.measured))]
        ]
        head = "".join(f"<th>{name}</th>" for name in ("map", "finding", "where", "what", "what to do", "measured"))
        body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows)
        caption = f"{self.model} by {self.method}: {len(rows) or 'no'} finding{'s' if len(rows) != 1 else ''}"
        table = f"<caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        return f"<table>{table}</table>"

    def in_words(self, class_names: Sequence[str] | None = None) -> str:
        """What was found, measured and left out, in lines; classes by name where there are names."""
        return "\n".join([f"{self.model} by {self.method}", *(each.in_words(class_names) for each in self.maps)])

    def __str__(self) -> str:
        return self.in_words()


def _lines(each: MapDiagnosis, class_names: Sequence[str] | None) -> Iterator[str]:
    """A map in words."""
    named = class_names is not None and each.target < len(class_names)
    target = f"class {each.target}{f' ({class_names[each.target]})' if named else ''}"
    head = f"image {each.image}, {target}, logit {each.logit:.3g}"
    numbers = "; ".join(f"{check.kind}: {_numbers(check.measured)}" for check in each.checks if check.done)
    if each.findings:
        yield f"{head}: {'1 finding' if len(each.findings) == 1 else f'{len(each.findings)} findings'}"
    else:
        yield f"{head}: nothing found. Measured: {numbers}"
    for finding in each.findings:
        yield from _wrapped(f"{finding.severity}, {finding.kind}{_where(finding)}: {finding.message}", 2)
        yield from _wrapped(f"measured: {_numbers(finding.measured)}", 4)
        yield from _wrapped(f"what to do: {finding.advice}", 4)
    healthy = [check for check in each.checks if check.done and check.finding is None]
    if each.findings and healthy:
        numbers = "; ".join(f"{check.kind}: {_numbers(check.measured)}" for check in healthy)
        yield from _wrapped(f"nothing found: {numbers}", 2)
    reasons = dict.fromkeys(check.left_out for check in each.checks if check.left_out)
    for reason in reasons:
        kinds = ", ".join(check.kind for check in each.checks if check.left_out == reason)
        yield from _wrapped(f"not checked, {kinds}: {reason}", 2)


def _cell(value: str) -> str:
    return f'<td style="text-align: left">{html.escape(value)}</td>'


def _where(finding: Finding) -> str:
    if not finding.node:
        return ""
    return f", from {finding.layer or 'the model itself'} (%{finding.node})"


def _numbers(measured: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in measured.items()) or "no numbers"


def _wrapped(text: str, indent: int) -> list[str]:
    first, further = " " * indent, " " * (indent + 2)
    return textwrap.wrap(text, _WIDTH, initial_indent=first, subsequent_indent=further, break_on_hyphens=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
