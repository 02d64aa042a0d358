"""How much of a grid do strided layers leave in heat maps? Prints Markdown tables.

python tools/grid.py [--untrained resnet50 vgg11 convnext_tiny]

A layer of stride 2 whose input has cells of c pixels reads every second of them more often than the others: its grid
has the period 2c. So for each period p, |map| is averaged over cells of p/2 pixels, then over all cells in an even row
and an even column, even and odd, odd and even, odd and odd; the largest of these four means over the smallest is 1
where there is no grid.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

import agf_fx
from agf_fx.data import sample_photographs
from agf_fx.emit import interpret
from agf_fx.imaging.preprocess import Preprocessing

PERIODS = (2, 4, 8, 16, 32)
TRAINED = "efficientnet-lite0"


def main() -> None:
    """Print the grid of uniform strided kernels, then that of networks on photographs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--untrained", nargs="*", default=["resnet50", "vgg11", "convnext_tiny"])
    arguments = parser.parse_args()
    print("| kernel | stride | windows that read an even, an odd row | predicted | measured |\n|---|---|---|---|---|")
    for kernel in (1, 3, 5, 7):
        print(uniform_row(kernel))
    loaded = agf_fx.load_model(TRAINED)
    print(f"\n| convolution of {TRAINED} | kernel | period | its kernels | at its input | one convolution further |")
    print("|---|---|---|---|---|---|")
    for row in layer_rows(loaded.model, photographs(loaded.preprocessing)):
        print(row)
    print("\n| network | map |", " | ".join(f"period {period}" for period in PERIODS), "|")
    print("|---|---|" + "---|" * len(PERIODS))
    network_rows(f"{TRAINED}, trained", loaded.model, loaded.preprocessing)
    for name in arguments.untrained:
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, weights=None).eval()
        network_rows(f"{name}, untrained", model, loaded.preprocessing)


def grid(maps: Tensor, period: int) -> float:
    """Largest over smallest mean of |map| on the four kinds of cells; maps are (M, H, W)."""
    cells = avg_pool2d(maps.abs()[:, None].double(), period // 2)[:, 0]
    cells = cells / cells.mean((1, 2), keepdim=True)
    means = torch.stack([cells[:, row::2, column::2].mean() for row in (0, 1) for column in (0, 1)])
    return (means.max() / means.min()).item()


def photographs(preprocessing: Preprocessing) -> Tensor:
    """All sample photographs as a batch."""
    return torch.stack([preprocessing.prepare(photo.image())[0] for photo in sample_photographs()])


def network_rows(name: str, model: nn.Module, preprocessing: Preprocessing) -> None:
    """One row for the method's maps of the two likeliest classes of each photograph, one for the gradients' size."""
    images = photographs(preprocessing)
    result = agf_fx.compile(model).explain(images, top_k=2)
    gradients = gradient_sizes(model, images, result.target)
    for method, maps in (("agf", result.maps.flatten(0, 1)), ("gradient", gradients)):
        print(f"| {name} | {method} |", " | ".join(f"{grid(maps, period):.2f}" for period in PERIODS), "|", flush=True)


def gradient_sizes(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """Sum over colours of |d logit / d image| of each target, (N K, H, W)."""
    sizes = []
    for classes in target.T:
        images = images.detach().requires_grad_()
        chosen = model(images).gather(1, classes[:, None]).sum()
        sizes.append(torch.autograd.grad(chosen, images)[0].abs().sum(1))
    return torch.cat(sizes)


def layer_rows(model: nn.Module, images: Tensor) -> Iterator[str]:
    """For each convolution of stride 2: the grid of its trained |L|, and of the relevance in front of it.

    The latter once more behind the rule of the next convolution with a larger kernel than 1x1 on the way to the image.
    """
    found = inner_grids(model, images)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
    spatial = [name for name, layer in layers.items() if layer.kernel_size != (1, 1)]
    strided = [name for name in spatial if layers[name].stride == (2, 2)]
    for depth, name in enumerate(strided):
        kernel, position = "×".join(map(str, layers[name].kernel_size)), spatial.index(name)
        further = f"{found[spatial[position - 1]]:.2f}" if position else "none there"
        alone = kernel_grid(layers[name])
        yield f"| {name} | {kernel} | {2 ** (depth + 1)} | {alone:.2f} | {found[name]:.2f} | {further} |"


def kernel_grid(layer: nn.Conv2d) -> float:
    """How unevenly |L| hands equal relevance to the four kinds of cells."""
    taps = layer.weight.detach().abs()
    shares = (taps / taps.sum((1, 2, 3), keepdim=True)).nan_to_num()  # a channel that is off gets none
    cells = torch.stack([shares[..., row::2, column::2].sum() for row in (0, 1) for column in (0, 1)])
    return (cells.max() / cells.min()).item()


def inner_grids(model: nn.Module, images: Tensor) -> dict[str, float]:
    """Module path of each convolution -> grid (of period 2) of the relevance at its input."""
    explainer = agf_fx.compile(model)
    bound, weights, codes = explainer._request(images, None, None)
    canonical = bound.program.canonical
    streams = interpret(canonical, explainer._rules, images, codes, weights)
    grids = {}
    for node in canonical.calls:
        if node.target is torch.ops.aten.conv2d.default and min(node.meta["type"].shape[-2:]) > 1:
            relevance = streams.relevance[node.args[0].name][0]  # of the likeliest class, (N, C, H, W)
            grids[node.meta["module"]] = grid(relevance.sum(1), 2)
    return grids


def uniform_row(kernel: int, size: int = 64) -> str:
    """A depthwise kernel of ones, stride 2, on a grey image: coverage predicts |x| ⊙ |L|ᵀ(Φ / |L||x|) exactly."""
    odd = kernel // 2
    even = kernel - odd
    layer = nn.Conv2d(1, 1, kernel, stride=2, bias=False)
    nn.init.ones_(layer.weight)
    with torch.no_grad():
        image = torch.ones(1, 1, size, size)
        shape = layer(image).shape[2:]
        relevance = nn.functional.conv_transpose2d(1 / layer(image), layer.weight, stride=2)
    inside = relevance[0, 0][8 : 2 * shape[0] - 8, 8 : 2 * shape[1] - 8][None]
    predicted = f"{(even / odd) ** 2:.2f}" if odd else "∞"
    return f"| {kernel}×{kernel} | 2 | {even}, {odd} | {predicted} | {grid(inside, 2):.2f} |"


if __name__ == "__main__":
    main()
