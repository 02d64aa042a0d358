"""Linear probes: what a layer knows, as a network to compile like any other (Gur et al. 2021, Fig. 4b, Fig. 5)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from agf_fx.ambient import shielded, without_tf32
from agf_fx.errors import InputError, OptionsError
from agf_fx.frontend.capture import capture
from agf_fx.frontend.outputs import Output
from agf_fx.frontend.wrappers import unwrapped
from agf_fx.ir.channels import channel_dim
from agf_fx.ir.layers import output_of
from agf_fx.notices import warn
from agf_fx.options import require_number, require_whole
from agf_fx.runtime.inputs import as_batch, check_pixels
from agf_fx.ssl.cutting import truncated
from agf_fx.ssl.logistic import fit

_LABELS = "give classes (N,) as int64, or zeros and ones (N, classes) where an image has several"
_ENDED = 1e-4  # entry of the gradient: beyond it the search was not at its end


class ProbeWarning(UserWarning):
    """A probe is not the best there is."""


class LinearProbe(nn.Module):
    """A network up to one of its layers, and a linear classifier behind that: images (N, C, H, W) -> logits.

    Attributes:
        features: the network up to the layer; its parameters are those of the model, not copies.
        pool: from the layer's output to a vector for each image.
        classifier: the linear layer, the only one with weights of its own.
        layer: path of the layer's module.
        multi_label: whether classes do not exclude each other, so that probabilities are sigmoids.
        train_accuracy: the share of right answers on the data that it was fitted to: of images whose likeliest class is
            theirs, or with several labels, of labels (logit above 0 where the class is there).
        accuracy: the same on held-out data; None without.
    """

    def __init__(
        self, features: fx.GraphModule, pool: nn.Module, classifier: nn.Linear, layer: str, multi_label: bool
    ) -> None:
        super().__init__()
        self.features, self.pool, self.classifier = features, pool, classifier
        self.layer, self.multi_label = layer, multi_label
        self.train_accuracy: float | None = None
        self.accuracy: float | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes) for images as the model takes them."""
        return self.classifier(self.pool(self.features(images)))


def linear_probe(
    model: nn.Module,
    layer: str,
    data: Iterable[Any],
    *,
    held_out: Iterable[Any] | None = None,
    pool: int | tuple[int, int] | None = 1,
    classes: int | None = None,
    penalty: float = 1e-3,
    steps: int = 1000,
    output: Output = None,
    unknown_ops: str = "refuse",
) -> LinearProbe:
    """Fit a linear classifier to a layer's features, and return the network that ends with it.

    Logistic regression on standardised features (the standardisation is part of the returned weights): the minimum of
    the mean loss + penalty/2 · ‖W‖² is one point, which L-BFGS looks for from zero in float64, so nothing is drawn. It
    is that of scikit-learn's ``LogisticRegression(C=1 / (penalty * N))``.

    Args:
        model: a classifier, as `agf_fx.compile` takes it, such as one trained without labels. It is run in evaluation
            mode and not touched.
        layer: path of a module, such as ``"layer3"`` or ``"features.4"``, whose output is read.
        data: batches of images and labels, such as a DataLoader gives, or one batch ``(images, labels)``. Labels are
            classes (N,) int64, or zeros and ones (N, classes), where an image has several: then each class is told by
            a sigmoid of its own. Images are moved to the model; of one batch at a time activations are in memory.
        held_out: the same, to measure ``accuracy`` on.
        pool: how many positions features are averaged to: 1 for the mean of each channel, 4 or (4, 4) for a grid; None
            takes every position. Of tokens (N, T, D) only the mean or all.
        classes: how many; by default as the labels say.
        penalty: on the squared weights.
        steps: of the search, at most.
        output, unknown_ops: see `agf_fx.capture`.

    Returns:
        The probe, in evaluation mode, on the device and in the dtype of the model. It follows the model: what is done
        to the weights in front of the layer is done to those of the probe.

    Raises:
        InputError: no data, or of a shape that cannot be read, or labels of one class; or the model is in half
            precision, in which no classifier is fitted.
        NonFiniteInputError: NaN or infinite pixels.
        OptionsError: the model has no such layer, or it puts out several values; or an option out of its range.
        CaptureError, UnsupportedOpError: the model cannot be captured.
    """
    require_number("penalty", penalty, above=0)
    require_whole("steps", steps, 1)
    model = unwrapped(model)
    like = next((weight for weight in model.parameters() if weight.is_floating_point()), torch.empty(0))
    if like.dtype.itemsize < 4:
        raise InputError(
            f"the weights of {type(model).__name__} are {like.dtype}, too short to fit a classifier behind them; probe "
            "copy.deepcopy(model).float()."
        )
    batches = _batches(data, like)
    first = next(batches, None)
    if first is None:
        raise InputError("data gave no batch; give images with labels.")
    canonical = capture(model, first[0], output=output, unknown_ops=unknown_ops)
    node = output_of(canonical, layer)
    features = truncated(canonical, node, model)
    pooled = _pool(node, pool, layer)
    vectors, labels = _encoded(features, pooled, [first], batches)
    count = _count(labels, classes)
    with shielded(), torch.enable_grad():
        found = fit(vectors, labels, count, penalty, steps)
        classifier = nn.Linear(vectors.shape[1], count, device=like.device, dtype=like.dtype)
    if found.steepest > _ENDED:
        warn(
            f"the linear probe of {layer!r} is not at its best after {steps} steps (the gradient is up to "
            f"{found.steepest:.1g}); give more steps, or a larger penalty.",
            ProbeWarning,
        )
    with torch.no_grad():
        classifier.weight.copy_(found.weight)
        classifier.bias.copy_(found.bias)
    probe = LinearProbe(features, pooled, classifier, layer, labels.dim() == 2).eval()
    probe.train_accuracy = _right(vectors @ found.weight.T + found.bias, labels)
    if held_out is not None:
        theirs, expected = _encoded(features, pooled, [], _batches(held_out, like))
        most = expected.shape[1] if expected.dim() == 2 else int(expected.max()) + 1
        if expected.dim() != labels.dim() or most > count:
            raise InputError(
                f"held-out labels are {tuple(expected.shape)} of {most} classes, not like those of the data; {_LABELS}."
            )
        probe.accuracy = _right(theirs @ found.weight.T + found.bias, expected)
    return probe


class _OverTokens(nn.Module):
    """The mean over all dimensions but the first and that of the channels."""

    def __init__(self, dims: list[int]) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.dims)


class _ChannelsSecond(nn.Module):
    """(N, H, W, C) as (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)


def _pool(node: fx.Node, pool: int | tuple[int, int] | None, layer: str) -> nn.Module:
    """From a layer's output to vectors.

    Raises:
        OptionsError: the output is none of images, or ``pool`` says nothing of it.
    """
    kind, channels = node.meta["type"], channel_dim(node)
    grid = (pool, pool) if isinstance(pool, int) and not isinstance(pool, bool) else pool
    whole = isinstance(grid, tuple) and len(grid) == 2 and all(type(size) is int and size > 0 for size in grid)
    if grid is not None and not whole:
        raise OptionsError(f"pool is {pool!r}; give a whole number from 1, two of them, or None for all positions.")
    if not kind.batched or kind.rank < 2:
        raise OptionsError(f"layer {layer!r} puts out {kind}, which are no features of single images; name another.")
    if grid is None or kind.rank == 2:
        return nn.Flatten(1)
    if kind.rank == 4 and channels in (1, 3):
        moved = [_ChannelsSecond()] if channels == 3 else []
        return nn.Sequential(*moved, nn.AdaptiveAvgPool2d(grid), nn.Flatten(1))
    if grid != (1, 1) or channels is None:
        raise OptionsError(f"layer {layer!r} puts out {kind}, no map of positions; take pool=1 for means, or None.")
    return _OverTokens([dim for dim in range(1, kind.rank) if dim != channels])


def _batches(data: Iterable[Any], like: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Images as the model takes them, and their labels.

    Raises:
        InputError, NonFiniteInputError: something is neither; which batch.
    """
    one = isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)
    try:
        found = iter([data] if one and data[1].dim() < 3 else data)
    except TypeError as error:
        raise InputError(f"data is a {type(data).__name__}; give batches of images and labels.") from error
    for number, item in enumerate(found):
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise InputError(f"batch {number} of the data is no pair of images and labels; {_LABELS}.")
        images, labels = as_batch(item[0]), torch.as_tensor(item[1]).detach().cpu()
        if not images.is_floating_point():
            raise InputError(
                f"images of batch {number} are {images.dtype}; give floating ones, as the model takes them."
            )
        check_pixels(images)
        classes = labels.dim() == 1 and not labels.is_floating_point() and labels.dtype is not torch.bool
        several = labels.dim() == 2 and bool(((labels == 0) | (labels == 1)).all())
        if len(labels) != len(images) or not (classes or several) or (classes and bool((labels < 0).any())):
            raise InputError(
                f"labels of batch {number} are {labels.dtype} of shape {tuple(labels.shape)} for {len(images)} images; "
                f"{_LABELS}."
            )
        yield images.to(like), labels.long() if classes else labels.double()


def _encoded(
    features: nn.Module, pool: nn.Module, begun: list[tuple[Tensor, Tensor]], rest: Iterable[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Vectors (M, D) float64 and labels of all batches, on the CPU."""
    vectors, labels = [], []
    for part in (begun, rest):
        for images, told in part:
            with shielded(), without_tf32():
                vectors.append(pool(features(images)).cpu().double())
            labels.append(told)
    if not vectors:
        raise InputError("there is no held-out batch; give images with labels, or leave held_out out.")
    if len({(told.dim(), *told.shape[1:]) for told in labels}) > 1:
        raise InputError(f"labels differ in their form from batch to batch; {_LABELS}.")
    with shielded():  # of which gradients can be taken
        return torch.cat(vectors), torch.cat(labels)


def _count(labels: Tensor, classes: int | None) -> int:
    """How many classes there are.

    Raises:
        InputError: one alone is left to tell.
        OptionsError: labels lie outside of ``classes``.
    """
    least = labels.shape[1] if labels.dim() == 2 else int(labels.max()) + 1
    if classes is not None and (classes < least or (labels.dim() == 2 and classes != least)):
        raise OptionsError(f"classes={classes!r} and labels of {least} classes contradict each other.")
    if labels.dim() == 1 and len(labels.unique()) < 2:
        raise InputError("all labels are one class, so there is nothing to tell apart; give data of several.")
    return least if classes is None else classes


def _right(logits: Tensor, labels: Tensor) -> float:
    right = logits.argmax(1) == labels if labels.dim() == 1 else (logits > 0) == labels.bool()
    return float(right.double().mean())
