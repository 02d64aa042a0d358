"""Write the sample scenes that come with the package: images, masks and ``scenes.json``.

    python tools/make_sample_scenes.py

For each pair of classes in ``PAIRS``, takes the first scene in the handwriting of the held-out writers in
which both bundled networks find exactly the two digits, by a margin of at least ``MARGIN``. The same weights
give the same files.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from agf_fx.atomic import save_image, save_json
from agf_fx.data import Scenes, digit_scenes
from agf_fx.models.digits import (
    DIGITS_CLASSES,
    DIGITS_MEAN,
    DIGITS_SIZE,
    DIGITS_STD,
    digits_resnet,
    digits_vgg,
)

ASSETS = Path(__file__).resolve().parents[1] / "agf_fx" / "assets"
NETWORKS: dict[str, Callable[[], nn.Module]] = {"digits-vgg": digits_vgg, "digits-resnet": digits_resnet}
PAIRS = ((2, 6), (0, 4), (7, 8), (1, 3), (5, 0), (9, 2), (4, 3), (6, 7))  # each easily told apart
SEED = 7
CANDIDATES = 1_500
MARGIN = 2.0  # in logits


def main() -> None:
    """Choose the scenes and write ``<out>/scenes/*.png``, ``<out>/masks/*.png`` and ``<out>/scenes/scenes.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder for scenes/ and masks/")
    out: Path = parser.parse_args().out
    for name in ("scenes", "masks"):
        (out / name).mkdir(parents=True, exist_ok=True)
    candidates = digit_scenes(CANDIDATES, split="test", seed=SEED, size=DIGITS_SIZE)
    entries = [write_scene(out, candidates, position) for position in choose(candidates)]
    save_json(
        out / "scenes" / "scenes.json",
        {"split": "test", "seed": SEED, "class_names": list(DIGITS_CLASSES), "scenes": entries},
    )
    print(f"{len(entries)} scenes in {out}")


@torch.no_grad()
def choose(candidates: Scenes) -> list[int]:
    """For each of ``PAIRS``, the position of the first scene that both networks recognise with ``MARGIN``."""
    sign = 2 * candidates.multi_hot() - 1
    margins = torch.stack([(sign * logits(name, candidates.images)).amin(1) for name in NETWORKS]).amin(0)
    chosen = []
    for pair in PAIRS:
        found = (candidates.labels == torch.tensor(pair)).all(1) & (margins >= MARGIN)
        if not found.any():
            raise SystemExit(f"no scene of {pair} is recognised by both networks; draw more candidates")
        chosen.append(int(found.int().argmax()))
    return chosen


def logits(name: str, images: Tensor) -> Tensor:
    """Run a bundled network on images (N, 3, S, S) in [0, 1] and return logits (N, 10)."""
    model = NETWORKS[name]()
    model.load_state_dict(load_file(ASSETS / f"{name}.safetensors"))
    model.eval()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (DIGITS_MEAN, DIGITS_STD))
    return torch.cat([model((part - mean) / std) for part in images.split(256)])


def write_scene(folder: Path, scenes: Scenes, position: int) -> dict[str, object]:
    """Write one scene's image and its two masks (ink white) and return its entry of ``scenes.json``."""
    labels = scenes.labels[position].tolist()
    stem = "digits-{}-{}".format(*labels)
    save_image(folder / "scenes" / f"{stem}.png", Image.fromarray(eight_bit(scenes.images[position].permute(1, 2, 0))))
    masks = [f"{stem}.{label}.png" for label in labels]
    for name, mask in zip(masks, scenes.masks[position], strict=True):
        save_image(folder / "masks" / name, Image.fromarray(eight_bit(mask.float())))
    return {"image": f"{stem}.png", "masks": masks, "labels": labels, "index": position}


def eight_bit(values: Tensor) -> np.ndarray:
    """From [0, 1] to 0..255."""
    return (values * 255).round().to(torch.uint8).numpy()


if __name__ == "__main__":
    main()
