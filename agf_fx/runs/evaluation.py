"""One run of ``agf-fx evaluate``: from an experiment, methods and a dataset to rows that are kept, tables, a figure."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

import agf_fx
from agf_fx.atomic import atomic_path
from agf_fx.data.datasets import Batch, Dataset, batches
from agf_fx.errors import AgfFxError, OptionsError
from agf_fx.evaluate.evaluation import KEYS, evaluate, frame, summary
from agf_fx.evaluate.experiments import EXPERIMENTS, BatchLike, Experiment, Subject
from agf_fx.evaluate.imputation import WAYS
from agf_fx.evaluate.ledger import Ledger
from agf_fx.evaluate.mosaics import chosen_mosaics, confident_tiles, mosaic_batches
from agf_fx.models import LoadedModel
from agf_fx.runs import own_task
from agf_fx.runs.console import describe, say, stdout_kept_clean
from agf_fx.runs.evaluation_figure import draw
from agf_fx.runs.evaluation_report import chosen_cases, counted, pictures_of, write_report
from agf_fx.runs.evaluation_settings import LEAST, MOSAICS, fits, said, settings_of
from agf_fx.runs.own_task import OwnTask
from agf_fx.runs.run import Execution

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 12  # measures in the table on the screen, which leaves out the steps of a curve


@dataclass(frozen=True)
class Request:
    """What the user asked for (see ``agf-fx evaluate --help``).

    Raises:
        OptionsError: the experiment has no such setting.

    Attributes:
        experiment: its name.
        methods: methods with their options, by label.
        dataset: what is read.
        source: the dataset as it was named, with its options.
        out: the folder of all files.
        settings: of the experiment, such as ``tolerance``.
        limit: the most examples, or mosaics.
        output: where the model returns more than logits, in words.
        own_task: of a network that was trained without labels: how the class that is explained is found.
    """

    experiment: str
    methods: Mapping[str, Any]
    dataset: Dataset
    source: str
    out: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    batch_size: int = 16
    workers: int = 0
    execution: Execution = field(default_factory=Execution)
    unknown_ops: str = "refuse"
    output: str | None = None
    own_task: OwnTask | None = None

    def __post_init__(self) -> None:
        known = settings_of(self.experiment)
        for name, value in self.settings.items():
            if name in LEAST and isinstance(value, int | float) and not value >= LEAST[name]:
                raise OptionsError(f"{name} is {value!r}; give {LEAST[name]} or more.")
            if name not in known:
                advice = f"it has {', '.join(known)}" if known else "it has none"
                raise OptionsError(f"{self.experiment} has no setting {name!r}; {advice}.")
            if not fits(value, known[name]):
                raise OptionsError(f"{name} is {value!r}; give {said(known[name])}.")
        cells, confidence = self.settings.get("cells", 2), self.settings.get("confidence", 0)
        if cells < 1 or not 0 <= confidence <= 1:
            raise OptionsError(f"cells={cells} and confidence={confidence} must be 1 or more, and from 0 to 1.")
        if self.own_task is not None and (_cells(self) or self.experiment not in own_task.EXPERIMENTS):
            raise OptionsError(
                f"--combine finds one class for each picture, and {self.experiment} asks for several; evaluate "
                f"{', '.join(own_task.EXPERIMENTS)} so."
            )
        if "confidence" in self.settings and not _cells(self):
            raise OptionsError("confidence is for mosaics; give cells=2 too.")


def run(request: Request, model: LoadedModel, console: Console) -> bool:
    """Evaluate, and write the files; whether everything could be measured.

    Raises:
        OptionsError: the folder holds another evaluation, or a setting has no meaning.
        InputError: the dataset lacks what the experiment needs.
    """
    experiment = EXPERIMENTS[request.experiment]
    try:
        with FileLock(_made(request.out) / ".lock", timeout=0):
            return _run(experiment, request, model, console)
    except Timeout as error:
        raise OptionsError(f"another evaluation is at work in {request.out}; wait for it, or name another.") from error
    except KeyboardInterrupt:
        say(console, f"stopped; what was measured is in {request.out}, and the same command goes on from there.")
        raise


def _run(experiment: Experiment, request: Request, model: LoadedModel, console: Console) -> bool:
    ledger = Ledger(request.out, _about(request, model), _told(request), _images(request))
    with stdout_kept_clean():
        model = model if request.execution.device == "cpu" else _placed(model, request.execution)
        subjects = _subjects(request, model, console)
        asked = _measure(experiment, subjects, request, model, ledger, console) if subjects else set()
    failed = {key: why for key, why in ledger.failures.items() if key[1] in asked and key[0] in subjects}
    for (method, image), why in failed.items():
        say(console, f"error: {method}, {image}: {why}")
    if subjects and not ledger.rows and not failed:
        say(console, f"error: no image of {request.source} has what {experiment.name} measures: {experiment.title}.")
    if ledger.rows:
        table = frame(ledger.rows)
        means = summary(table, experiment)
        _write(request.out, table, means)
        figure = request.out / "figure.png"
        draw(figure, means, experiment)
        with stdout_kept_clean():
            seen, device = pictures_of(request.dataset, model.preprocessing), torch.device(request.execution.device)
            cases = chosen_cases(experiment, table, subjects, seen, model.class_names, device)
        title = f"{experiment.name} of {model.name}"
        about = _about(request, model) | {
            "methods": "; ".join(f"{label}: {words}" for label, words in ledger.methods.items())
        }
        write_report(request.out / "report.html", title, about, experiment, table, means, figure, cases)
        print_summary(console, means, experiment)
    return bool(ledger.rows) and not failed and len(subjects) == len(request.methods)


def _about(request: Request, model: LoadedModel) -> dict[str, Any]:
    """What makes rows comparable."""
    return {
        "experiment": request.experiment,
        "settings": {name: repr(value) for name, value in request.settings.items()},
        "model": model.name,
        "weights": model.weights,
        "preprocessing": model.preprocessing.describe(),
        "dataset": request.source,
        "data": request.dataset.parameters,
        "precision": request.execution.precision,
        "parameters": _digest(*(value.detach().cpu() for value in model.model.state_dict().values())),
        "class_names": _digest(*model.class_names),
        "classes_of_dataset": _digest(*(request.dataset.class_names or ())),
        "multi_label": model.multi_label,
        "output": request.output,
    } | _about_own_task(request.own_task)


def _images(request: Request) -> dict[str, str] | None:
    """What is known of each image that is asked for; None of mosaics, which are made of many."""
    if _cells(request):
        return None
    data, count = request.dataset, len(request.dataset)
    asked = range(count if request.limit is None else min(request.limit, count))
    return {data.example_name(index): data.known(index) for index in asked}


def _about_own_task(task: OwnTask | None) -> dict[str, str]:
    if task is None:
        return {}
    neighbours = {} if task.neighbours is None else {"neighbours": task.neighbours.fingerprint}
    return {"own_task": str(task), **neighbours}


def _digest(*values: Tensor | str) -> str:
    """A short name of what is in tensors and words."""
    found = hashlib.sha256()
    for value in values:
        if isinstance(value, Tensor):
            found.update(repr((value.dtype, tuple(value.shape))).encode())
            value = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else ""
        found.update(value if isinstance(value, bytes) else repr(value).encode())
    return found.hexdigest()[:16]


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OptionsError(f"--out {folder} is a file; name a folder, which is made where there is none.") from error
    return folder


def _told(request: Request) -> dict[str, str]:
    """What each label stands for."""
    return {label: f"{name}, {options!r}" for label, (name, options) in request.methods.items()}


def _placed(model: LoadedModel, execution: Execution) -> LoadedModel:
    execution.place(model.model)  # in place
    return model


def _subjects(request: Request, model: LoadedModel, console: Console) -> dict[str, Subject]:
    """Each method that can explain the network; the others are said."""
    shown = model.preprocessing
    size = [side * (_cells(request) or 1) for side in shown.crop or (224, 224)]
    example = torch.zeros(2, shown.channels, *size, device=request.execution.device)
    found: dict[str, Subject] = {}
    own = request.own_task
    memory = None if own is None else own.memory(model, request.out, request.batch_size, request.workers, console)
    for label, (name, options) in request.methods.items():
        try:
            explainer = agf_fx.compile(
                model.model,
                example,
                method=name,
                options=options,
                precision=request.execution.precision,
                output=model.select,
                unknown_ops=request.unknown_ops,
            )
        except AgfFxError as error:
            say(console, f"error: {label}: {describe(error)}")
            continue
        found[label] = Subject.of(model, explainer if own is None else own.explained_by(explainer, memory))
    return found


def _measure(
    experiment: Experiment,
    subjects: Mapping[str, Subject],
    request: Request,
    model: LoadedModel,
    ledger: Ledger,
    console: Console,
) -> set[str]:
    """Measure what is missing; the names of all images that were asked for."""
    device, settings = torch.device(request.execution.device), dict(request.settings)
    if "impute" in settings:
        settings["impute"] = WAYS[settings["impute"]]()
    read: Iterable[BatchLike] = _on_device(_read(request, model, console), device)
    if request.own_task is not None:
        read = own_task.in_own_classes(read, next(iter(subjects.values())))
    count = len(request.dataset) if request.limit is None else min(request.limit, len(request.dataset))
    unread: dict[str, str] = {}
    if cells := _cells(request):
        confidence = settings.pop("confidence", 0.25)
        if experiment.name != "grid":
            settings.pop("cells")
        seen = pictures_of(request.dataset, model.preprocessing)
        tiles = confident_tiles(
            *(model.logits, read),
            confidence=confidence,
            multi_label=model.multi_label,
            read=lambda name: seen(name)[0],
        )
        unread = {name: str(error) for name, error in tiles.failures}
        for method in subjects if unread else ():
            ledger.add(method, [], [], unread)
        limit = 500 if request.limit is None else request.limit
        read = mosaic_batches(tiles, cells=cells, limit=limit, size=request.batch_size, device=device)
        count = len(chosen_mosaics(tiles, cells, limit))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(experiment.name, total=count * len(subjects))
        return {*unread} | evaluate(
            experiment,
            subjects,
            read,
            ledger,
            options=settings,
            told=lambda method, images: progress.update(task, advance=images, description=method),
        )


def _read(request: Request, model: LoadedModel, console: Console) -> Iterable[Batch]:
    """The dataset in batches, its classes as the network counts them."""
    places = None if request.own_task is not None else _places(request.dataset, model, console)
    limit = None if _cells(request) else request.limit  # of mosaics, not of pictures
    for batch in batches(
        request.dataset, model.preprocessing, size=request.batch_size, workers=request.workers, limit=limit
    ):
        targets = batch.targets
        if places is not None and targets.numel():
            targets = torch.where(targets < 0, targets, places[targets.clamp_min(0)])
        yield Batch(batch.names, batch.images, targets, batch.masks, batch.ignored, batch.failures)


def _cells(request: Request) -> int | None:
    """How many pictures mosaics have in each direction; None where no mosaics are made."""
    return request.settings.get("cells", MOSAICS.get(request.experiment))


def _places(dataset: Dataset, model: LoadedModel, console: Console) -> Tensor | None:
    """The network's class for each of the dataset's, by name; None where they are the same.

    Where there are as many, and none or not all of them have one name, the order counts, unless names speak against it.

    Raises:
        OptionsError: the network has not all of them, or in another order.
    """
    names = dataset.class_names
    if names is None or names == model.class_names:
        return None
    known = {name.casefold(): index for index, name in reversed([*enumerate(model.class_names)])}
    missing = [name for name in names if name.casefold() not in known]
    if len(names) == len(model.class_names) and (missing or len(known) < len(names)):
        counts = Counter(map(str.casefold, (*model.class_names, *names)))  # a name that is there twice tells nothing
        moved = [
            name
            for index, name in enumerate(names)
            if counts[name.casefold()] == 2 and known.get(name.casefold(), index) != index
        ]
        if moved:
            raise OptionsError(
                f"{dataset.name} and {model.name} have {len(names)} classes each, but {moved[0]!r} at another place, "
                "and not all by the same names. Give --class-names with the network's classes, named as the dataset's."
            )
        say(console, f"note: the classes of {dataset.name} are taken for those of {model.name} in their order.")
        return None
    if missing:
        raise OptionsError(
            f"{model.name} has no class {missing[0]!r}, which {dataset.name} has; give --class-names, or a network "
            "trained on these classes."
        )
    return torch.tensor([known[name.casefold()] for name in names])


def _on_device(read: Iterable[BatchLike], device: torch.device) -> Iterable[Batch]:
    for batch in read:
        masks, ignored = (None if value is None else value.to(device) for value in (batch.masks, batch.ignored))
        failures = getattr(batch, "failures", ())
        yield Batch(
            tuple(batch.names), batch.images.to(device), batch.targets.to(device), masks, ignored, tuple(failures)
        )


def _write(folder: Path, table: pd.DataFrame, means: pd.DataFrame) -> None:
    """``rows.csv``, ``rows.parquet`` (where pyarrow is installed) and ``summary.csv``."""
    for name, data in (("rows", table), ("summary", means)):
        with atomic_path(folder / f"{name}.csv") as path:
            data.to_csv(path, index=False)
    try:
        with atomic_path(folder / "rows.parquet") as path:
            table.to_parquet(path, index=False)
    except ImportError:
        pass  # the same rows are in rows.csv


def _with_interval(mean: float, low: float, high: float) -> str:
    """A mean and its interval, where it has one."""
    return f"{mean:.3f}" if math.isnan(low) else f"{mean:.3f} ({low:.3f} to {high:.3f})"


def print_summary(console: Console, means: pd.DataFrame, experiment: Experiment) -> None:
    """Means with their intervals; the steps of curves are in the files."""
    keys = [key for key in KEYS if key in means]
    shown = [measure for measure in experiment.measures if measure not in experiment.curve][:_SHOWN]
    arrows = {True: " ↑", False: " ↓", None: ""}
    table = Table(
        *keys, *(measure.replace("_", " ") + arrows[experiment.measures[measure]] for measure in shown), "images"
    )
    for values, group in means.groupby(keys, sort=False, dropna=False):
        rows = group.set_index("measure")
        cells = [_with_interval(*(float(rows[part][m]) for part in ("mean", "low", "high"))) for m in shown]
        table.add_row(*(escape(str(value)) for value in values), *cells, counted(rows["images"]))
    console.print(table)
