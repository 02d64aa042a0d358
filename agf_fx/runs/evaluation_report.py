"""An evaluation as one page of HTML that needs no other file: means, the figure, and the best and the worst cases."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from agf_fx.atomic import atomic_write
from agf_fx.data.datasets import Dataset
from agf_fx.errors import AgfFxError, InputError, MissingDependencyError
from agf_fx.evaluate.evaluation import KEYS
from agf_fx.evaluate.experiments import Experiment, Subject
from agf_fx.imaging.preprocess import Preprocessing
from agf_fx.imaging.render import map_panel, picture_panel
from agf_fx.runs.console import describe

if TYPE_CHECKING:
    import pandas as pd

_WAYS = {True: "higher is better", False: "lower is better", None: ""}
CASES = 3  # of each kind, of each method
Seen = tuple[Tensor, np.ndarray]  # an image (C, H, W) as the network takes it, and its pixels (H, W, 3)


@dataclass(frozen=True)
class Case:
    """A map to show.

    Attributes:
        method: by its label.
        kind: best or worst.
        said: image, class and measure, in words.
        picture: the image and the map beside each other, as the address of an embedded picture; "" where there is none.
    """

    method: str
    kind: str
    said: str
    picture: str


def write_report(
    path: Path,
    title: str,
    about: Mapping[str, Any],
    experiment: Experiment,
    table: pd.DataFrame,
    means: pd.DataFrame,
    figure: Path,
    cases: Sequence[Case],
) -> None:
    """Write the page.

    Raises:
        MissingDependencyError: Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment
    except ImportError as error:
        raise MissingDependencyError("reports need Jinja2: pip install 'agf-fx[evaluate]'") from error
    keys = [key for key in KEYS if key in means]
    shown = [measure for measure in experiment.measures if measure not in experiment.curve]
    lines = []
    for values, group in means.groupby(keys, sort=False, dropna=False):
        rows = group.set_index("measure")
        cells = [(rows["mean"][m], rows["low"][m], rows["high"][m]) for m in shown]
        lines.append(([*map(str, values)], cells, counted(rows["images"])))
    page = (
        Environment(autoescape=True)
        .from_string(_PAGE)
        .render(
            title=title,
            about=about,
            experiment=experiment,
            keys=keys,
            measures=[
                (m, {True: "higher is better", False: "lower is better", None: ""}[experiment.measures[m]])
                for m in shown
            ],
            lines=lines,
            figure=_address(figure.read_bytes()),
            rows=len(table),
            cases=cases,
            methods=list(dict.fromkeys(case.method for case in cases)),
        )
    )
    with atomic_write(path) as file:
        file.write(page.encode())


def chosen_cases(
    experiment: Experiment,
    table: pd.DataFrame,
    subjects: Mapping[str, Subject],
    seen: Callable[[str], Seen],
    class_names: Sequence[str],
    device: torch.device,
) -> list[Case]:
    """The best and the worst maps of each method by the experiment's first measure, explained anew.

    Args:
        experiment: says which way is better.
        table: a row for each map.
        subjects: by the label of the method; of others there are no pictures.
        seen: the name of an image -> what the network sees.
        class_names: of the network.
        device: where to explain.
    """
    measure, better = next(iter(experiment.measures.items()))
    found = []
    for method, subject in subjects.items():
        own = table[table["method"] == method].groupby(["image", "target"], sort=False)[measure].mean().dropna()
        ordered = own.sort_values(ascending=better is False, kind="stable")
        half = min(CASES, math.ceil(len(ordered) / 2))
        for kind, part in (("best", ordered[:half]), ("worst", ordered[::-1][: min(half, len(ordered) - half)])):
            for (name, target), value in part.items():
                said, picture = f"{name}, {class_names[int(target)]}: {measure} {value:.3f}", ""
                try:
                    picture = _explained(subject, seen(name), int(target), device)
                except (AgfFxError, RuntimeError) as error:  # a picture less costs no page
                    said += f"; not drawn: {describe(error)}"
                found.append(Case(method, kind, said, picture))
    return found


def counted(images: pd.Series) -> str:
    """Of how many images means are; of fewer where a measure is NaN."""
    least, most = int(images.min()), int(images.max())
    return str(most) if least == most else f"{least} to {most}"


def pictures_of(dataset: Dataset, preprocessing: Preprocessing) -> Callable[[str], Seen]:
    """What the network sees of an example, by its name; of a mosaic, by the names of its pictures with + between."""
    places = {dataset.example_name(index): index for index in range(len(dataset))}

    def seen(name: str) -> Seen:
        if name in places:
            return preprocessing.prepare(dataset[places[name]].image)
        parts = _parts(name, places)
        if not parts:
            raise InputError(f"the dataset has no picture {name!r} now, and no pictures that it is made of")
        tiles = [preprocessing.prepare(dataset[places[part]].image) for part in parts]
        side = math.isqrt(len(tiles))
        rows = [tiles[start : start + side] for start in range(0, len(tiles), side)]
        whole = torch.cat([torch.cat([image for image, _ in row], 2) for row in rows], 1)
        return whole, np.concatenate([np.concatenate([pixels for _, pixels in row], 1) for row in rows], 0)

    return seen


def _parts(name: str, known: Container[str]) -> list[str]:
    """The names between the + signs of a mosaic's name, which may hold + signs too; none where it is made of others."""
    pieces = name.split("+")
    found: list[list[str] | None] = [[], *[None] * len(pieces)]  # how the first pieces are made of names
    for end in range(1, len(pieces) + 1):
        for start in reversed(range(end)):
            one, before = "+".join(pieces[start:end]), found[start]
            if found[end] is None and before is not None and one in known:
                found[end] = [*before, one]
    return found[-1] or []


def _explained(subject: Subject, seen: Seen, target: int, device: torch.device) -> str:
    image, pixels = seen
    maps = subject.explain(image[None].to(device), torch.tensor([[target]], device=device))
    relevance = maps[0, 0].detach().to("cpu", torch.float64).numpy()
    panels = [picture_panel(pixels), map_panel(pixels, relevance)]
    sheet = Image.new("RGB", (sum(panel.width for panel in panels) + 4, panels[0].height), "white")
    sheet.paste(panels[0], (0, 0))
    sheet.paste(panels[1], (panels[0].width + 4, 0))
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=85)
    return _address(file.getvalue(), "jpeg")


def _address(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; font: 14px/1.45 system-ui, sans-serif; }
body { margin: 1rem auto; max-width: 1100px; padding: 0 1rem; }
table { border-collapse: collapse; }
.wide { overflow-x: auto; }
th, td { text-align: left; padding: 3px 12px 3px 0; vertical-align: top; }
thead th { border-bottom: 1px solid; }
small { opacity: .75; display: block; }
img { max-width: 100%; height: auto; background: white; }
.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 12px; }
figure { margin: 0; } figcaption { font-size: 12px; overflow-wrap: anywhere; }
</style>
<h1>{{ title }}</h1>
<p>{{ experiment.title[0]|upper }}{{ experiment.title[1:] }} ({{ experiment.citation }}).</p>
<table>{% for name, value in about.items() %}<tr><th scope="row">{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}</table>
<h2>Means over images, with 95 % bootstrap intervals</h2>
<div class="wide"><table><thead><tr>{% for key in keys %}<th scope="col">{{ key }}</th>{% endfor %}
{% for name, way in measures %}<th scope="col">{{ name|replace("_", " ") }}<small>{{ way }}</small></th>{% endfor %}
<th scope="col">images</th></tr></thead>
{% for values, cells, images in lines %}<tr>{% for value in values %}<th scope="row">{{ value }}</th>{% endfor %}
{% for mean, low, high in cells %}<td>{{ "%.3f"|format(mean) }}
{% if low == low %}<small>{{ "%.3f"|format(low) }} to {{ "%.3f"|format(high) }}</small>
{% endif %}</td>{% endfor %}<td>{{ images }}</td></tr>
{% endfor %}</table></div>
<p>{{ rows }} rows are in rows.csv.</p>
<img src="{{ figure }}" alt="The means as a figure; the numbers are in summary.csv">
{% for method in methods %}<h2>{{ method }}: best and worst</h2><div class="cases">
{% for case in cases if case.method == method %}<figure>
{% if case.picture %}<img src="{{ case.picture }}" alt="{{ case.said }}">{% endif %}
<figcaption>{{ case.kind }}: {{ case.said }}</figcaption></figure>{% endfor %}</div>{% endfor %}
<p>Red speaks for the class, blue against it; each map is drawn on a scale of its own.</p>
</html>
"""
