"""Fine-tune a torchvision classifier on the classes of PASCAL VOC 2012, several an image, for the paper's Tab. 3(b).

    python tools/train_voc.py /data/VOCdevkit --network vgg19 --device cuda --out out/voc-vgg19.safetensors

Starts at torchvision's ImageNet weights (``--weights none`` for random ones), puts a layer for 20 classes in the place
of the last one, and trains all layers with one sigmoid a class on the list ``train``; the list ``val`` is only looked
at to print the mean average precision of labels. The weights are written after every epoch. Mirrored pictures are the
only augmentation.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import save
from sklearn.metrics import average_precision_score
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader

import agf_fx
from agf_fx.atomic import atomic_write
from agf_fx.data.datasets import Dataset, open_dataset
from agf_fx.imaging.preprocess import Preprocessing
from agf_fx.models.load import LoadedModel

CLASSES = 20


def main(argv: list[str] | None = None) -> None:
    """Train, and write the weights after each epoch."""
    arguments = _arguments(argv)
    torch.manual_seed(arguments.seed)
    loaded = start(arguments.network, arguments.weights)
    model = loaded.model.to(arguments.device).train()
    splits = {name: open_dataset("voc2012", arguments.voc, split=name) for name in ("train", "val")}
    data = {
        name: DataLoader(
            Labelled(dataset, loaded.preprocessing, mirrored=name == "train"),
            batch_size=arguments.batch_size,
            shuffle=name == "train",
            num_workers=arguments.workers,
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


class Labelled(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Images as the network takes them, with a 1 for each class that they show."""

    def __init__(self, dataset: Dataset, preprocessing: Preprocessing, *, mirrored: bool) -> None:
        self._dataset, self._preprocessing, self._mirrored = dataset, preprocessing, mirrored

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        example = self._dataset[index]
        image, _ = self._preprocessing.prepare(example.image)
        if self._mirrored and torch.rand(()) < 0.5:
            image = image.flip(-1)
        label = torch.zeros(CLASSES)
        label[list(example.classes)] = 1
        return image, label


def train(
    model: nn.Module,
    data: DataLoader[tuple[Tensor, Tensor]],
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
def precision(model: nn.Module, data: DataLoader[tuple[Tensor, Tensor]], device: str) -> float:
    """The mean over classes that occur of the average precision of their labels."""
    model.eval()
    batches = [(model(images.to(device)).cpu(), labels) for images, labels in data]
    logits, labels = (torch.cat(parts).numpy() for parts in zip(*batches, strict=True))
    there = labels.any(0)
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
    main()
