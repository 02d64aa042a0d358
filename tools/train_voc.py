"""Fine-tune a torchvision classifier on the classes of PASCAL VOC 2012, several an image, for the paper's Tab. 3(b).

    python tools/train_voc.py /data/VOCdevkit --network vgg19 --device cuda --out out/voc-vgg19.safetensors

Starts at torchvision's ImageNet weights (``--weights none`` for random ones), puts a layer for 20 classes in the place
of the last one, and trains all layers with one sigmoid a class on the list ``train``; the list ``val`` is only looked
at to print the mean average precision of labels. The weights are written after every epoch. Mirrored pictures are the
only augmentation. A picture that cannot be read, or whose mask cannot, is named on stderr and left out; where nothing
can be trained on, the exit status is 1.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save
from sklearn.metrics import average_precision_score
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

import agf_fx
from agf_fx.atomic import atomic_write
from agf_fx.data.datasets import Dataset, batches, open_dataset
from agf_fx.errors import AgfFxError, DatasetError
from agf_fx.imaging.preprocess import Preprocessing
from agf_fx.models.load import LoadedModel

CLASSES = 20


def main(argv: list[str] | None = None) -> int:
    """Train, and write the weights after each epoch; 1, and why on stderr, where that cannot be."""
    try:
        run(_arguments(argv))
    except (AgfFxError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run(arguments: argparse.Namespace) -> None:
    """Train, and write the weights after each epoch.

    Raises:
        DatasetError: a list or folder is missing, or no picture of a list can be read.
        ModelLoadError: there is no such network, or no such weights.
        OSError: the weights cannot be written.
    """
    torch.manual_seed(arguments.seed)
    splits = {name: open_dataset("voc2012", arguments.voc, split=name) for name in ("train", "val")}
    loaded = start(arguments.network, arguments.weights)
    model = loaded.model.to(arguments.device).train()
    data = {
        name: Labelled(
            dataset,
            loaded.preprocessing,
            shuffled=name == "train",
            size=arguments.batch_size,
            workers=arguments.workers,
        )
        for name, dataset in splits.items()
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=arguments.learning_rate, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, arguments.epochs * len(data["train"]))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for epoch in range(arguments.epochs):
        loss = train(model, data["train"], optimizer, schedule, arguments.device)
        found = precision(model, data["val"], arguments.device)
        print(f"epoch {epoch + 1}: loss {loss:.4f}, mean average precision on val {found:.4f}", file=sys.stderr)
        with atomic_write(arguments.out) as file:
            file.write(save({name: value.cpu().contiguous() for name, value in model.state_dict().items()}))


def start(network: str, weights: str) -> LoadedModel:
    """A network of torchvision with 20 outputs, and all other layers as trained on ImageNet, or random ones."""
    if weights == "none":
        return agf_fx.load_model(network, num_classes=CLASSES, untrained=True)
    trained, fresh = (
        agf_fx.load_model(network, weights=weights),
        agf_fx.load_model(network, num_classes=CLASSES, untrained=True),
    )
    state, shapes = trained.model.state_dict(), fresh.model.state_dict()
    shared = {name: value for name, value in state.items() if value.shape == shapes[name].shape}
    fresh.model.load_state_dict(shapes | shared)
    return fresh


class Labelled:
    """Batches of images as the network takes them (N, C, H, W), with a 1 for each class that they show (N, 20).

    Each pass reads the pictures anew: shuffled, and half of them mirrored, to train on; else in their order. What
    cannot be read is named on stderr in the first pass.
    """

    def __init__(
        self, dataset: Dataset, preprocessing: Preprocessing, *, shuffled: bool, size: int, workers: int
    ) -> None:
        self._dataset, self._preprocessing, self._shuffled = dataset, preprocessing, shuffled
        self._size, self._workers = size, workers
        self._named: set[str] = set()

    def __len__(self) -> int:
        """The most batches of a pass."""
        return -(-len(self._dataset) // self._size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        count, there = len(self._dataset), False
        order = torch.randperm(count).tolist() if self._shuffled else range(count)
        for batch in batches(self._dataset, self._preprocessing, size=self._size, workers=self._workers, indices=order):
            for name, error in batch.failures:
                if name not in self._named:
                    print(f"left out: {error}", file=sys.stderr)
                self._named.add(name)
            if not len(batch):
                continue
            there = True
            images = batch.images
            if self._shuffled:
                mirrored = torch.rand(len(batch)) < 0.5
                images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
            yield images, one_hot(batch.targets + 1, CLASSES + 1).sum(1)[:, 1:].float()
        if not there:
            raise DatasetError(f"{self._dataset.name}: no picture can be read; look at what is said of each")


def train(
    model: nn.Module,
    data: Labelled,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    device: str,
) -> float:
    """One epoch; the mean loss."""
    model.train()
    losses = []
    for images, labels in data:
        loss = binary_cross_entropy_with_logits(model(images.to(device)), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return sum(losses) / len(losses)


@torch.no_grad()
def precision(model: nn.Module, data: Labelled, device: str) -> float:
    """The mean over classes that occur of the average precision of their labels; NaN where none does."""
    model.eval()
    seen = [(model(images.to(device)).cpu(), labels) for images, labels in data]
    logits, labels = (torch.cat(parts).numpy() for parts in zip(*seen, strict=True))
    there = labels.any(0)
    if not there.any():
        return math.nan
    return float(average_precision_score(labels[:, there], logits[:, there], average="macro"))


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("voc", type=Path, help="VOCdevkit or VOC2012")
    parser.add_argument("--network", default="vgg19", help="of torchvision (default: vgg19)")
    parser.add_argument("--weights", default="DEFAULT", help="of torchvision, or none (default: DEFAULT)")
    parser.add_argument("--out", type=Path, default=Path("out/voc.safetensors"))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
