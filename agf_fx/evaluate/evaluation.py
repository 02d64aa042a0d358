"""An evaluation: an experiment, methods and batches of images; and what it says in numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from agf_fx.errors import InputError, MissingDependencyError
from agf_fx.evaluate.experiments import BatchLike, Experiment, Row, Subject, rows_of
from agf_fx.evaluate.ledger import Ledger

if TYPE_CHECKING:
    import pandas as pd

_DRAWN = 10_000_000  # numbers that are drawn at a time
KEYS = ("method", "which", "layer", "step")  # what rows are told apart by, besides image and class


@dataclass(frozen=True)
class Part:
    """Some images of a batch."""

    names: list[str]
    images: Tensor
    targets: Tensor
    masks: Tensor | None
    ignored: Tensor | None

    @staticmethod
    def of(batch: BatchLike, indices: list[int]) -> Part:
        """The images of these indices."""
        names = list(batch.names)
        masks, ignored = (None if value is None else value[indices] for value in (batch.masks, batch.ignored))
        return Part([names[i] for i in indices], batch.images[indices], batch.targets[indices], masks, ignored)


def evaluate(
    experiment: Experiment,
    subjects: Mapping[str, Subject],
    batches: Iterable[BatchLike],
    ledger: Ledger,
    *,
    options: Mapping[str, Any] | None = None,
    told: Callable[[str, int], None] = lambda method, images: None,
) -> set[str]:
    """Measure every method on every batch, and keep what is found at once; what the ledger has is not measured again.

    An image that cannot be explained, or could not be read (``failures`` of the batch, if it has some), is kept as a
    failure, and costs no other.

    Args:
        experiment: one of `agf_fx.evaluate.experiments.EXPERIMENTS`.
        subjects: by the name of the method.
        batches: each is in memory alone.
        ledger: what is there, and where to.
        options: of the experiment.
        told: called with a method and a number of images that are done.

    Returns:
        The names of all images of the batches, those that could not be read among them.

    Raises:
        InputError: two images have one name, by which rows are told apart.
    """
    seen: set[str] = set()
    for batch in batches:
        names, unread = list(batch.names), {name: str(error) for name, error in getattr(batch, "failures", ())}
        twice = [name for place, name in enumerate(names) if name in seen or name in names[:place]]
        if twice:
            raise InputError(f"two images are called {twice[0]!r}; give each a name of its own, in all batches.")
        seen |= {*names, *unread}
        for method, subject in subjects.items():
            if unread:
                ledger.add(method, [], [], unread)
            missing = [index for index, name in enumerate(names) if not ledger.has(method, name)]
            if missing:
                rows, failures = _measured(experiment, subject, Part.of(batch, missing), options or {})
                done = [names[index] for index in missing if names[index] not in failures]
                ledger.add(method, done, rows, failures)
            told(method, len(names) + len(unread))
    return seen


def _measured(
    experiment: Experiment, subject: Subject, part: Part, options: Mapping[str, Any]
) -> tuple[list[Row], dict[str, str]]:
    """Rows, and why images have none; where a batch fails, its images are looked at one by one."""
    try:
        return rows_of(experiment, subject, part, **options), {}
    except Exception as error:  # whatever a model or a method of the user's raises for an image
        if len(part.names) == 1:
            return [], {part.names[0]: f"{type(error).__name__}: {error}"}
    rows, failures = [], {}
    for index in range(len(part.names)):
        more, why = _measured(experiment, subject, Part.of(part, [index]), options)
        rows += more
        failures |= why
    return rows, failures


def frame(rows: Iterable[Row]) -> pd.DataFrame:
    """A tidy table: a row for each method, image and class, and a column for each measure.

    Raises:
        MissingDependencyError: pandas is not installed.
    """
    return _pandas().DataFrame(list(rows))


def summary(
    table: pd.DataFrame, experiment: Experiment, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Means over images with bootstrap confidence intervals, a row for each method (and layer, ...) and measure.

    An image counts once, by the mean over its classes, and images are what is drawn: maps of one image resemble each
    other. NaN are left out; ``images`` says how many images remain. One image has no interval: it is NaN.

    Args:
        table: from `frame`.
        experiment: says which measures there are.
        confidence: of the intervals, by the percentile method.
        resamples: how many draws.
        seed: of these.

    Returns:
        Columns: those of `KEYS` that the table has, measure, mean, low, high, images.

    Raises:
        MissingDependencyError: pandas or SciPy is not installed.
    """
    pd, bootstrap = _pandas(), _bootstrap()
    keys = [key for key in KEYS if key in table]
    rows = []
    for values, group in table.groupby(keys, sort=False, dropna=False):
        of_images = group.groupby("image", sort=False)[list(experiment.measures)].mean()
        for measure in experiment.measures:
            found = of_images[measure].dropna().to_numpy(float)
            low = high = float("nan")
            if len(found) > 1 and np.ptp(found) > 0:
                drawn = bootstrap(
                    (found,),
                    np.mean,
                    confidence_level=confidence,
                    n_resamples=resamples,
                    batch=max(1, _DRAWN // len(found)),
                    method="percentile",
                    rng=np.random.default_rng(seed),
                )
                low, high = drawn.confidence_interval
            elif len(found) > 1:
                low = high = float(found[0])
            mean = float(found.mean()) if len(found) else float("nan")
            rows.append([*values, measure, mean, float(low), float(high), len(found)])
    return pd.DataFrame(rows, columns=[*keys, "measure", "mean", "low", "high", "images"])


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise MissingDependencyError("tables need pandas: pip install 'agf-fx[evaluate]'") from error
    return pandas


def _bootstrap() -> Any:
    try:
        from scipy.stats import bootstrap
    except ImportError as error:
        raise MissingDependencyError("confidence intervals need SciPy: pip install 'agf-fx[evaluate]'") from error
    return bootstrap
