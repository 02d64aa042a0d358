"""The studies of docs/evaluation.md, as data: which experiment, on what, for which methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agf_fx.methods import REGISTRY

ROOT = Path(__file__).resolve().parents[2]

AGF = {
    "agf": (),
    "agf-paper": ("dialect=paper",),
    "agf-flat-reference": ("flat_convolutions=reference",),
    "agf-flat-none": ("flat_convolutions=none",),
    "agf-merge-z": ("merge=z",),
    "agf-merge-ratio": ("merge=ratio",),
    "agf-exact": ("division=exact",),
    "agf-only-c": ("factorise_input=false", "factorise_gradient=false", "input_gradient=false"),
    "agf-no-a": ("input_agnostic=false",),
    "agf-no-fx": ("factorise_input=false",),
    "agf-no-fg": ("factorise_gradient=false",),
    "agf-no-m": ("input_gradient=false",),
    "agf-no-regulariser": ("regulariser=false",),
    "agf-gradcam": ("numerator=gradcam",),
}
"""AGF with each choice of dialect, flat convolutions, sums and division, and the ablations of Tab. 5."""

PATTERNS = ("pattern-net", "pattern-attribution")
MANY = {
    "integrated-gradients": ("steps=16",),
    "smoothgrad": ("samples=16",),
    "smoothgrad-squared": ("samples=16",),
    "vargrad": ("samples=16",),
    "gradient-shap": ("samples=16",),
    "expected-gradients": ("samples=16",),
}
"""Methods that look at many points, with fewer of them than is usual."""

MASKS = {"occlusion": (), "rise": ("samples=500",)}
SEARCHES = {"meaningful-perturbation": (), "extremal-perturbation": ()}
FAST = {name: () for name in REGISTRY if name not in {*PATTERNS, *MANY, *MASKS, *SEARCHES}}
GROUPS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "fast": FAST,
    "agf": {label: chosen for label, chosen in AGF.items() if label != "agf"},
    "many": MANY,
    "masks": MASKS,
    "searches": SEARCHES,
    "patterns": dict.fromkeys(PATTERNS, ("patterns={patterns}",)),
    "some": {
        **{label: AGF[label] for label in ("agf", "agf-flat-reference", "agf-only-c")},
        **dict.fromkeys(("gradcam", "sglrp", "clrp", "rap", "fullgrad", "contrastive-excitation-backprop"), ()),
        **dict.fromkeys(("epsilon-plus-flat", "lrp-epsilon"), ()),
    },
}
"""Methods that a command takes together, by label, with their options; some: those that lead elsewhere, and two."""


@dataclass(frozen=True)
class Study:
    """An experiment on one network and dataset.

    Attributes:
        name: of the study, of its folder and of its file.
        title: what the page calls it.
        experiment: of ``agf-fx evaluate``.
        model: a name that `agf_fx.load_model` knows.
        dataset: as on the command line.
        groups: of `GROUPS`, each with the most images or mosaics.
        settings: of the experiment.
        order: the measure that the page orders methods by.
        batch: images at a time.
    """

    name: str
    title: str
    experiment: str
    model: str
    dataset: str
    groups: Mapping[str, int]
    order: str
    settings: Mapping[str, object] = field(default_factory=dict)
    batch: int = 16
    precision: str | None = None

    @property
    def needs_patterns(self) -> bool:
        """Whether a method of it needs patterns of the network."""
        return "patterns" in self.groups

    @property
    def patterns(self) -> Path:
        """Where these are kept."""
        return ROOT / "out" / "evaluation" / f"patterns-{self.model}.safetensors"

    def commands(self, groups: Iterable[str] | None = None) -> list[str]:
        """As a user types them; of all groups, or of these."""
        return [self._command(group) for group in self.groups if groups is None or group in groups]

    def _command(self, group: str) -> str:
        methods = GROUPS[group]
        words = ["agf-fx", "evaluate", self.experiment, "-m", self.model, "-d", self.dataset]
        words += ["--methods", ",".join(label if label in REGISTRY else f"{label}=agf" for label in methods)]
        patterns = self.patterns.relative_to(ROOT)
        for label, chosen in methods.items():
            words += [word for one in chosen for word in ("--option", f"{label}.{one.format(patterns=patterns)}")]
        words += [word for name, value in self.settings.items() for word in ("--set", f"{name}={value}")]
        words += ["--precision", self.precision] if self.precision else []
        words += ["--limit", str(self.groups[group]), "--batch-size", str(self.batch)]
        return " ".join([*words, "-o", f"out/evaluation/{self.name}"])


def _photographs() -> Iterable[Study]:
    for number, few in (("0", 24), ("1", 12), ("2", 12)):
        name, model = f"lite{number}", f"efficientnet-lite{number}"
        views = "photographs:8"
        yield Study(
            f"grid-{name}",
            f"Grid pointing game, {model}",
            "grid",
            model,
            views,
            {"fast": few, "agf": few, "many": few // 4, "masks": 3},
            "share",
            batch=2,
        )
        less = {"fast": 56, "agf": 56, "many": 21} if number == "0" else {"fast": 28, "agf": 28, "many": 7}
        for experiment, order in (
            ("negative-perturbation", "area"),
            ("segmentation", "average_precision"),
            ("class-sensitivity", "absolute_correlation"),
            ("positive-perturbation", "area"),
        ):
            yield Study(
                f"{experiment}-{name}",
                f"{experiment.replace('-', ' ').capitalize()}, {model}",
                experiment,
                model,
                views,
                less | ({"masks": 7} if number == "0" else {}),
                order,
                batch=7,
            )
    yield Study(
        "region-perturbation-lite0",
        "Negative perturbation in squares of 16 pixels, efficientnet-lite0",
        "negative-perturbation",
        "efficientnet-lite0",
        "photographs:8",
        {"some": 56},
        "area",
        {"region": 16},
        batch=7,
    )
    yield Study(
        "sanity-lite0",
        "Sanity checks, efficientnet-lite0",
        "sanity",
        "efficientnet-lite0",
        "photographs",
        {"fast": 4},
        "absolute_correlation",
        batch=4,
    )


def _scenes() -> Iterable[Study]:
    for name in ("resnet", "vgg", "basic"):
        model = f"digits-{name}"
        for experiment, order in (
            ("separation", "share"),
            ("segmentation", "average_precision"),
            ("negative-perturbation", "area"),
            ("class-sensitivity", "absolute_correlation"),
        ):
            groups = {"fast": 500, "agf": 500, "patterns": 500, "many": 100, "masks": 50}
            if experiment == "separation":
                groups["searches"] = 20
            yield Study(
                f"{experiment}-{model}",
                f"{experiment.replace('-', ' ').capitalize()}, {model}",
                experiment,
                model,
                "digits:500",
                groups,
                order,
                batch=50,
            )


STUDIES = {study.name: study for study in (*_photographs(), *_scenes())}
