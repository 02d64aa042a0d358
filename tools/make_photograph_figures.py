"""Draw the photographs of the README: maps of several classes of one picture, beside Grad-CAM's and other methods'.

python tools/make_photograph_figures.py [--smooth 1] [--out docs/images]

Grad-CAM is Captum's (pip install captum), of the last convolution, its negative part cut off as published.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from write_photographs import ALONE, MOSAIC

import agf_fx
from agf_fx.atomic import atomic_write
from agf_fx.data import mosaic, sample_photographs
from agf_fx.imaging.render import Panel, contact_sheet, map_panel, picture_panel
from agf_fx.models import LoadedModel, class_index

MODEL = "efficientnet-lite0"
MOSAIC_CLASSES = ("Egyptian cat", "espresso", "tripod", "missile")
METHODS = ("agf", "gradcam", "normgrad", "fullgrad", "clrp", "epsilon-plus-flat", "integrated-gradients", "gradient")
SIDE = 224
IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"


def main() -> None:
    """Write ``photographs.jpg``, ``mosaic.jpg`` and ``methods.jpg``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smooth", type=float, default=1.0, help="blur of the maps of agf, in pixels")
    parser.add_argument("--out", type=Path, default=IMAGES)
    arguments = parser.parse_args()
    loaded = agf_fx.load_model(MODEL)
    pictures = {photograph.name: photograph.image() for photograph in sample_photographs()}
    rows = []
    for name in ALONE:
        shown, agf, grad_cam = explained(loaded, pictures[name], (), arguments.smooth)
        rows.append([Panel(name, picture_panel(shown, min_side=SIDE)), *agf, *grad_cam])
    save(arguments.out / "photographs.jpg", rows)
    shown, agf, grad_cam = explained(
        loaded, mosaic([pictures[name] for name in MOSAIC]), MOSAIC_CLASSES, arguments.smooth
    )
    blank = Panel("", Image.new("RGB", (SIDE, SIDE), "white"))
    save(
        arguments.out / "mosaic.jpg",
        [[Panel("four photographs", picture_panel(shown, min_side=SIDE)), *agf], [blank, *grad_cam]],
    )
    compared(loaded, mosaic([pictures[name] for name in MOSAIC]), arguments.out / "methods.jpg", arguments.smooth)


def compared(loaded: LoadedModel, picture: Image.Image, path: Path, smooth: float) -> None:
    """Write a sheet of methods across and classes down."""
    image, shown = loaded.preprocessing.prepare(picture)
    classes = [class_index(name, loaded.class_names) for name in MOSAIC_CLASSES[:3]]
    sheet = agf_fx.compare(loaded.model, image[None], METHODS, [classes])
    sheet.save(path, dpi=70, images=shown[None], class_names=loaded.class_names, smooth=smooth)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def explained(
    loaded: LoadedModel, picture: Image.Image, classes: tuple[str, ...], smooth: float
) -> tuple[np.ndarray, list[Panel], list[Panel]]:
    """What the network saw, and the panels of agf and of Grad-CAM for ``classes``, else for the two likeliest."""
    image, shown = loaded.preprocessing.prepare(picture)
    wanted = torch.tensor([[class_index(name, loaded.class_names) for name in classes]])
    result = agf_fx.compile(loaded.model).explain(image[None], **({"target": wanted} if classes else {"top_k": 2}))
    target = result.target[0].tolist()
    agf = [map_panel(shown, one.numpy(), min_side=SIDE, smooth=smooth) for one in result.maps[0]]
    cam = [map_panel(shown, grad_cam(loaded, image, index).numpy(), min_side=SIDE) for index in target]
    names = [loaded.class_names[index] for index in target]
    return shown, *(
        [Panel(f"{method}: {name}", panel) for name, panel in zip(names, panels, strict=True)]
        for method, panels in (("AGF", agf), ("Grad-CAM", cam))
    )


def grad_cam(loaded: LoadedModel, image: Tensor, target: int) -> Tensor:
    """Captum's Grad-CAM of one image (3, H, W), enlarged to (H, W)."""
    try:
        from captum.attr import LayerAttribution, LayerGradCam
    except ImportError as error:
        raise SystemExit("Grad-CAM is drawn with Captum: pip install captum") from error
    small = LayerGradCam(loaded.model, loaded.model.head).attribute(image[None], target, relu_attributions=True)
    return LayerAttribution.interpolate(small, tuple(image.shape[1:]), "bilinear")[0, 0].detach()


def save(path: Path, rows: list[list[Panel]]) -> None:
    """Write a sheet as JPEG."""
    with atomic_write(path) as file:
        contact_sheet(rows).save(file, "JPEG", quality=85, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
