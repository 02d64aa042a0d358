"""One run of ``agf-fx compare``: from paths, methods and targets to a sheet."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich.console import Console

import agf_fx
from agf_fx.errors import ImageError, OptionsError
from agf_fx.imaging.read import DEFAULT_MAX_PIXELS
from agf_fx.imaging.render import check_clip
from agf_fx.imaging.smooth import check_smooth
from agf_fx.models import LoadedModel, class_index
from agf_fx.runs.batches import Prepared, Targets, prepared_files
from agf_fx.runs.console import describe, printable, say, stdout_kept_clean
from agf_fx.runs.run import Execution
from agf_fx.runtime.comparison import STRONGEST

PAGES = (".html", ".htm")


@dataclass(frozen=True)
class Request:
    """What the user asked for (see ``agf-fx compare --help``).

    Raises:
        OptionsError: no sheet can be written as ``out``.
    """

    paths: tuple[Path, ...]
    methods: Mapping[str, Any]
    targets: tuple[str, ...]
    top_k: int | None
    out: Path
    device: str = "cpu"
    precision: str | None = None
    unknown_ops: str = "refuse"
    smooth: float = 0.0
    clip: float = 1.0
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        known = [*PAGES, *sorted(f".{ending}" for ending in FigureCanvasAgg.get_supported_filetypes())]
        if self.out.suffix.lower() not in known:
            raise OptionsError(
                f"--out {self.out}: no sheet is written in that format; end the name in {', '.join(known)}."
            )
        if not self.out.parent.is_dir():
            raise OptionsError(f"--out {self.out}: there is no folder {self.out.parent}; make it, or name another.")


def run(request: Request, model: LoadedModel, console: Console) -> bool:
    """Explain the images by every method, and write the sheet; whether all images and methods are on it.

    Raises:
        AgfFxError: no image can be read, no such class, or no method can explain the model.
        OSError: the sheet cannot be written.
    """
    check_smooth(request.smooth, model.preprocessing.crop)
    check_clip(request.clip)
    complete = True

    def failed(path: Path, error: Exception) -> None:
        nonlocal complete
        complete = False
        say(console, f"error: {path}: {describe(error)}")

    maximum = request.max_pixels or DEFAULT_MAX_PIXELS
    ready = list(prepared_files(request.paths, model.preprocessing, maximum, failed))
    if not ready:
        raise ImageError("no image could be read, so there is nothing to compare.")
    images = torch.stack([one.tensor for one in ready]).to(request.device)
    placed = Execution(request.device).place(model.model)
    fixed = tuple(class_index(text, model.class_names) for text in request.targets)
    targets = Targets(tuple(dict.fromkeys(fixed)), request.top_k if fixed else request.top_k or _few(model))
    with stdout_kept_clean(), console.status("comparing ...") as status, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a map that says nothing is seen on the sheet
        result = agf_fx.compare(
            placed,
            images,
            request.methods,
            **targets.arguments(model, images),
            progress=lambda label: status.update(f"{printable(label)} ..."),
            precision=request.precision,
            output=model.select,
            unknown_ops=request.unknown_ops,
        )
    for label, error in result.failed.items():
        complete = False
        say(console, f"error: {label}: {describe(error)}")
    result.save(request.out, **_shown(request, model, ready))
    return complete


def _few(model: LoadedModel) -> int:
    return min(STRONGEST, len(model.class_names))


def _shown(request: Request, model: LoadedModel, ready: list[Prepared]) -> dict[str, Any]:
    options: dict[str, Any] = {
        "class_names": [f"class {name}" if name.isdigit() else name for name in model.class_names],
        "images": [one.shown for one in ready],
        "smooth": request.smooth,
        "clip": request.clip,
    }
    if request.out.suffix.lower() in PAGES:
        return options | {"title": f"{model.name}: methods compared", "names": [str(one.path) for one in ready]}
    return options | {"indices": range(len(ready))}
