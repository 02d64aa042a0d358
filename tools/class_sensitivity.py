"""Measure class sensitivity of methods on held-out scenes: rank correlations between maps; prints a Markdown table.

python tools/class_sensitivity.py [--scenes 100] [--seed 2] [--models digits-vgg digits-resnet] [--methods agf ...]
"""

from __future__ import annotations

import argparse
import warnings

import torch

import agf_fx
from agf_fx.data import digit_scenes
from agf_fx.evaluate.sensitivity import class_sensitivity
from agf_fx.models.digits import DIGITS_MEAN, DIGITS_STD
from agf_fx.runtime.degenerate import DegenerateMapWarning

METHODS = ("agf", "gradient", "gradient-x-input", "lrp-epsilon", "epsilon-plus", "gradcam", "linear-approx", "normgrad")


def main() -> None:
    """Print one row per network and method, as it is and behind a step of meta-saliency."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--lr", type=float, default=0.001)
    parser.add_argument("--models", nargs="+", default=["digits-vgg", "digits-resnet"])
    parser.add_argument("--methods", nargs="+", default=METHODS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", DegenerateMapWarning)
    scenes = digit_scenes(arguments.scenes, split="test", seed=arguments.seed)
    mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (DIGITS_MEAN, DIGITS_STD))
    images = (scenes.images - mean) / std
    print("| network | method | images | correlation | constant maps | meta | constant maps |")
    print("|---|---|---|---|---|---|---|")
    for name in arguments.models:
        model = agf_fx.load_model(name).model
        for method in arguments.methods:
            ways = (method, agf_fx.meta(method, arguments.lr))
            found = [class_sensitivity(agf_fx.compile(model, method=way), images.split(50)) for way in ways]
            cells = (f"{float(each.nanmean()):.2f} | {int(each.isnan().sum())}" for each in found)
            print(f"| {name} | {method} | {len(images)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
