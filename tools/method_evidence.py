"""Measure every method on photographs and scenes of digits: what the pages in docs/methods say of them.

    python tools/method_evidence.py [--methods agf gradcam] [--json docs/methods/measured.json] [--resume]
    python tools/method_evidence.py --methods extremal-perturbation --device cuda    for those that take hours on a CPU

On mosaics of four photographs, each explained for what one of them shows (EfficientNet-Lite0), and on
scenes of two digits (digits-resnet): the share of positive values that lies on the explained object, and how often the
largest value does. The cost is that of one of these mosaics and one class, in forward passes, on one thread of a CPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from benchmark.timing import interleaved, medians
from torch import Tensor, nn

import agf_fx
from agf_fx.atomic import save_json
from agf_fx.data import digit_scenes, mosaic, sample_photographs
from agf_fx.errors import AgfFxError
from agf_fx.evaluate.localisation import localisation
from agf_fx.methods import REGISTRY
from agf_fx.methods.patterns import PatternOptions
from agf_fx.models.digits import DIGITS_MEAN, DIGITS_STD

MOST_SAMPLES = 500  # of methods that draw more by default
SCENES, SEED = 100, 2
OUT = Path(__file__).resolve().parents[1] / "docs" / "methods" / "measured.json"
Row = dict[str, Any]


def main() -> None:
    """Measure the chosen methods, and write the file after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=list(REGISTRY), metavar="NAME")
    parser.add_argument("--json", type=Path, default=OUT)
    parser.add_argument("--subjects", nargs="+", default=[*SUBJECTS], choices=[*SUBJECTS], metavar="NAME")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="of all but the cost")
    parser.add_argument("--limit", type=int, help="mosaics and scenes, for methods that take long (default: 15, 100)")
    parser.add_argument("--resume", action="store_true", help="leave out what the file has")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Row] = {}
    if arguments.json.exists():
        found = json.loads(arguments.json.read_text(encoding="utf-8"))
    subjects = [SUBJECTS[name](arguments.device, arguments.limit) for name in arguments.subjects]
    for method in arguments.methods:
        row = found.setdefault(method, {})
        for subject in subjects:
            if arguments.resume and subject.name in row:
                continue
            try:
                row[subject.name] = subject.measured(method)
            except AgfFxError as error:
                row[subject.name] = str(error)
        print(method, row, file=sys.stderr, flush=True)
        save_json(arguments.json, {name: found[name] for name in REGISTRY if name in found})


class Mosaics:
    """All mosaics of four of the photographs, each explained for what each of its four shows."""

    name = "mosaics"

    def __init__(self, device: torch.device, limit: int | None = None) -> None:
        loaded = agf_fx.load_model("efficientnet-lite0")
        self.model: nn.Module = loaded.model.to(device)
        chosen = list(itertools.combinations(sample_photographs(), 4))[:limit]
        prepared = [loaded.preprocessing.prepare(mosaic([photo.image() for photo in four])) for four in chosen]
        self.images = torch.stack([image for image, _ in prepared]).to(device)
        wanted = [[loaded.class_names.index(photo.shows[0]) for photo in four] for four in chosen]
        self.target = torch.tensor(wanted, device=device)

    def measured(self, method: str) -> Any:
        """Shares of positive values in the right quarter, and peaks there."""
        chosen = options(method, self.model, self.images)
        maps = explained(self.model, method, chosen, self.images, self.target).clamp(min=0).cpu()
        half = maps.shape[-1] // 2
        quarters = maps.unflatten(-1, (2, half)).unflatten(-3, (2, half)).sum((-1, -3)).flatten(2)
        shares = quarters / quarters.sum(2, keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
        own = shares.diagonal(dim1=1, dim2=2)
        peak = maps.flatten(2).argmax(2)
        places = (peak // maps.shape[-1] // half) * 2 + peak % maps.shape[-1] // half
        hits = (places == torch.arange(4)) & (maps.amax((2, 3)) > 0)
        return {"maps": own.numel(), "own_share": float(own.mean()), "peak": float(hits.double().mean())}


class Cost(Mosaics):
    """One class of one of these mosaics, on the CPU."""

    name = "forward_passes"

    def __init__(self, device: torch.device, limit: int | None = None) -> None:
        super().__init__(torch.device("cpu"), limit)

    def measured(self, method: str) -> float:
        """In forward passes."""
        chosen, image, target = options(method, self.model, self.images), self.images[:1], self.target[:1, 0]
        explainer = agf_fx.compile(self.model, method=method, options=chosen)
        calls = {"forward": lambda: forward(self.model, image), "method": lambda: explainer(image, target)}
        seconds = medians(interleaved(calls, 3, torch.device("cpu"), 0.1))
        return seconds["method"] / seconds["forward"]


class Scenes:
    """Scenes of two digits by writers the network has not seen, each explained for either digit."""

    name = "scenes"

    def __init__(self, device: torch.device, limit: int | None = None) -> None:
        scenes = digit_scenes(limit or SCENES, split="test", seed=SEED)
        mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (DIGITS_MEAN, DIGITS_STD))
        self.images, self.masks = ((scenes.images - mean) / std).to(device), scenes.masks
        self.labels = scenes.labels.to(device)
        self.model = agf_fx.load_model("digits-resnet").model.to(device)

    def measured(self, method: str) -> Row:
        """Shares of positive values on the right one of the two digits, and peaks there."""
        chosen = options(method, self.model, self.images)
        found = localisation(explained(self.model, method, chosen, self.images, self.labels).cpu(), self.masks)
        return {"maps": found.count, "own_share": found.own_share, "peak": found.peak_on_own}


SUBJECTS = {subject.name: subject for subject in (Mosaics, Cost, Scenes)}


def options(method: str, model: nn.Module, images: Tensor) -> Row:
    """Patterns of the images where they are needed, and few samples where there are many."""
    known = REGISTRY[method].options
    if issubclass(known, PatternOptions):
        return {"patterns": agf_fx.fit_patterns(model, images.split(25))}
    many = any(field.name == "samples" and field.default > MOST_SAMPLES for field in fields(known))
    return {"samples": MOST_SAMPLES} if many else {}


def explained(model: nn.Module, method: str, chosen: Row, images: Tensor, target: Tensor) -> Tensor:
    """Maps, a few images at a time; in double precision where they overflow single precision, as PatternNet's do."""
    for precision in (None, "float64"):
        explainer = agf_fx.compile(model, method=method, options=chosen, precision=precision)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            few = 5 if images.device.type == "cpu" else 25
            batches = zip(images.split(few), target.split(few), strict=True)
            maps = torch.cat([explainer(batch, classes) for batch, classes in batches]).detach()
        if bool(maps.isfinite().all()):
            break
    return maps


def forward(model: nn.Module, images: Tensor) -> None:
    """The network alone."""
    with torch.inference_mode():
        model(images)


if __name__ == "__main__":
    main()
