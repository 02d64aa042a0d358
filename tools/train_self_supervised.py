"""Train a small bundled network on generated scenes without their labels, and write its checkpoint and record.

    python tools/train_self_supervised.py digits-rotation
    python tools/train_self_supervised.py digits-clusters
    python tools/train_self_supervised.py digits-supervised
    python tools/train_self_supervised.py digits-clusters --measure    # the weights that are there, for their record

``digits-rotation`` tells by how many quarter turns a scene was rotated (Gidaris, Singh and Komodakis, ICLR 2018).
``digits-clusters`` tells clusters of scenes apart: Sinkhorn-Knopp assigns the scenes of a batch to clusters of equal
size by what the network says of one distorted view (Asano, Rupprecht and Vedaldi, ICLR 2020, "SeLa"), and the network
learns to say so of another view (Caron et al., NeurIPS 2020). No label of a scene reaches these two; those of the
held-out scenes are compared with the clusters for the record. ``digits-supervised`` is the same network trained with
labels. The same arguments on the same machine with the same number of threads give the same weights.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import (
    affine_grid,
    binary_cross_entropy_with_logits,
    cross_entropy,
    grid_sample,
    log_softmax,
    one_hot,
)

from agf_fx.atomic import atomic_write, save_json
from agf_fx.data import Scenes, digit_scenes
from agf_fx.models.checkpoint import load_checkpoint
from agf_fx.models.digits import DIGITS_MEAN, DIGITS_SIZE, DIGITS_STD
from agf_fx.models.unlabelled import CLUSTERS, ROTATIONS, digits_clusters, digits_rotation, digits_supervised
from agf_fx.ssl import linear_probe

ASSETS = Path(__file__).resolve().parents[1] / "agf_fx" / "assets"
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "digits-rotation": digits_rotation,
    "digits-clusters": digits_clusters,
    "digits-supervised": digits_supervised,
}
BATCHES = {"digits-rotation": 32, "digits-clusters": 256, "digits-supervised": 64}  # scenes
EPOCHS = {"digits-rotation": 8, "digits-clusters": 8, "digits-supervised": 12}
SCENES = 8_000  # fresh ones, an epoch
HELD_OUT, HELD_OUT_SEED = 2_000, 1
PROBED, PROBED_SEED = 4_000, 99  # scenes with labels that probes are fitted to
PEAK_LEARNING_RATE = 4e-3
WEIGHT_DECAY = 0.02
SHARPNESS = 5.0  # of assignments: the inverse of the entropy's weight in the transport problem
SINKHORN_STEPS = 20


def main() -> None:
    """Train the network named on the command line and write ``<out>/<name>.safetensors`` and ``.json``."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(args.seed)
    model = NETWORKS[args.network]()
    weights, card = args.out / f"{args.network}.safetensors", args.out / f"{args.network}.json"
    if args.measure:
        load_checkpoint(model, weights)
        record = json.loads(card.read_text())
    else:
        start = time.perf_counter()
        train(args.network, model, epochs=args.epochs, scenes=args.scenes, seed=args.seed)
        record = {
            "network": args.network,
            "parameters": sum(p.numel() for p in model.parameters()),
            "epochs": args.epochs,
            "scenes_per_epoch": args.scenes,
            "seed": args.seed,
            "seconds": round(time.perf_counter() - start),
            "threads": args.threads,
            "torch": str(torch.__version__),
        }
        args.out.mkdir(parents=True, exist_ok=True)
        with atomic_write(weights) as file:
            file.write(save({name: value.contiguous() for name, value in model.state_dict().items()}))
        save_json(card, record)
    held_out = digit_scenes(HELD_OUT, split="test", seed=HELD_OUT_SEED, size=DIGITS_SIZE)
    record |= {"held_out_scenes": HELD_OUT, **MEASURES[args.network](model.eval(), held_out)}
    record["probes"] = probe_record(model, held_out)
    save_json(card, record)
    print(json.dumps(record, indent=2))


def train(network: str, model: nn.Module, *, epochs: int, scenes: int, seed: int) -> None:
    """Train ``model`` in place for ``epochs`` epochs of ``scenes`` fresh scenes; prints a line an epoch."""
    size, generator = BATCHES[network], torch.Generator().manual_seed(seed)
    model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=WEIGHT_DECAY)
    steps = epochs * (scenes // size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=steps)
    for epoch in range(epochs):
        start = time.perf_counter()
        drawn = digit_scenes(scenes, seed=seed * 10_000 + 500 + epoch, size=DIGITS_SIZE)
        losses = []
        for first in range(0, scenes - size + 1, size):
            batch = slice(first, first + size)
            if network == "digits-supervised":
                loss = supervised_loss(model, drawn.images[batch], drawn.multi_hot()[batch])
            else:
                loss = UNLABELLED[network](model, drawn.images[batch], generator)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
        mean = float(torch.stack(losses).mean())
        print(f"epoch {epoch + 1:2d}/{epochs}  loss {mean:.4f}  {time.perf_counter() - start:.0f} s", flush=True)
    model.to(memory_format=torch.contiguous_format)


def rotation_loss(model: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
    """Cross-entropy of the four quarter turns of every scene (M, 3, S, S)."""
    turned, turns = all_turns(images)
    return cross_entropy(model(as_input(turned)), turns)


def cluster_loss(model: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
    """Cross-entropy of each of two views with the clusters to which the other one assigns the scenes (M, 3, S, S)."""
    views = torch.cat([distorted(images, generator), distorted(images, generator)])
    logits = model(as_input(views))
    one, other = (balanced_clusters(half) for half in logits.detach().chunk(2))
    return cross_entropy(logits, torch.cat([other, one]))


def supervised_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of the ten digits, (M, 10)."""
    return binary_cross_entropy_with_logits(model(as_input(images)), labels)


UNLABELLED = {"digits-rotation": rotation_loss, "digits-clusters": cluster_loss}


def all_turns(images: Tensor) -> tuple[Tensor, Tensor]:
    """Images (M, 3, S, S) turned by 0 to 3 quarters, (4M, 3, S, S), and by how many, int64 (4M,)."""
    turned = torch.cat([torch.rot90(images, turn, (2, 3)) for turn in range(len(ROTATIONS))])
    return turned, torch.arange(len(ROTATIONS)).repeat_interleave(len(images))


@torch.no_grad()
def balanced_clusters(logits: Tensor) -> Tensor:
    """Assign a batch to clusters of equal size: int64 (M,), of logits (M, clusters).

    The plan Q of optimal transport between scenes and clusters, of uniform marginals, that maximises <Q, log p> with an
    entropy term, by Sinkhorn and Knopp's scaling; a scene belongs to the cluster that gets most of it.
    """
    plan = SHARPNESS * log_softmax(logits.double(), dim=1)
    for _ in range(SINKHORN_STEPS):
        plan = plan - plan.logsumexp(0, keepdim=True)
        plan = plan - plan.logsumexp(1, keepdim=True)
    return plan.argmax(1)


def distorted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Another view of each image (M, 3, S, S): what is left of a scene is the shapes of what is light in it.

    Turned a little, scaled, and moved anywhere, with what leaves at one side coming in at the other; colours mixed,
    contrast and brightness changed; and behind it, where it is darker, another scene of the batch at half its light.
    """
    count = len(images)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    angle, scale = uniform(-0.25, 0.25), uniform(0.8, 1.2)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2) * scale.view(-1, 1, 1)
    grid = affine_grid(torch.cat([turn, uniform(-1, 1, 2, 1)], 2), list(images.shape), align_corners=False)
    views = grid_sample(images, (grid + 1) % 2 - 1, padding_mode="border", align_corners=False)
    mixed = uniform(0, 1, 3, 3)
    mixed = mixed / mixed.sum(2, keepdim=True)  # every new channel is a mean of the old ones, which keeps digits light
    views = torch.einsum("mij,mjhw->mihw", mixed, views).clamp_min(1e-4) ** uniform(0.8, 2.0, 1, 1, 1)
    other = views[torch.randperm(count, generator=generator)]
    views = torch.maximum(views, 0.5 * other) * uniform(0.7, 1.2, 1, 1, 1)
    noise = torch.randn(views.shape, generator=generator)
    return (views + uniform(0, 0.1, 1, 1, 1) * noise).clamp(0, 1)


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """(N, classes) of images in [0, 1]."""
    return torch.cat([model(as_input(part)) for part in images.split(256)])


def rotation_record(model: nn.Module, scenes: Scenes) -> dict[str, float]:
    """The share of right answers about four turns of each held-out scene."""
    turned, turns = all_turns(scenes.images)
    return {"pretext_accuracy": _share(logits_of(model, turned).argmax(1) == turns)}


def cluster_record(model: nn.Module, scenes: Scenes) -> dict[str, float]:
    """How often two views of a scene fall into one cluster, how evenly clusters are used, what they tell of digits."""
    generator = torch.Generator().manual_seed(HELD_OUT_SEED)
    one, other = (logits_of(model, distorted(scenes.images, generator)).argmax(1) for _ in range(2))
    found = one_hot(logits_of(model, scenes.images).argmax(1), len(CLUSTERS)).double()
    joint = found.T @ scenes.multi_hot().double() / (2 * len(scenes))  # of a cluster and a digit of the scene
    apart = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    information = float((joint * (joint / apart.clamp_min(1e-12)).clamp_min(1e-12).log()).sum())
    used = found.mean(0)
    return {
        "pretext_accuracy": _share(one == other),
        "cluster_perplexity": round(math.exp(float(torch.special.entr(used).sum())), 2),
        "nats_about_digits": round(information, 4),
    }


def supervised_record(model: nn.Module, scenes: Scenes) -> dict[str, float]:
    """Shares of right labels (of 10 a scene), and of scenes with all ten labels right."""
    right = (logits_of(model, scenes.images) > 0) == scenes.multi_hot().bool()
    return {"label_accuracy": _share(right), "scene_accuracy": _share(right.all(1))}


def probe_record(model: nn.Module, held_out: Scenes) -> dict[str, float]:
    """What linear probes of the five blocks, fitted with labels, find of the two digits of held-out scenes.

    The share of digits that are among the two likeliest classes; 0.2 by chance.
    """
    fitted = digit_scenes(PROBED, seed=PROBED_SEED, size=DIGITS_SIZE)
    data = [*zip(as_input(fitted.images).split(256), fitted.multi_hot().split(256), strict=True)]
    found = {}
    for number in range(1, 6):
        probe = linear_probe(model, f"block{number}", data, steps=300)
        likeliest = logits_of(probe, held_out.images).topk(2, dim=1).indices
        found[f"block{number}"] = _share((likeliest[:, :, None] == held_out.labels[:, None]).any(1))
    return found


MEASURES = {
    "digits-rotation": rotation_record,
    "digits-clusters": cluster_record,
    "digits-supervised": supervised_record,
}


def as_input(images: Tensor) -> Tensor:
    """From [0, 1] to what the networks expect, (N, 3, S, S)."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (DIGITS_MEAN, DIGITS_STD))
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def _share(right: Tensor) -> float:
    return round(float(right.double().mean()), 5)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--measure", action="store_true", help="train nothing: measure the weights in --out")
    parser.add_argument("--epochs", type=int, help=f"default: {EPOCHS}")
    parser.add_argument("--scenes", type=int, default=SCENES, help="fresh scenes an epoch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder of the checkpoint and its record")
    args = parser.parse_args()
    args.epochs = args.epochs or EPOCHS[args.network]
    return args


if __name__ == "__main__":
    main()
