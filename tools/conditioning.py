"""How a sum should hand on its relevance: shares of the sum ("z") against sizes of its terms ("ratio").

python tools/conditioning.py [--scenes 400] [--seed 2] [--merges z ratio auto]

Three Markdown tables. Class-specificity on scenes of two digits by held-out writers, each explained for either digit;
perturbation of those scenes; and float32 against float64, on them and on noise for untrained torchvision networks.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
import torchvision
from torch import Tensor, nn

import agf_fx
from agf_fx.data import digit_scenes
from agf_fx.evaluate.localisation import localisation
from agf_fx.models.digits import DIGITS_MEAN, DIGITS_STD
from agf_fx.runtime.precision import relative_difference

TRAINED = ("digits-basic", "digits-resnet")
UNTRAINED = ("resnet18", "resnet34")
SHARES = (0.02, 0.05, 0.1, 0.2)  # of the pixels, replaced most relevant first
BATCH = 50


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--merges", nargs="+", default=["z", "ratio", "auto"])
    parser.add_argument("--models", nargs="+", default=TRAINED)
    parser.add_argument("--untrained-seeds", type=int, default=5, help="seeds of each untrained network")
    arguments = parser.parse_args()
    scenes = digit_scenes(arguments.scenes, split="test", seed=arguments.seed)
    mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (DIGITS_MEAN, DIGITS_STD))
    images = (scenes.images - mean) / std

    print("| network | merge | own object gets more | own / (own + other) | peak on own object |", end="")
    print(" own probability left | other's probability left | float32, median | largest |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in arguments.models:
        model = agf_fx.load_model(name).model
        for merge in arguments.merges:
            maps = explained(model, images, scenes.labels, merge)
            exact = explained(model, images, scenes.labels, merge, precision="float64")
            found = localisation(maps, scenes.masks)
            own, other = perturbed(model, images, scenes.labels, maps)
            error = relative_difference(maps, exact).flatten()
            print(
                f"| {name} | {merge} | {found.own_wins:.1%} | {found.own_share:.3f} | {found.peak_on_own:.1%} "
                f"| {own:.3f} | {other:.3f} | {error.median():.1e} | {error.max():.1e} |",
                flush=True,
            )

    print("\n| untrained network, 67×85 | merge | float32, median | largest |\n|---|---|---|---|")
    for name in UNTRAINED:
        for merge in arguments.merges:
            errors = torch.cat([*untrained(name, merge, arguments.untrained_seeds)])
            print(f"| {name} | {merge} | {errors.median():.1e} | {errors.max():.1e} |", flush=True)


def explained(model: nn.Module, images: Tensor, labels: Tensor, merge: str, precision: str | None = None) -> Tensor:
    """Maps (N, 2, H, W) for either digit of each scene."""
    options = agf_fx.AGFOptions(merge=merge)
    explainer = agf_fx.compile(model, images[:1], options=options, precision=precision)
    batches = zip(images.split(BATCH), labels.split(BATCH), strict=True)
    return torch.cat([explainer(batch, classes) for batch, classes in batches])


@torch.no_grad()
def perturbed(model: nn.Module, images: Tensor, labels: Tensor, maps: Tensor) -> tuple[float, float]:
    """Mean probabilities of the explained digit and of the other one, while the map's strongest pixels are blurred.

    A map that marks the explained digit and nothing else makes the first small and leaves the second large. The mean is
    over maps and over the shares of pixels in ``SHARES``.
    """
    blurred = torchvision.transforms.functional.gaussian_blur(images, kernel_size=31, sigma=8.0)
    own, other = [], []
    for k in (0, 1):
        order = maps[:, k].flatten(1).argsort(1, descending=True)
        for share in SHARES:
            gone = torch.zeros_like(order, dtype=torch.bool)
            gone.scatter_(1, order[:, : round(share * order.shape[1])], True)
            mixed = torch.where(gone.reshape(-1, 1, *images.shape[2:]), blurred, images)
            probabilities = torch.cat([model(batch) for batch in mixed.split(BATCH)]).sigmoid().gather(1, labels)
            own.append(probabilities[:, k].mean())
            other.append(probabilities[:, 1 - k].mean())
    return float(torch.stack(own).mean()), float(torch.stack(other).mean())


def untrained(name: str, merge: str, seeds: int) -> Iterator[Tensor]:
    """Differences (M,) of float32 maps from float64's, for a few random networks on noise."""
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = getattr(torchvision.models, name)(weights=None).eval()
        images = torch.randn(4, 3, 67, 85)
        classes = torch.arange(4).reshape(4, 1)
        options = agf_fx.AGFOptions(merge=merge)
        single, double = (agf_fx.compile(model, options=options, precision=p) for p in ("float32", "float64"))
        yield relative_difference(single(images, classes), double(images, classes)).flatten()


if __name__ == "__main__":
    main()
