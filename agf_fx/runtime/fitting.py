"""Fitting of patterns to data, in one pass over batches that keeps sums and no activations."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, fx, nn

from agf_fx.ambient import shielded, without_tf32
from agf_fx.errors import InputError
from agf_fx.frontend.capture import capture
from agf_fx.frontend.outputs import Output
from agf_fx.frontend.wrappers import unwrapped
from agf_fx.ir.facts import facts
from agf_fx.ir.graph import CanonicalGraph, tensor_at
from agf_fx.ir.vocabulary import TRANSPOSED_CONVOLUTIONS
from agf_fx.methods.patterns import ESTIMATORS, Patterns, has_two_regimes, layers_with_patterns, weights_digest
from agf_fx.notices import warn
from agf_fx.options import require_one_of
from agf_fx.passes.norm_canoniser import fold_norms
from agf_fx.pipeline import analyse
from agf_fx.runtime.inputs import batches_of

LONG = 5.0  # seconds left from which fitting says how far it is, on a terminal
_FEWEST = 2  # places that a neuron's pattern is estimated from
_NOTHING = 1e-12  # of the sizes of what it is the sum of, from which a variance is rounding
_REGIMES: dict[str, Callable[[Tensor], Tensor]] = {
    "above": lambda y: (y > 0).to(y.dtype),
    "below": lambda y: (y <= 0).to(y.dtype),
    "all": torch.ones_like,
}


class PatternsWarning(UserWarning):
    """Some neurons have no pattern."""


def fit_patterns(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    estimator: str = "two-component",
    output: Output = None,
    unknown_ops: str = "refuse",
) -> Patterns:
    """Estimate the pattern of every neuron of a model, for PatternNet and PatternAttribution.

    The pattern a of a neuron y = wᵀx + b is the direction in which its input varies with its output. With the
    ``"linear"`` estimator S_a, a = cov(x, y) / wᵀcov(x, y). With the ``"two-component"`` estimator S_a+- there are
    two, for outputs above 0 and others: a± = c± / wᵀc±, c± = E±[xy] - E±[x] E[y], where E± is the mean over places
    with outputs of that sign, and E over all (Kindermans et al. 2018). Either way wᵀa = 1. Of a
    convolution every patch of its input is a sample; a batch norm behind a layer is folded into its weights first.

    One pass, in float64 where the device has it; of one batch at a time the activations of the running layers are in
    memory, of all others sums as large as the weights.

    Args:
        model: a classifier, as `agf_fx.compile` takes it; it is explained in evaluation mode and not touched.
        loader: batches (N, C, H, W) of images, floating, or tuples or lists that begin with one, such as a DataLoader
            gives; N and the images' size may differ. They are moved to the device of the model and into its dtype.
        estimator: ``"two-component"`` or ``"linear"``.
        output: which part of the model's return value holds the logits; see `agf_fx.capture`.
        unknown_ops: what to do about operations without a rule; see `agf_fx.capture`.

    Returns:
        The patterns, in the dtype of the model, on the CPU.

    Raises:
        InputError: the loader is empty or gives something else than images, or fewer than two; or the model computes
            in half precision.
        NonFiniteInputError: images contain NaN or infinite pixels; the message says in which batch.
        OptionsError: an unknown estimator.
        CaptureError, UnsupportedOpError: see `agf_fx.capture`.
    """
    require_one_of("estimator", estimator, ESTIMATORS)
    model = unwrapped(model)
    like = next((weight for weight in model.parameters() if weight.is_floating_point()), torch.empty(0))
    if like.dtype.itemsize < 4:
        raise InputError(
            f"the weights of {type(model).__name__} are {like.dtype}, too short for statistics; fit patterns for "
            "copy.deepcopy(model).float(), whose weights have the same values: they fit this model, too."
        )
    graphs: dict[tuple[int, ...], CanonicalGraph] = {}
    sums: dict[str, _Sums] = {}
    images = 0
    total = len(loader) if isinstance(loader, Sized) else None
    for batch in _with_progress(batches_of(loader, like), total):
        shape = tuple(batch.shape[1:])
        if shape not in graphs:
            captured = capture(model, batch, output=output, unknown_ops=unknown_ops)
            graphs[shape] = fold_norms(analyse(captured))
        with shielded(), without_tf32():
            _collect(graphs[shape], model, batch, estimator, sums)
        images += len(batch)
    if images < _FEWEST:
        found = "one image" if images else "no batch"
        raise InputError(f"the loader gave {found}, and patterns are estimated from many; give a loader of a dataset.")
    patterns = _patterns(sums, estimator)
    paths = next(iter(graphs.values())).signature.weights.values()
    digest = weights_digest({path: tensor_at(model, path) for path in paths})
    return replace(patterns, weights=digest, images=images)


def _with_progress(batches: Iterator[Tensor], total: int | None) -> Iterator[Tensor]:
    """The same batches, with a bar on a terminal where they take long."""
    began = monotonic()
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        bar = None
        for done, batch in enumerate(batches):
            passed = monotonic() - began
            left = passed if total is None or not done else passed / done * (total - done)
            if bar is None and left > LONG:
                bar = progress.add_task("batches", total=total)
            if bar is not None:
                progress.update(bar, completed=done)
            yield batch


@dataclass
class _Regime:
    """Sums over the places where a neuron's output lies in a regime.

    Attributes:
        count: the number of places, (neurons,).
        x, xy: of the input and of the input times the output, shaped like the weight.
    """

    count: Any = 0
    x: Any = 0
    xy: Any = 0

    def add(self, call: fx.Node, x: Tensor, y: Tensor, inside: Tensor) -> None:
        """Add a batch: its input, its output, and 1 where that lies inside, 0 elsewhere."""
        places = [dim for dim in range(y.dim()) if dim != _neurons_dim(call)]
        self.count = self.count + _kept(inside.sum(places))
        for name, factor in (("x", inside), ("xy", inside * y)):
            setattr(self, name, getattr(self, name) + _kept(_products(call, x, factor)))


@dataclass
class _Sums:
    """Of one layer.

    Attributes:
        call: the layer in a canonical graph.
        weight: its weight, with a folded norm, in float64.
        places: the number of outputs of each neuron.
        y: the sum of these, (neurons,).
        regimes: by name.
    """

    call: fx.Node
    weight: Tensor
    regimes: dict[str, _Regime]
    places: int = 0
    y: Any = 0

    def add(self, call: fx.Node, x: Tensor, y: Tensor) -> None:
        """Add a batch: input and output of the layer, in the dtype of the sums."""
        dims = [dim for dim in range(y.dim()) if dim != _neurons_dim(call)]
        self.places += y.numel() // y.shape[_neurons_dim(call)]
        self.y = self.y + _kept(y.sum(dims))
        for name, regime in self.regimes.items():
            regime.add(call, x, y, _REGIMES[name](y))

    def pattern(self, name: str) -> tuple[Tensor, Tensor]:
        """The pattern of a regime, shaped like the weight, and which neurons have none: too few places, or w'c = 0."""
        regime = self.regimes[name]
        few = regime.count < _FEWEST
        count = _per_neuron(self.call, regime.count.clamp(min=1), self.weight)
        mean_y = _per_neuron(self.call, self.y / self.places, self.weight)
        covariance = (regime.xy - regime.x * mean_y) / count
        for dim, (before, after) in enumerate(facts(self.call).kernel_padding, 2):  # which read nothing
            covariance.narrow(dim, 0, before).zero_()
            covariance.narrow(dim, covariance.shape[dim] - after, after).zero_()
        products = self.weight * covariance
        variance = _over_inputs(self.call, products)
        few = few | (variance.abs() <= _NOTHING * _over_inputs(self.call, products.abs()))
        scale = torch.where(few, 0.0, 1 / torch.where(few, 1.0, variance))
        return covariance * _per_neuron(self.call, scale, self.weight), few


def _collect(
    canonical: CanonicalGraph, model: nn.Module, images: Tensor, estimator: str, sums: dict[str, _Sums]
) -> None:
    """Add what a batch says of every layer."""
    layers = {node: name for name, node in layers_with_patterns(canonical).items()}
    if not layers:
        raise InputError(f"{canonical.name} has no convolution or linear layer that could have a pattern.")
    signature = canonical.signature
    values = [
        tensor_at(model, signature.weights[node.name])
        if node.name in signature.weights
        else signature.constants[node.name].to(images.device)
        for node in canonical.graph.find_nodes(op="placeholder")[1:]
    ]

    def observe(node: fx.Node, x: Tensor, weight: Tensor, y: Tensor) -> None:
        exact = torch.float32 if y.device.type == "mps" else torch.float64
        if layers[node] not in sums:
            names = ["all"] if estimator == "linear" else ["above", *(["below"] if has_two_regimes(node) else [])]
            sums[layers[node]] = _Sums(node, _kept(weight.detach()), {name: _Regime() for name in names})
        sums[layers[node]].add(node, x.to(exact), y.to(exact))

    _Observer(canonical, layers, observe).run(images, *values)


class _Observer(fx.Interpreter):
    """Runs a graph, keeps what is still to be read, and shows input, weight and output of some calls."""

    def __init__(
        self,
        canonical: CanonicalGraph,
        layers: Mapping[fx.Node, str],
        observe: Callable[[fx.Node, Tensor, Tensor, Tensor], None],
    ) -> None:
        super().__init__(fx.GraphModule(nn.Module(), canonical.graph))
        self._layers, self._observe = layers, observe

    def run_node(self, node: fx.Node) -> Any:
        """The value of a node, shown before it is handed on."""
        value = super().run_node(node)
        if node in self._layers:
            self._observe(node, self.env[node.args[0]], self.env[node.args[1]], value)
        return value


def _kept(values: Tensor) -> Tensor:
    """Sums in float64: where they are, or on the CPU where their device has none."""
    return (values.cpu() if values.device.type == "mps" else values).to(torch.float64)


def _products(call: fx.Node, x: Tensor, factor: Tensor) -> Tensor:
    """Σ factor ⊗ patch of x over all places: the gradient of Σ factor · layer(x) by the weight, shaped like that."""
    shape = call.args[1].meta["type"].shape
    with torch.enable_grad():
        weight = x.new_zeros(shape, requires_grad=True)
        y = call.target(x, weight, None, *call.args[3:])
        return torch.autograd.grad(y, weight, factor)[0]


def _neurons_dim(call: fx.Node) -> int:
    """The dimension of the output that holds the neurons."""
    return call.meta["type"].rank - 1 if call.target is torch.ops.aten.linear.default else 1


def _per_neuron(call: fx.Node, values: Tensor, weight: Tensor) -> Tensor:
    """(neurons,) in a shape that broadcasts with the weight."""
    if call.target not in TRANSPOSED_CONVOLUTIONS:
        return values.reshape(-1, *[1] * (weight.dim() - 1))
    inputs, groups = weight.shape[0], call.args[6]  # (inputs, neurons of a group, ...)
    rows = values.reshape(groups, 1, -1).expand(-1, inputs // groups, -1)
    return rows.reshape(inputs, -1, *[1] * (weight.dim() - 2))


def _over_inputs(call: fx.Node, values: Tensor) -> Tensor:
    """Sums over all inputs of each neuron of values shaped like the weight: (neurons,)."""
    if call.target not in TRANSPOSED_CONVOLUTIONS:
        return values.flatten(1).sum(1)
    inputs, groups = values.shape[0], call.args[6]
    return values.flatten(2).sum(2).reshape(groups, inputs // groups, -1).sum(1).flatten()


def _patterns(sums: Mapping[str, _Sums], estimator: str) -> Patterns:
    """What the sums come to; with a warning where neurons have no pattern."""
    sides: dict[str, dict[str, Tensor]] = {"above": {}, "below": {}}
    without = {}
    for layer, found in sums.items():
        for name in found.regimes:
            pattern, few = found.pattern(name)
            dtype = found.call.args[1].meta["type"].dtype
            sides["below" if name == "below" else "above"][layer] = pattern.to("cpu", dtype)
            if bool(few.any()):
                without[layer] = max(without.get(layer, 0), int(few.sum()))
    if without:
        named = ", ".join(f"{count} of {layer}" for layer, count in list(without.items())[:5])
        more = f" and of {len(without) - 5} more layers" if len(without) > 5 else ""
        warn(
            f"the outputs of some neurons do not vary on one side of 0, so that they have no pattern there and hand "
            f"nothing back: {named}{more}. Give more images, or images of all classes.",
            PatternsWarning,
        )
    return Patterns(estimator, **sides)
