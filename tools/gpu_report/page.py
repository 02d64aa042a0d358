"""The record as a Markdown page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpu_report.plan import STEPS


def page(record: Mapping[str, Any]) -> str:
    """All steps: what was found, or why not."""
    sections = [
        f"# agf-fx on {record['device']}{', quick' if record['quick'] else ''}\n\n{record.get('installation', '')}"
    ]
    for step in STEPS:
        found = record["steps"].get(step.name)
        sections.append(f"## {step.name}: {step.title}\n\n{_section(found)}")
    return "\n\n".join(sections) + "\n"


def _section(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "not measured"
    parts = [f"{found['outcome']}{' after ' + str(found['seconds']) + ' s' if 'seconds' in found else ''}"]
    parts += [found[key] for key in ("reason", "text") if found.get(key)]
    parts += [_table(found["rows"])] if found.get("rows") else []
    if found.get("last_lines"):
        parts.append("\n".join(["```text", *found["last_lines"], "```"]))
    return "\n\n".join(parts)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    header = list(dict.fromkeys(key for row in rows for key in row))
    lines = [header, ["---"] * len(header), *([_cell(row.get(key)) for key in header] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return "not measured"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
