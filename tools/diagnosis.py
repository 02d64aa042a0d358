"""What do the questions of `explainer.diagnose` measure on healthy maps? Prints a Markdown table of the extremes.

python tools/diagnosis.py

Limits (docs/diagnose.md) are chosen such that no map by AGF and Grad-CAM has a finding here. Gradients stand beside
them: they are noise. Each number is the largest of all maps.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torchvision

import agf_fx
from agf_fx.data import sample_photographs
from agf_fx.data.sample_scenes import sample_scenes
from agf_fx.inspect.diagnosis import Diagnosis, MapDiagnosis

COLUMNS = {
    "roughness": ("noisy", ("roughness",)),
    "least correlation with a class": ("class-independent", None),
    "grid": ("grid", None),
    "difference from float64": ("precision", ("difference from float64",)),
    "largest pixel": ("one-pixel", None),
    "border": ("border", None),
    "negative share": ("negative", ("negative share",)),
    "growth": ("exploding", ("growth",)),
    "largest change of the sum": ("not-conserved", ("largest change",)),
}
DIGITS = ("digits-vgg", "digits-resnet", "digits-basic")
METHODS = ("agf", "lrp-epsilon", "epsilon-plus", "gradcam", "gradient")


def main() -> None:
    """Print the table."""
    print(f"| network | method | maps | findings | {' | '.join(COLUMNS)} |")
    print("|" + "---|" * (len(COLUMNS) + 4))
    for name, method, diagnosis in diagnoses():
        kinds = sorted({finding.kind for finding in diagnosis.findings})
        cells = [name, method, str(len(diagnosis)), ", ".join(kinds) or "none", *extremes(diagnosis)]
        print(f"| {' | '.join(cells)} |", flush=True)


def diagnoses() -> Iterator[tuple[str, str, Diagnosis]]:
    """All networks by all methods."""
    scenes = torch.stack([scene.image() for scene in sample_scenes()])
    for name in DIGITS:
        for method in METHODS:
            model = agf_fx.load_model(name).model
            yield name, method, agf_fx.compile(model, method=method).diagnose(scenes, top_k=2)
    torch.manual_seed(0)
    untrained = torchvision.models.resnet18().eval()
    loaded = agf_fx.load_model("efficientnet-lite0")
    photographs = torch.stack([loaded.preprocessing.prepare(photo.image())[0] for photo in sample_photographs()])
    small = torch.nn.functional.interpolate(photographs, 64, mode="bilinear", antialias=True)
    for method in METHODS:
        yield "resnet18, untrained", method, agf_fx.compile(untrained, method=method).diagnose(small, top_k=2)
    for method in METHODS:
        yield "efficientnet-lite0", method, agf_fx.compile(loaded.model, method=method).diagnose(photographs)


def extremes(diagnosis: Diagnosis) -> Iterator[str]:
    """The largest number of each column."""
    for kind, names in COLUMNS.values():
        numbers = [number for each in diagnosis for number in measured(each, kind, names)]
        yield f"{max(numbers):.2g}" if numbers else ""


def measured(each: MapDiagnosis, kind: str, names: tuple[str, ...] | None) -> list[float]:
    """The numbers of one check of a map; of other classes, the one that decides."""
    check = next(check for check in each.checks if check.kind == kind)
    numbers = [value for name, value in check.measured.items() if (names is None or name in names) and value == value]
    return [min(numbers)] if kind == "class-independent" and numbers else numbers


if __name__ == "__main__":
    main()
