"""Measure self-supervised explanation on the bundled networks, and write the figures of docs/self-supervised.md.

    python tools/self_supervised.py
    python tools/self_supervised.py --scenes 20 --bank 200 --out /tmp/page    # a quick look

What Gur, Ali and Wolf (AAAI 2021) show in Tab. 4, Fig. 4 and Fig. 5, on scenes of two handwritten digits by writers
that no network and no probe has seen. The part of the page below its mark is written anew, the text above is kept.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import agf_fx
from agf_fx.atomic import atomic_write
from agf_fx.data import Scenes, digit_scenes, sample_scenes
from agf_fx.evaluate.imputation import constant
from agf_fx.evaluate.perturbation import perturbation
from agf_fx.evaluate.segmentation import segmentation
from agf_fx.imaging.render import Panel, contact_sheet, map_panel, picture_panel
from agf_fx.models.digits import DIGITS_MEAN, DIGITS_SIZE, DIGITS_STD
from agf_fx.ssl import LinearProbe, MemoryBank, SelfSupervisedExplanation, explain, linear_probe

ROOT = Path(__file__).resolve().parents[1]
MARK = "<!-- Below this line, tools/self_supervised.py has written. -->"
NETWORKS = {"supervised": "digits-supervised", "clusters": "digits-clusters", "rotation": "digits-rotation"}
COMBINATIONS = {"difference": "Δ", "sum": "Σ", "none": "w/o"}
TABLE_METHODS = {"agf": "AGF", "rap": "RAP"}
FIGURE_METHODS = ("agf", "rap", "gradcam", "fullgrad", "lrp-zplus", "integrated-gradients", "smoothgrad")
BLOCKS = tuple(f"block{number}" for number in range(1, 6))
SEED = 21  # of the held-out scenes; cards and training use others
BANK_SEED, PROBE_SEED = 77, 99
BATCH = 50
BANKS = (8, 100)  # sizes of small memory banks
BLACK = tuple(-mean / std for mean, std in zip(DIGITS_MEAN, DIGITS_STD, strict=True))
RESAMPLES = 2000
COLOURS = {"supervised": "#777777", "clusters": "#d95f02", "rotation": "#1b6ca8"}
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True)
class Case:
    """A network, and the held-out scenes as it is asked about them.

    Attributes:
        name: of the row.
        model: the network.
        images: (N, 3, S, S), as the network takes them.
        labels: (N, 2), the two digits.
        masks: (N, 2, S, S) bool, one of each.
        unlabelled: (M, 3, S, S), other scenes, by the training writers.
        memory: their latents.
    """

    name: str
    model: nn.Module
    images: Tensor
    labels: Tensor
    masks: Tensor
    unlabelled: Tensor
    memory: MemoryBank


def main() -> None:
    """Write the page and its pictures."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    start = time.perf_counter()
    cases = [case(name, args.scenes, args.bank) for name in NETWORKS]
    images = args.out / "images"
    images.mkdir(parents=True, exist_ok=True)
    parts = [table_4(cases)]
    print(parts[-1], flush=True)
    parts.append(why(cases))
    print(parts[-1], flush=True)
    parts.append(figure_4a(cases, images / "self-supervised-segmentation.png"))
    print(parts[-1], flush=True)
    probes = {one.name: probes_of(one, args.probed) for one in cases}
    parts.append(figure_4b(cases, probes, images / "self-supervised-layers.png"))
    print(parts[-1], flush=True)
    figure_5(probes, images / "self-supervised-probes.png")
    parts.append(
        "## One scene, layer by layer\n\n![Maps of both digits of a scene by probes of the five blocks](images/"
        "self-supervised-probes.png)\n\nAs the paper's Fig. 5: AGF for each digit of a held-out scene, by the linear "
        "probe of each block; above of `digits-rotation`, below of `digits-clusters`."
    )
    told = (
        f"`python tools/self_supervised.py --scenes {args.scenes} --bank {args.bank} --probed {args.probed}` "
        f"(torch {torch.__version__}, {args.threads} CPU thread(s), {time.perf_counter() - start:.0f} s)."
    )
    write_page(args.out / "self-supervised.md", "\n\n".join([told, *parts]))


def case(name: str, scenes: int, bank: int) -> Case:
    """A bundled network with its scenes: turned by all quarters in turn for the one that tells rotations."""
    model = agf_fx.load_model(NETWORKS[name]).model
    drawn = digit_scenes(scenes, split="test", seed=SEED, size=DIGITS_SIZE)
    unlabelled = digit_scenes(bank, seed=BANK_SEED, size=DIGITS_SIZE).images
    images, masks = drawn.images, drawn.masks
    if name == "rotation":
        images, masks, unlabelled = turned(images), turned(masks), turned(unlabelled)
    unlabelled = as_input(unlabelled)
    memory = MemoryBank.build(model, unlabelled.split(256))
    return Case(name, model, as_input(images), drawn.labels, masks, unlabelled, memory)


def turned(values: Tensor) -> Tensor:
    """The n-th of (N, C, S, S) turned by n quarters."""
    return torch.stack([torch.rot90(value, number % 4, (1, 2)) for number, value in enumerate(values)])


def explained(one: Case, method: str, combine: str) -> SelfSupervisedExplanation:
    """All scenes of a case at once, by Alg. 2."""
    explainer = agf_fx.compile(one.model, method=method)
    found = [explain(explainer, part, one.memory, combine=combine) for part in one.images.split(BATCH)]
    names = ("maps", "target", "logits", "images", "combined_logits", "neighbour", "distance", "latents")
    return SelfSupervisedExplanation(**{name: torch.cat([getattr(r, name) for r in found]) for name in names})


# --- Table 4 ------------------------------------------------------------------------------------------------


def table_4(cases: Sequence[Case]) -> str:
    """Negative perturbation in the predicted class of the network's own task, for the three variants."""
    head = "| network | " + " | ".join(f"{m} {c}" for m in TABLE_METHODS.values() for c in COMBINATIONS.values()) + " |"
    rows, against = [head, "|---" * 7 + "|"], []
    classes = [
        "| network | t of Δ is the predicted class | of Σ | AGF, area of t itself: Δ | Σ | w/o |",
        "|---" * 6 + "|",
    ]
    for one in cases:
        areas, own, same = {}, {}, {}
        for method in TABLE_METHODS:
            for combine in COMBINATIONS:
                found = explained(one, method, combine)
                predicted = found.logits.argmax(1)
                areas[method, combine] = area(one, found, predicted)
                own[method, combine] = area(one, found, found.target[:, 0])
                same[combine] = (found.target[:, 0] == predicted).double().mean()
        rows.append(f"| {one.name} | " + " | ".join(interval(100 * value) for value in areas.values()) + " |")
        cells = [interval(100 * own["agf", combine]) for combine in COMBINATIONS]
        classes.append(f"| {one.name} | {same['difference']:.0%} | {same['sum']:.0%} | " + " | ".join(cells) + " |")
        pairs = {
            "AGF: Δ - w/o": areas["agf", "difference"] - areas["agf", "none"],
            "AGF: Δ - Σ": areas["agf", "difference"] - areas["agf", "sum"],
            "AGF - RAP, Δ": areas["agf", "difference"] - areas["rap", "difference"],
            "AGF - RAP, w/o": areas["agf", "none"] - areas["rap", "none"],
        }
        against.append(f"| {one.name} | " + " | ".join(interval(100 * value) for value in pairs.values()) + " |")
    count = len(cases[0].images)
    return "\n".join(
        [
            "## Negative perturbation",
            "",
            f"As the paper's Tab. 4: the area under the share of scenes ({count} of them, in percent) of which the "
            "network still says what it says of the whole scene, while 10 % to 90 % of the pixels become black, the "
            "least relevant first. Larger is better; 95 % bootstrap intervals over scenes. Areas are divided by the "
            "range of 0.8, so the paper's are 0.8 times as large.",
            "",
            *rows,
            "",
            "Differences on the same scenes:",
            "",
            "| network | AGF: Δ - w/o | AGF: Δ - Σ | AGF - RAP, Δ | AGF - RAP, w/o |",
            "|---" * 5 + "|",
            *against,
            "",
            "How often the class t that is explained is the one that the network predicts, and the area where t "
            "itself is what the network has to say:",
            "",
            *classes,
        ]
    )


def area(one: Case, found: SelfSupervisedExplanation, label: Tensor) -> Tensor:
    """The area under the curve of negative perturbation for each scene, (N,) from 0 to 1."""
    curves = perturbation(
        one.model, found.images, found.maps, found.target, labels=label[:, None], impute=constant(BLACK), batch=450
    )
    return curves.area(curves.correct)[:, 0]


def why(cases: Sequence[Case]) -> str:
    """What the class of Δ depends on: how near the neighbour is, and the head's bias."""
    rows = [
        "| network | images in the bank | distance / length | neighbour of the predicted class "
        "| t is the predicted class | the same without the bias | t is the class of the largest bias | AGF Δ |",
        "|---" * 8 + "|",
    ]
    for one in cases:
        bias = one.model.fc.bias.detach()
        for count in (*BANKS, len(one.memory)):
            memory = MemoryBank.build(one.model, one.unlabelled[:count].split(256))
            found = explained(replace(one, memory=memory), "agf", "difference")
            predicted, t = found.logits.argmax(1), found.target[:, 0]
            ratio = float((found.distance / found.latents.norm(dim=1)).median())
            theirs = memory.encoder(one.model).logits(memory.latents[found.neighbour]).argmax(1)
            shares = [
                theirs == predicted,
                t == predicted,
                (found.combined_logits - bias).argmax(1) == predicted,
                t == bias.argmax(),
            ]
            cells = [f"{share.double().mean():.0%}" for share in shares]
            rows.append(
                f"| {one.name} | {count} | {ratio:.2f} | "
                + " | ".join([*cells, interval(100 * area(one, found, predicted))])
                + " |"
            )
    return "\n".join(
        [
            "## What the class of Δ depends on",
            "",
            "The map is that of class t at the image, so that Δ, Σ and w/o differ in t alone. Of banks of three sizes: "
            "the median distance of the neighbour over the length of the latent vector, how often the network predicts "
            "the same class for the neighbour, how often t is the class that it predicts for the scene (with "
            "v = φ_τ(S), and without the head's bias), how often t is the class with the largest bias, and the area of "
            "the first table.",
            "",
            *rows,
        ]
    )


# --- Figure 4a ----------------------------------------------------------------------------------------------


def figure_4a(cases: Sequence[Case], path: Path) -> str:
    """Segmentation of both digits by maps of the class of Alg. 2, for several methods."""
    rows = ["| network | method | pixel accuracy, % | mAP, % |", "|---|---|---|---|"]
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for one in cases:
        both = one.masks.any(1)
        for marker, method in zip(MARKERS, FIGURE_METHODS, strict=True):
            maps = explained(one, method, "difference").maps[:, 0]
            found = segmentation(maps, both)
            accuracy, precision = 100 * found.pixel_accuracy, 100 * found.both_average_precision
            rows.append(f"| {one.name} | {method} | {interval(accuracy)} | {interval(precision)} |")
            point = axes.plot(accuracy.mean(), precision.mean(), marker, color=COLOURS[one.name], ms=8)[0]
            point.set_markeredgecolor("white")
    axes.set_xlabel("pixel accuracy, %")
    axes.set_ylabel("mean average precision, %")
    shapes = [
        matplotlib.lines.Line2D([], [], ls="", marker=marker, color="black", label=method)
        for marker, method in zip(MARKERS, FIGURE_METHODS, strict=True)
    ]
    colours = [matplotlib.patches.Patch(color=COLOURS[one.name], label=one.name) for one in cases]
    axes.legend(handles=[*colours, *shapes], fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    save(figure, path)
    covered = float(cases[0].masks.any(1).double().mean())
    return "\n".join(
        [
            "## Segmentation by method",
            "",
            f"![Pixel accuracy and mAP of seven methods on three networks](images/{path.name})",
            "",
            "As the paper's Fig. 4(a): the map of the class t of Alg. 2 (Δ) as a segmentation of the two digits. "
            "Methods with signed maps at 0, others at the mean of the map. The digits cover "
            f"{covered:.0%} of the pixels: a map that finds nothing has a pixel accuracy of {1 - covered:.0%}.",
            "",
            *rows,
        ]
    )


# --- Figure 4b and 5 ----------------------------------------------------------------------------------------


def probes_of(one: Case, count: int) -> dict[str, LinearProbe]:
    """A linear probe of each block, fitted to the digits of labelled scenes by the training writers."""
    drawn = digit_scenes(count, seed=PROBE_SEED, size=DIGITS_SIZE)
    data = [*batches(drawn)]
    return {block: linear_probe(one.model, block, data, steps=300) for block in BLOCKS}


def batches(scenes: Scenes) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and which digits they show."""
    return zip(as_input(scenes.images).split(256), scenes.multi_hot().split(256), strict=True)


def figure_4b(cases: Sequence[Case], probes: dict[str, dict[str, LinearProbe]], path: Path) -> str:
    """Segmentation of each digit by the probe of each block, and what the probe finds."""
    rows = ["| network | layer | digits found, % | pixel accuracy, % | mAP, % | own digit, % |", "|---" * 6 + "|"]
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    panels = figure.subplots(1, 3)
    scenes = digit_scenes(len(cases[0].images), split="test", seed=SEED, size=DIGITS_SIZE)
    images, masks = as_input(scenes.images), scenes.masks
    for one in cases:
        lines: list[list[Tensor]] = [[], [], []]
        for block, probe in probes[one.name].items():
            explainer = agf_fx.compile(probe)
            parts = zip(images.split(BATCH), scenes.labels.split(BATCH), strict=True)
            found = [explainer.explain(image, label) for image, label in parts]
            maps, logits = (torch.cat([getattr(r, name) for r in found]) for name in ("maps", "logits"))
            told = (logits.topk(2, 1).indices[:, :, None] == scenes.labels[:, None]).any(1).double().mean(1)
            measured = segmentation(maps.flatten(0, 1), masks.flatten(0, 1))
            accuracy, precision = (
                value.reshape(-1, 2).mean(1) for value in (measured.pixel_accuracy, measured.both_average_precision)
            )
            positive = maps.clamp_min(0)
            own, both = ((positive * part).sum((2, 3)) for part in (masks, masks.any(1, keepdim=True)))
            share = torch.where(both > 0, own / both.clamp_min(1e-30), 0.5).double().mean(1)
            values = [100 * told, 100 * accuracy, 100 * precision]
            rows.append(
                f"| {one.name} | {block} | " + " | ".join(interval(value) for value in (*values, 100 * share)) + " |"
            )
            for line, value in zip(lines, values, strict=True):
                line.append(value)
        for axes, line in zip(panels, lines, strict=True):
            draw(axes, line, one.name)
    for axes, title in zip(panels, ("digits found, %", "pixel accuracy, %", "mAP, %"), strict=True):
        axes.set_title(title, fontsize=10)
        axes.set_xticks(range(1, 6))
        axes.set_xlabel("block")
    panels[0].legend(fontsize=8)
    save(figure, path)
    return "\n".join(
        [
            "## Segmentation by layer",
            "",
            f"![Digits found, pixel accuracy and mAP of linear probes of five blocks](images/{path.name})",
            "",
            "As the paper's Fig. 4(b): a linear probe of each block, fitted to labelled scenes. *Digits found*: the "
            "share of digits among the two likeliest classes (20 % by chance). Then AGF for each of the two digits, "
            "against its own mask; *own digit*: how much of the positive relevance on digits lies on the explained "
            "one (50 % by chance).",
            "",
            *rows,
        ]
    )


def draw(axes: matplotlib.axes.Axes, line: list[Tensor], name: str) -> None:
    """A curve over blocks with its intervals."""
    blocks = range(1, len(line) + 1)
    low, high = np.array([bounds(value) for value in line]).T
    axes.plot(blocks, [float(value.mean()) for value in line], "o-", color=COLOURS[name], label=name, ms=4)
    axes.fill_between(blocks, low, high, color=COLOURS[name], alpha=0.2, lw=0)


def figure_5(probes: dict[str, dict[str, LinearProbe]], path: Path) -> None:
    """Maps of both digits of a bundled scene after each block, of the two networks trained without labels."""
    scene = sample_scenes()[0]
    image = scene.image()
    shown = (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    rows = []
    for name in ("rotation", "clusters"):
        found = {
            block: agf_fx.compile(probe).explain(as_input(image[None]), torch.tensor([scene.labels]))
            for block, probe in probes[name].items()
        }
        for k, label in enumerate(scene.labels):
            panels = [
                Panel(f"{block}: {label}", map_panel(shown, result.maps[0, k].numpy(), min_side=128))
                for block, result in found.items()
            ]
            rows.append([Panel(name, picture_panel(shown, min_side=128)), *panels])
    with atomic_write(path) as file:
        contact_sheet(rows).quantize(128).save(file, "PNG", optimize=True)


# --- Numbers and files --------------------------------------------------------------------------------------


def bounds(values: Tensor) -> tuple[float, float]:
    """A 95 % bootstrap interval of the mean over scenes, by percentiles."""
    known = values[~values.isnan()].double().numpy()
    drawn = np.random.default_rng(0).integers(len(known), size=(RESAMPLES, len(known)))
    low, high = np.percentile(known[drawn].mean(1), [2.5, 97.5])
    return float(low), float(high)


def interval(values: Tensor) -> str:
    """The mean with its interval."""
    low, high = bounds(values)
    return f"{float(values.nanmean()):.1f} ({low:.1f} to {high:.1f})"


def as_input(images: Tensor) -> Tensor:
    """From [0, 1] to what the networks expect, (N, 3, S, S)."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (DIGITS_MEAN, DIGITS_STD))
    return (images - mean) / std


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=110)


def write_page(path: Path, measured: str) -> None:
    """Put what was measured below the mark of the page."""
    text = path.read_text(encoding="utf-8") if path.exists() else MARK
    kept = text.partition(MARK)[0]
    with atomic_write(path) as file:
        file.write(f"{kept}{MARK}\n\n{measured}\n".encode())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=300, help="held-out scenes")
    parser.add_argument("--bank", type=int, default=4_000, help="unlabelled scenes in the memory bank")
    parser.add_argument("--probed", type=int, default=4_000, help="labelled scenes that probes are fitted to")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of the page")
    return parser.parse_args()


if __name__ == "__main__":
    main()
