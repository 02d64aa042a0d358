"""Pictures of the saliency bias: what methods make of an object while it fades beside another one."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

import agf_fx
from agf_fx.atomic import atomic_write
from agf_fx.data import digit_scenes, sample_photographs
from agf_fx.evaluate.experiments.saliency import faded
from agf_fx.evaluate.imputation import mean_of_image, noisy_linear
from agf_fx.imaging.render import Panel, contact_sheet, map_panel, picture_panel
from agf_fx.models import class_index

METHODS = ("agf", "gradcam", "clrp", "rap", "lrp-alphabeta", "fullgrad", "integrated-gradients")
CONTRASTS = (1.0, 0.7, 0.5)
BESIDE = ("chelsea", "coffee")  # a salient picture, and one that fades
FAINT = "espresso"
SCENE, SEED = 12, 2
SIDE, MOST = 168, 128  # of panels; higher images are drawn at half their size


def draw(folder: Path) -> None:
    """Write ``saliency-photographs.jpg`` and ``saliency-digits.jpg``."""
    photographs(folder / "saliency-photographs.jpg")
    digits(folder / "saliency-digits.jpg")


def photographs(path: Path) -> None:
    """Two photographs side by side, the second of which fades to its mean."""
    loaded = agf_fx.load_model("efficientnet-lite0")
    pictures = {photo.name: photo.image() for photo in sample_photographs()}
    tiles = [loaded.preprocessing.prepare(pictures[name])[0] for name in BESIDE]
    rows = []
    for contrast in CONTRASTS:
        whole = torch.ones(1, *tiles[1].shape[1:], dtype=torch.bool)
        fainter = faded(tiles[1][None], whole, contrast, mean_of_image())
        rows.append(torch.cat([tiles[0][None], fainter], 3))
    sheet(path, loaded, rows, class_index(FAINT, loaded.class_names), FAINT)


def digits(path: Path) -> None:
    """A scene of two digits, the second of which fades into what is around it."""
    loaded = agf_fx.load_model("digits-resnet")
    scenes = digit_scenes(SCENE + 1, split="test", seed=SEED)
    mean, std = (torch.tensor(v).reshape(1, -1, 1, 1) for v in (loaded.preprocessing.mean, loaded.preprocessing.std))
    image, mask = (scenes.images[SCENE:] - mean) / std, scenes.masks[SCENE:, 1]
    target = int(scenes.labels[SCENE, 1])
    rows = [faded(image, mask, contrast, noisy_linear(noise=0.0)) for contrast in CONTRASTS]
    sheet(path, loaded, rows, target, f"{target}")


def sheet(path: Path, loaded: agf_fx.models.LoadedModel, rows: list[torch.Tensor], target: int, name: str) -> None:
    """A row for each image, with its maps for one class, each on a scale of its own."""
    mean, std = (torch.tensor(v).reshape(-1, 1, 1) for v in (loaded.preprocessing.mean, loaded.preprocessing.std))
    panels = []
    by = 2 if rows[0].shape[2] > MOST else 1
    for contrast, image in zip(CONTRASTS, rows, strict=True):
        pixels = (
            ((F.avg_pool2d(image, by)[0] * std + mean).clamp(0, 1) * 255)
            .round()
            .to(torch.uint8)
            .permute(1, 2, 0)
            .numpy()
        )
        logits = loaded.logits(image)
        chance = (logits.sigmoid() if loaded.multi_label else logits.softmax(1))[0, target]
        line = [
            Panel(
                f"{contrast:g}: {float(chance.detach()):.0%} {name}",
                picture_panel(pixels, min_side=SIDE if by == 1 else 1),
            )
        ]
        for method in METHODS:
            maps = agf_fx.compile(loaded.model, method=method)(image, target).detach().double()
            relevance = F.avg_pool2d(maps, by)[0].numpy()
            line.append(Panel(method, map_panel(pixels, relevance, min_side=SIDE if by == 1 else 1)))
        panels.append(line)
    picture: Image.Image = contact_sheet(panels)
    with atomic_write(path) as file:
        picture.save(file, "JPEG", quality=80, optimize=True)
