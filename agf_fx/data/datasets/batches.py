"""Batches of prepared examples, as networks and measures take them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from agf_fx.data.datasets.example import Dataset
from agf_fx.errors import ExampleError, ImageError, OptionsError
from agf_fx.imaging.preprocess import Preprocessing


@dataclass(frozen=True, eq=False)
class Batch:
    """N examples; N is less than asked for where some could not be read, and may be 0.

    Attributes:
        names: of the examples.
        images: float32 (N, C, H, W), normalised.
        targets: int64 (N, K), the classes of each example, then -1; K is the most that an example here has.
        masks: bool (N, K, H, W), the pixels of each target, False where there is none; of an object without a class,
            ``masks[:, 0]``, its target -1. None where the dataset has no masks.
        ignored: bool (N, H, W), pixels that count for nothing; None where no example has any.
        failures: name and error of the examples that could not be read.
    """

    names: tuple[str, ...]
    images: Tensor
    targets: Tensor
    masks: Tensor | None
    ignored: Tensor | None
    failures: tuple[tuple[str, ExampleError], ...]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class _Prepared:
    """An example as the network takes it: float32 (C, H, W), bool (K, H, W) or None, bool (1, H, W) or None."""

    name: str
    image: Tensor
    classes: tuple[int, ...]
    masks: Tensor | None
    ignored: Tensor | None


class _Preparing(TorchDataset):
    """Prepared examples, or the errors in their place."""

    def __init__(self, dataset: Dataset, preprocessing: Preprocessing) -> None:
        self.dataset, self.preprocessing = dataset, preprocessing

    def __getitem__(self, index: int) -> _Prepared | ExampleError:
        try:
            example = self.dataset[index]
            ignored = None if example.ignored is None else example.ignored[None]
            image, _ = self.preprocessing.prepare(example.image)
            masks, ignored = (
                None if part is None else self.preprocessing.prepare_masks(part) for part in (example.masks, ignored)
            )
            return _Prepared(example.name, image, example.classes, masks, ignored)
        except ExampleError as error:
            return error
        except ImageError as error:
            name = self.dataset.example_name(index)
            return ExampleError(f"{name}: {error}", name=name)


def batches(
    dataset: Dataset,
    preprocessing: Preprocessing,
    *,
    size: int = 32,
    workers: int = 0,
    limit: int | None = None,
    indices: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Read, preprocess and stack examples, in order.

    Args:
        dataset: from `open_dataset`, or one of your own.
        preprocessing: of the network.
        size: examples read for a batch.
        workers: processes that read; 0 reads in this one. Another number gives the same batches.
        limit: stop after this many examples.
        indices: positions of the examples to read, in this order; by default all. Negative ones count from the end.

    Yields:
        Batches that together hold every example asked for, or why it could not be read.

    Raises:
        OptionsError: a number is out of its range; or the preprocessing has no crop, and images of one batch differ
            in size.
    """
    for option, value, least in (("size", size, 1), ("workers", workers, 0), ("limit", limit, 0)):
        if value is not None and value < least:
            raise OptionsError(f"{option}={value!r} is not possible; give a whole number, {least} or more")
    count = len(dataset)
    chosen = range(count) if indices is None else [*indices]
    if outside := [index for index in chosen if not -count <= index < count]:
        raise OptionsError(f"there is no example {outside[0]} among {count}; give indices below {count}")
    loader = DataLoader(
        _Preparing(dataset, preprocessing),
        batch_size=size,
        sampler=[index % count for index in islice(chosen, limit)],
        num_workers=workers,
        collate_fn=list,
        generator=torch.Generator(),  # one of its own, so that the caller's random numbers stay what they are
    )
    return (_stack(items, preprocessing) for items in loader)


def _stack(items: list[_Prepared | ExampleError], preprocessing: Preprocessing) -> Batch:
    failures = tuple((item.name, item) for item in items if isinstance(item, ExampleError))
    read = [item for item in items if isinstance(item, _Prepared)]
    sizes = sorted({tuple(item.image.shape[1:]) for item in read})
    if len(sizes) > 1:
        (h, w), (other_h, other_w) = sizes[0], sizes[-1]
        raise OptionsError(
            f"images of {w}x{h} and {other_w}x{other_h} pixels make no batch; give the preprocessing a crop, or size=1"
        )
    shape = sizes[0] if sizes else preprocessing.crop or (0, 0)
    empty = torch.zeros(0, preprocessing.channels, *shape)
    most = max((max(len(item.classes), _count(item.masks)) for item in read), default=0)
    targets = [[*item.classes] + [-1] * (most - len(item.classes)) for item in read]
    return Batch(
        names=tuple(item.name for item in read),
        images=torch.stack([item.image for item in read]) if read else empty,
        targets=torch.from_numpy(np.array(targets, dtype=np.int64).reshape(len(read), most)),
        masks=_stack_masks([item.masks for item in read], most, shape),
        ignored=_stack_masks([item.ignored for item in read], 1, shape, squeeze=True),
        failures=failures,
    )


def _count(masks: Tensor | None) -> int:
    return 0 if masks is None else len(masks)


def _stack_masks(
    masks: list[Tensor | None], most: int, shape: tuple[int, ...], *, squeeze: bool = False
) -> Tensor | None:
    """Bool (N, most, H, W), or (N, H, W) of ``most`` 1; what an example lacks is False. None if no example has any."""
    if all(mask is None for mask in masks):
        return None
    stacked = torch.zeros(len(masks), most, *shape, dtype=torch.bool)
    for row, mask in zip(stacked, masks, strict=True):
        row[: _count(mask)] = False if mask is None else mask
    return stacked.squeeze(1) if squeeze else stacked
