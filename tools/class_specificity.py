"""Measure class-specificity of the bundled networks on held-out scenes; prints a Markdown table.

python tools/class_specificity.py [--scenes 400] [--seed 2] [--models digits-vgg digits-resnet digits-basic]
"""

from __future__ import annotations

import argparse

import torch

import agf_fx
from agf_fx.data import digit_scenes
from agf_fx.evaluate.localisation import localisation
from agf_fx.models.digits import DIGITS_MEAN, DIGITS_STD

METHODS = ("agf", "gradient_x_input")


def main() -> None:
    """Print one row per network and method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--models", nargs="+", default=["digits-vgg", "digits-resnet", "digits-basic"])
    arguments = parser.parse_args()
    scenes = digit_scenes(arguments.scenes, split="test", seed=arguments.seed)
    mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (DIGITS_MEAN, DIGITS_STD))
    images = (scenes.images - mean) / std
    print("| network | method | maps | own object gets more | own / (own + other) | peak on own object |")
    print("|---|---|---|---|---|---|")
    for name in arguments.models:
        model = agf_fx.load_model(name).model
        for method in METHODS:
            explainer = agf_fx.compile(model, images[:1], method=method)
            batches = zip(images.split(50), scenes.labels.split(50), strict=True)
            maps = torch.cat([explainer(batch, labels) for batch, labels in batches])
            found = localisation(maps, scenes.masks)
            print(
                f"| {name} | {method} | {found.count} | {found.own_wins:.1%} | {found.own_share:.2f} "
                f"| {found.peak_on_own:.1%} |"
            )


if __name__ == "__main__":
    main()
