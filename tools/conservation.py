"""How much relevance LRP loses on the way to the images where there are no biases, which would take a part of it.

python tools/conservation.py [--models resnet18 ...] [--methods lrp-epsilon ...] [--size 64]

A Markdown table of |sum of the map - logit| / |logit|, the largest over two images and two targets, in float64 and with
the stabiliser that ``--epsilon`` names. The networks have random weights and neither biases nor running means.
Variances of norms are those of the images, so that values keep their size with depth as in trained networks.
"""

from __future__ import annotations

import argparse
from dataclasses import fields

import torch
import torchvision
from torch import Tensor, nn

import agf_fx
from agf_fx.methods import REGISTRY

NETWORKS = ("resnet18", "resnet50", "densenet121", "mobilenet_v2", "efficientnet_b0", "regnet_y_400mf")
METHODS = (
    "lrp-0",
    "lrp-epsilon",
    "lrp-alphabeta",
    "lrp-alphabeta lossless",
    "lrp-gamma",
    "lrp-zplus",
    "lrp-zplus lossless",
    "lrp-flat",
    "lrp-w2",
    "epsilon-plus",
    "epsilon-plus-flat",
    "epsilon-plus-flat lossless",
    "epsilon-alpha2-beta1-flat",
    "epsilon-alpha2-beta1-flat lossless",
    "epsilon-gamma-box",
    "excitation-backprop",
    "excitation-backprop lossless",
    "rap",
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=NETWORKS)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epsilon", type=float, default=1e-12)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print("| method |", " | ".join(arguments.models), "|")
    print("|---|" + "---|" * len(arguments.models))
    torch.manual_seed(arguments.seed)
    images = torch.randn(2, 3, arguments.size, arguments.size, dtype=torch.float64)
    models = [without_biases(name, arguments.seed, images) for name in arguments.models]
    for method in arguments.methods:
        losses = [loss(model, method, images, arguments.epsilon) for model in models]
        print(f"| {method} | {' | '.join(f'{found:.1e}' for found in losses)} |", flush=True)


def without_biases(name: str, seed: int, images: Tensor) -> nn.Module:
    """A network with random weights and no biases, whose norms have the variances of ``images``."""
    torch.manual_seed(seed)
    model = torchvision.models.get_model(name, weights=None).double()
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("bias"):
            nn.init.zeros_(parameter)
    for module in model.modules():
        if isinstance(module, nn.Dropout | torchvision.ops.StochasticDepth):
            module.p = 0.0
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(_set_variance)
            module.eval()
    with torch.no_grad():
        model(images)
    for module in model.modules():
        module._forward_pre_hooks.clear()
    return model.eval()


def _set_variance(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
    """The mean square of every channel, as there is no running mean."""
    norm.running_var.copy_(inputs[0].square().mean((0, 2, 3)))


def loss(model: nn.Module, method: str, images: Tensor, epsilon: float) -> float:
    """The largest |sum of the map - logit| / |logit|."""
    wanted = {"epsilon": epsilon, "lossless": method.endswith("lossless")}
    method = method.removesuffix(" lossless")
    known = {field.name for field in fields(REGISTRY[method].options)}
    options = {name: value for name, value in wanted.items() if name in known}
    result = agf_fx.compile(model, method=method, options=options).explain(images, top_k=2)
    logits = result.logits.gather(1, result.target)
    return float(((result.maps.sum((2, 3)) - logits) / logits).abs().max())


if __name__ == "__main__":
    main()
