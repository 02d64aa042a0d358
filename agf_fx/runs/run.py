"""One run of ``agf-fx explain``: from paths and targets to files and a summary."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import agf_fx
from agf_fx.errors import AgfFxError, OptionsError, TargetError
from agf_fx.imaging.find import FoundImages
from agf_fx.imaging.read import DEFAULT_MAX_PIXELS
from agf_fx.imaging.render import check_clip
from agf_fx.imaging.smooth import check_smooth
from agf_fx.inspect.precision import TRUSTED
from agf_fx.models import LoadedModel, class_index
from agf_fx.runs.batches import Explained, Targets, explain_files
from agf_fx.runs.console import describe, printable, say, stdout_kept_clean
from agf_fx.runs.naming import unique_stems
from agf_fx.runs.outputs import ContactSheets, write_image
from agf_fx.runs.report import Summary
from agf_fx.runtime.degenerate import DegenerateMapWarning
from agf_fx.runtime.precision import PrecisionWarning

_ZERO = "as for an image of one colour or a score whose gradient vanishes; check image and preprocessing"
_FEW = 4  # images for which a progress bar is not worth it


@dataclass(frozen=True)
class Execution:
    """Where and how to run (see ``agf-fx explain --help``)."""

    device: str = "cpu"
    backend: str = "auto"
    precision: str | None = None

    def place(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model on the device.

        Raises:
            OptionsError: there is no such device.
        """
        try:
            return model.to(torch.device(self.device))
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise OptionsError(f"--device {self.device} cannot be used: {reason} Leave it out for the CPU.") from error


@dataclass(frozen=True)
class Request:
    """What the user asked for (see ``agf-fx explain --help``); what was not found has been said, ``out`` exists."""

    found: FoundImages
    targets: tuple[str, ...]
    top_k: int | None
    out: Path
    method: str
    execution: Execution
    batch_size: int
    max_pixels: int | None
    contact_sheet: bool
    unknown_ops: str = "refuse"
    smooth: float = 0.0
    clip: float = 1.0
    check: bool = False
    options: Any = None


def run(request: Request, model: LoadedModel, console: Console) -> Summary:
    """Explain every image that can be explained; errors are printed as they occur and kept in the summary.

    Raises:
        OptionsError: an option has a value that this model does not allow.
        CaptureError: the model cannot be compiled.
    """
    check_smooth(request.smooth, model.preprocessing.crop)
    check_clip(request.clip)
    summary = Summary(model, request.method, request.out)
    summary.errors.extend((None, printable(str(problem))) for problem in request.found.problems)
    reporter = _Reporter(summary, console)
    targets = _targets(request, model, reporter)
    paths = request.found.paths
    if targets is None or not paths:
        return summary
    with stdout_kept_clean(), warnings.catch_warnings():
        for told in (DegenerateMapWarning, PrecisionWarning):  # of each image by name, see _Writer
            warnings.simplefilter("ignore", told)
        execution = request.execution
        explainer = agf_fx.compile(
            execution.place(model.model),
            _example(model).to(execution.device),
            method=request.method,
            options=request.options,
            backend=execution.backend,
            precision=execution.precision,
            output=model.select,
            unknown_ops=request.unknown_ops,
        )
        _explain_all(request, model, explainer, targets, paths, reporter)
    return summary


class _Reporter:
    """Says each error and warning on one line and keeps it in the summary."""

    def __init__(self, summary: Summary, console: Console) -> None:
        self.summary = summary
        self.console = console

    def add(self, source: Path | str | None, error: Exception) -> None:
        text = describe(error)
        if source is not None and not text.startswith(str(source)):
            text = f"{source}: {text}"
        self.summary.errors.append((None if source is None else str(source), printable(text)))
        say(self.console, f"error: {text}")

    def warn(self, path: Path, text: str) -> None:
        self.summary.warnings.append((str(path), printable(f"{path}: {text}")))
        say(self.console, f"warning: {path}: {text}")


def _targets(request: Request, model: LoadedModel, reporter: _Reporter) -> Targets | None:
    """The classes to explain, or None when classes were asked for and none of them exists."""
    if request.top_k is not None and request.top_k > len(model.class_names):
        raise OptionsError(f"--top-k {request.top_k} is more than the {len(model.class_names)} classes; give fewer")
    fixed: list[int] = []
    for text in request.targets:
        try:
            fixed.append(class_index(text, model.class_names))
        except TargetError as error:
            reporter.add(f"--target {text}", error)
    if request.targets and not fixed and request.top_k is None:
        return None
    return Targets(tuple(dict.fromkeys(fixed)), request.top_k)


def _example(model: LoadedModel) -> torch.Tensor:
    return torch.zeros(2, model.preprocessing.channels, *model.preprocessing.crop)


class _Writer:
    """Writes what was explained and keeps the contact sheets."""

    def __init__(self, request: Request, model: LoadedModel, paths: list[Path], reporter: _Reporter) -> None:
        self.model = model
        self.folder, self.drawing = request.out, {"smooth": request.smooth, "clip": request.clip}
        self.stems = unique_stems(paths)
        self.sheets = ContactSheets(request.out, len(paths)) if request.contact_sheet else None
        self.reporter = reporter

    def write(self, explained: Explained) -> None:
        """Write the files of one image; when that fails, report it: the next image may fare better."""
        try:
            record, panels = write_image(explained, self.model, self.folder, self.stems[explained.path], **self.drawing)
            self.reporter.summary.images.append(record)
            for made in record.maps:
                if made.positive == made.negative == 0:
                    self.reporter.warn(
                        explained.path, f"the map of {made.prediction.label} is zero everywhere, {_ZERO}"
                    )
                if made.precision is not None and made.precision > TRUSTED:
                    self.reporter.warn(
                        explained.path,
                        f"the map of {made.prediction.label} is {made.precision:.1g} of its largest value away from "
                        "the same map in float64; explain this image with --precision float64",
                    )
            if self.sheets is not None:
                self.sheets.add(panels)
        except (AgfFxError, OSError) as error:
            self.reporter.add(explained.path, error)

    def close(self) -> None:
        """Write the last contact sheet."""
        if self.sheets is None:
            return
        try:
            self.sheets.close()
        except OSError as error:
            self.reporter.add("contact sheet", error)
        self.reporter.summary.contact_sheets.extend(self.sheets.written)


def _explain_all(
    request: Request,
    model: LoadedModel,
    explainer: Any,
    targets: Targets,
    paths: list[Path],
    reporter: _Reporter,
) -> None:
    writer = _Writer(request, model, paths, reporter)
    limits = {"batch_size": request.batch_size, "max_pixels": request.max_pixels or DEFAULT_MAX_PIXELS}
    limits["check"] = request.check
    with _progress(reporter.console, len(paths)) as progress:
        task = progress.add_task("explaining", total=len(paths))

        def failed(path: Path, error: Exception) -> None:
            reporter.add(path, error)
            progress.advance(task)

        try:
            for explained in explain_files(paths, explainer, model, targets, **limits, on_error=failed):
                writer.write(explained)
                progress.advance(task)
        except KeyboardInterrupt:
            reporter.summary.interrupted = True
    writer.close()


def _progress(console: Console, count: int) -> Progress:
    """A progress bar on stderr, for more than a few images and a person watching."""
    hidden = count <= _FEW or not console.is_terminal
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=hidden, transient=True)
