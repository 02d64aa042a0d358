"""Train a bundled digit network on generated scenes and write its checkpoint and training record.

    python tools/train_digits.py digits-vgg
    python tools/train_digits.py digits-resnet --epochs 10 --seed 0 --out agf_fx/assets

Each epoch draws fresh scenes in the handwriting of the training writers. The held-out writers are only looked
at to print the accuracy: no choice depends on it, and the weights written are those after the last epoch. The
same arguments on the same machine with the same number of threads give the same weights.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from agf_fx.atomic import atomic_write, save_json
from agf_fx.data import Scenes, digit_scenes
from agf_fx.models.digits import DIGITS_MEAN, DIGITS_SIZE, DIGITS_STD, digits_basic, digits_resnet, digits_vgg

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "digits-vgg": digits_vgg,
    "digits-resnet": digits_resnet,
    "digits-basic": digits_basic,
}
EPOCHS = {"digits-vgg": 14, "digits-resnet": 10, "digits-basic": 10}
ASSETS = Path(__file__).resolve().parents[1] / "agf_fx" / "assets"
BATCH = 64
PEAK_LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.02
ABSENT = 0.15  # probability that a training digit is left out, so that absence is learnt as well
HELD_OUT_SEED = 1


def main() -> None:
    """Train the network named on the command line and write ``<out>/<name>.safetensors`` and ``.json``."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(args.seed)
    model = NETWORKS[args.network]()
    held_out = digit_scenes(args.held_out, split="test", seed=HELD_OUT_SEED, size=DIGITS_SIZE)
    start = time.perf_counter()
    train(model, held_out, epochs=args.epochs, scenes=args.scenes, seed=args.seed)
    record = {
        "network": args.network,
        "parameters": sum(p.numel() for p in model.parameters()),
        **accuracies(model, held_out),
        "held_out_scenes": len(held_out),
        "held_out_seed": HELD_OUT_SEED,
        "epochs": args.epochs,
        "scenes_per_epoch": args.scenes,
        "seed": args.seed,
        "seconds": round(time.perf_counter() - start),
        "threads": args.threads,
        "torch": str(torch.__version__),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    with atomic_write(args.out / f"{args.network}.safetensors") as file:
        file.write(save(weights))
    save_json(args.out / f"{args.network}.json", record)
    print(json.dumps(record, indent=2))


def train(model: nn.Module, held_out: Scenes, *, epochs: int, scenes: int, seed: int) -> None:
    """Train ``model`` in place for ``epochs`` epochs of ``scenes`` fresh scenes; prints a line an epoch."""
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=WEIGHT_DECAY)
    steps = epochs * (scenes // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=steps)
    for epoch in range(epochs):
        start = time.perf_counter()
        # A seed of its own for each epoch of each run: scenes never come back.
        drawn = digit_scenes(scenes, seed=seed * 10_000 + epoch, size=DIGITS_SIZE, absent=ABSENT)
        loss = train_epoch(model, drawn, optimizer, schedule)
        found = accuracies(model, held_out)
        print(
            f"epoch {epoch + 1:2d}/{epochs}  loss {loss:.4f}  "
            f"held-out labels {found['label_accuracy']:.4f}  scenes {found['scene_accuracy']:.4f}  "
            f"{time.perf_counter() - start:.0f} s",
            flush=True,
        )


def train_epoch(
    model: nn.Module,
    drawn: Scenes,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> float:
    """Take one optimiser step a batch and return the mean loss (BCE with logits, averaged over labels)."""
    model.train()
    labels = drawn.multi_hot()
    losses = []
    for first in range(0, len(drawn) - BATCH + 1, BATCH):
        batch = slice(first, first + BATCH)
        loss = binary_cross_entropy_with_logits(model(normalise(drawn.images[batch])), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


@torch.no_grad()
def accuracies(model: nn.Module, scenes: Scenes) -> dict[str, float]:
    """Shares of right labels (of 10 a scene), and of scenes with all ten labels right."""
    model.eval()
    logits = torch.cat([model(normalise(images)) for images in scenes.images.split(256)])
    right = (logits > 0) == scenes.multi_hot().bool()
    return {
        "label_accuracy": round(float(right.float().mean()), 5),
        "scene_accuracy": round(float(right.all(1).float().mean()), 5),
    }


def normalise(images: Tensor) -> Tensor:
    """From [0, 1] to what the networks expect, (N, 3, S, S)."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (DIGITS_MEAN, DIGITS_STD))
    return (images - mean) / std


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--epochs", type=int, help=f"default: {EPOCHS}")
    parser.add_argument("--scenes", type=int, default=12_000, help="fresh training scenes an epoch")
    parser.add_argument("--held-out", type=int, default=2_000, help="scenes by other writers, for the record")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder of the checkpoint and its record")
    args = parser.parse_args()
    args.epochs = args.epochs or EPOCHS[args.network]
    return args


if __name__ == "__main__":
    main()
