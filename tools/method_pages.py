"""Write the pages of docs/methods, one for each method, from code, measurements and notes.

    python tools/method_pages.py               the pages
    python tools/method_pages.py --pictures    and the pictures, which needs agf-fx[photos]; --device cuda for searches
    python tools/method_pages.py --check       writes nothing; the exit status is 1 if a page is out of date

Options, rules, promises and properties come from the registry, the figures from docs/methods/measured.json
(tools/method_evidence.py), formulas and advice from the notes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

from agf_fx.atomic import atomic_write
from agf_fx.methods import REGISTRY
from agf_fx.methods.registry import Entry, documented, plain

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "methods"
CLASSES = ("Egyptian cat", "espresso")  # what the pictures explain


def main() -> int:
    """Write or check the pages; 1 if one is out of date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument(
        "--pictures", nargs="*", metavar="NAME", help="draw pictures: of all methods, or of those named"
    )
    parser.add_argument("--device", default="cpu", help="of the pictures")
    arguments = parser.parse_args()
    if arguments.pictures is not None:
        draw(arguments.pictures or list(REGISTRY), arguments.device)
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    known = {*pages(), FOLDER / "README.md"}
    stale += [path for path in FOLDER.glob("*.md") if path not in known]
    if arguments.check:
        print("\n".join(f"out of date: {path}" for path in stale) or "all pages are up to date")
        return int(bool(stale))
    for path, text in pages().items():
        with atomic_write(path) as file:
            file.write(text.encode())
    return 0


def pages() -> dict[Path, str]:
    """Every page by its file."""
    notes = tomllib.loads((FOLDER / "notes.toml").read_text(encoding="utf-8"))
    measured = json.loads((FOLDER / "measured.json").read_text(encoding="utf-8"))
    made = {FOLDER / f"{name}.md": page(entry, notes, measured) for name, entry in REGISTRY.items()}
    return made | {FOLDER / "README.md": overview(notes, measured)}


def page(entry: Entry, notes: dict[str, Any], measured: dict[str, Any]) -> str:
    """The page of a method."""
    said = notes["methods"][entry.name]
    family = notes["families"].get(said.get("family"))
    parts = [
        f"# {entry.name}",
        f"{capital(entry.title)}. {entry.citation}.",
        *picture(entry.name),
        f"**What it computes**: {said['formula']}",
        *([family] if family else []),
        f"**Good at**: {said['good']}",
        f"**Bad at**: {said['bad']}",
        "## What its numbers mean",
        meaning(entry),
        "## Measured",
        evidence(entry.name, measured),
        "## Options",
        options(entry),
        *rules(entry),
        "---\n\n[All methods](README.md); written by `tools/method_pages.py`.",
    ]
    return "\n\n".join(parts) + "\n"


def picture(name: str) -> list[str]:
    """The picture, where it has been drawn: a search takes minutes on a CPU."""
    if not (FOLDER / "images" / f"{name}.jpg").exists():
        return []
    return [f"![A picture of four photographs, and its maps for {' and for '.join(CLASSES)}](images/{name}.jpg)"]


def capital(text: str) -> str:
    """With its first letter as at the start of a sentence."""
    return text[:1].upper() + text[1:]


def meaning(entry: Entry) -> str:
    """Scale, properties, and whether there is a file of it."""
    method = entry.make(entry.options())
    properties = entry.properties
    rows = [
        ("scale and sign", method.scale),
        ("reads gradients", yes(properties.gradients)),
        ("hands on relevance", yes(properties.attribution)),
        ("tells classes apart by its making", yes(properties.class_specific)),
        ("has the resolution of the image", yes(properties.reaches_input)),
        ("can be exported", f"no: it {_unwritable(method)}" if _unwritable(method) else "yes"),
    ]
    return table(("", ""), rows)


def _unwritable(method: Any) -> str:
    """What it does that no file can hold."""
    if method.step is not None:
        return "moves the weights by a gradient"
    if method.search is not None:
        return "searches step by step"
    return method.points.unwritable if method.points is not None else ""


def yes(holds: bool) -> str:
    """In words."""
    return "yes" if holds else "no"


MEASURED = ("mosaics: own share", "mosaics: peak", "scenes: own share", "scenes: peak", "forward passes")


def figures(name: str, measured: dict[str, Any]) -> list[str]:
    """The figures of a method, as `MEASURED` names them."""
    found = measured.get(name, {})
    cells = []
    for subject in ("mosaics", "scenes"):
        row = found.get(subject)
        known = isinstance(row, dict)
        cells += [f"{row[key]:.2f}" if known else "-" for key in ("own_share", "peak")]
    return [*cells, f"{found['forward_passes']:.1f}" if "forward_passes" in found else "-"]


def evidence(name: str, measured: dict[str, Any]) -> str:
    """The figures, and what they are of."""
    if name not in measured:
        return "Not measured: it searches for hours on a CPU."
    refused = [f"{subject}: {row}" for subject, row in measured[name].items() if isinstance(row, str)]
    what = (
        "Share of the positive values that lies on the explained object, and how often the largest one does: in "
        "mosaics of four photographs (EfficientNet-Lite0; 0.25 is chance) and in scenes of two digits "
        "(`digits-resnet`; 0.5 is chance). Cost of one class of one mosaic."
    )
    what += "".join(f" Of {fewer}." for fewer in few(name, measured))
    return "\n\n".join([table(MEASURED, [figures(name, measured)]), what, *refused])


ALL = {"mosaics": 60, "scenes": 200}  # maps


def few(name: str, measured: dict[str, Any]) -> list[str]:
    """Where a method was looked at on fewer images than others, in words."""
    found = [(subject, measured.get(name, {}).get(subject)) for subject in ALL]
    return [
        f"{row['maps']} maps of {subject} alone"
        for subject, row in found
        if isinstance(row, dict) and row["maps"] < ALL[subject]
    ]


def options(entry: Entry) -> str:
    """The options with their defaults."""
    descriptions = documented(entry.options)
    rows = [
        (f"`{name}`", f"`{value}`", descriptions.get(name, "").replace("``", "`"))
        for name, value in plain(entry.options()).items()
    ]
    return table(("option", "default", ""), rows) if rows else "None."


def rules(entry: Entry) -> list[str]:
    """The rule tables of all streams that are no plain gradient."""
    parts: list[str] = []
    for stream in entry.make(entry.options()).streams:
        entries = list(stream.rules)
        if len(entries) < 2:
            continue
        rows = [(str(where), f"`{rule}`", code(rule.equation), rule.promised) for where, rule in entries]
        parts.append(f"The first line that holds of a call decides ({stream.name}).")
        parts.append(table(("where", "rule", "equation", "the sum"), rows))
    return ["## Rules", *parts] if parts else []


def code(equation: str) -> str:
    """An equation as code, which Markdown leaves alone."""
    return f"`{equation}`" if equation else ""


def table(header: tuple[str, ...], rows: list[Any]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def overview(notes: dict[str, Any], measured: dict[str, Any]) -> str:
    """All methods with their figures."""
    rows = [
        (f"[{name}]({name}.md)", notes["methods"][name]["formula"].partition(";")[0], *figures(name, measured))
        for name in REGISTRY
    ]
    less = [f"{name}: {', '.join(few(name, measured))}" for name in REGISTRY if few(name, measured)]
    parts = [
        "# Methods, one page each",
        "Formula, paper, rules, what is conserved, scale, cost, and what each is good and bad at. How to use them: "
        "[methods](../methods.md).",
        table(("method", "what it computes", *MEASURED), rows),
        "Share of the positive values that lies on the explained object, and how often the largest one does: in 15 "
        "mosaics of four photographs, each explained for what each of its four shows (EfficientNet-Lite0 with ImageNet "
        "weights; 0.25 is chance), and in 100 scenes of two digits by writers that the network has not seen "
        "(`digits-resnet`; 0.5 is chance). Cost of one class of one mosaic, in forward passes of the network, on one "
        "thread. Defaults throughout, but for 500 samples of RISE and patterns of the images themselves; what a dash "
        "stands for is not measured. That a method "
        "tells objects apart does not make it faithful, and one network of each kind is not all networks. "
        "`python tools/method_evidence.py` measures it." + "".join(f" Of fewer images, {one}." for one in less),
    ]
    return "\n\n".join(parts) + "\n"


def draw(names: list[str], device: str) -> None:
    """Write the pictures: a mosaic beside its maps for two classes."""
    import torch
    from method_evidence import Mosaics, explained
    from method_evidence import options as measured_options
    from PIL import Image
    from write_photographs import MOSAIC

    import agf_fx
    from agf_fx.data import mosaic, sample_photographs
    from agf_fx.imaging.render import Panel, contact_sheet, map_panel, picture_panel
    from agf_fx.models import class_index

    loaded = agf_fx.load_model("efficientnet-lite0")
    pictures = {photograph.name: photograph.image() for photograph in sample_photographs()}
    image, shown = loaded.preprocessing.prepare(mosaic([pictures[name] for name in MOSAIC]))
    target = torch.tensor([[class_index(name, loaded.class_names) for name in CLASSES]])
    several = Mosaics(torch.device(device)).images  # to fit patterns to
    model = loaded.model.to(device)
    (FOLDER / "images").mkdir(exist_ok=True)
    for name in names:
        chosen = measured_options(name, model, several)
        (maps,) = explained(model, name, chosen, image[None].to(device), target.to(device)).cpu()
        panels = [
            Panel(text, map_panel(shown, one.numpy(), min_side=1)) for text, one in zip(CLASSES, maps, strict=True)
        ]
        sheet: Image.Image = contact_sheet([[Panel("", picture_panel(shown, min_side=1)), *panels]])
        with atomic_write(FOLDER / "images" / f"{name}.jpg") as file:
            sheet.save(file, "JPEG", quality=80, optimize=True)
        print(name, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
