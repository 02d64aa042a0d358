"""How far maps in other precisions are from float32 and float64, on the bundled scenes and networks.

python tools/precision.py

For each of the two strongest classes of every bundled scene: Spearman's rank correlation of the map with float32's, and
the largest difference relative to the map's largest entry.
"""

from __future__ import annotations

import torch
from torch import Tensor

import agf_fx
from agf_fx.data import sample_scenes
from agf_fx.runtime.precision import relative_difference


def main() -> None:
    """Print one row per network and precision."""
    print("| network | precision | rank correlation, lowest | median | difference, largest | median |")
    print("|---|---|---|---|---|---|")
    for name in ("digits-vgg", "digits-resnet", "digits-basic"):
        loaded = agf_fx.load_model(name)
        scenes = [loaded.preprocessing.prepare(agf_fx.read_image(scene.path))[0] for scene in sample_scenes()]
        images = torch.stack(scenes)
        single = agf_fx.compile(loaded.model).explain(images, top_k=2)
        for precision in ("float64", "bfloat16", "float16"):
            maps = agf_fx.compile(loaded.model, precision=precision)(images, single.target)
            ranks = rank_correlations(maps.flatten(0, 1), single.maps.flatten(0, 1))
            differences = relative_difference(maps, single.maps)
            print(
                f"| {name} | {precision} | {ranks.min():.6f} | {ranks.median():.6f} "
                f"| {differences.max():.1e} | {differences.median():.1e} |",
                flush=True,
            )


def rank_correlations(maps: Tensor, expected: Tensor) -> Tensor:
    """Spearman's correlation of each map (M, H, W) with its counterpart: (M,)."""
    ranks = [values.flatten(1).argsort(1).argsort(1).double() for values in (maps, expected)]
    return torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(*ranks, strict=True)])


if __name__ == "__main__":
    main()
