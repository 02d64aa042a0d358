"""PatternNet and PatternAttribution: backward passes with patterns of the data in the place of weights.

A neuron's weight w says what it filters out as much as what it looks for. Its pattern a is the direction in which the
signal varies with the neuron's output y = wᵀx + b, estimated from data once (`agf_fx.fit_patterns`). Patterns belong to
the weights that they were fitted for, and enter the graph beside them, as constants.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, fx

from agf_fx.errors import CheckpointError, InputError, OptionsError
from agf_fx.ir.graph import CanonicalGraph, Signature
from agf_fx.ir.types import TensorType
from agf_fx.ir.vocabulary import is_parametrised
from agf_fx.methods.gradient import input_gradient, target_indicator
from agf_fx.methods.lrp import at_images, target_logit
from agf_fx.methods.method import Method, Stream
from agf_fx.methods.registry import Entry, Properties
from agf_fx.methods.streams import CHAIN_RULE, gradient_stream
from agf_fx.methods.table import RuleTable, Where
from agf_fx.passes.norm_canoniser import fold_norms
from agf_fx.rules import patterns as rules
from agf_fx.rules.linear_maps import LINEAR_LAYERS
from agf_fx.rules.site import RELEVANCE
from agf_fx.store.tensor_files import read_tensors, write_tensors

ESTIMATORS = ("two-component", "linear")
_KIND, _LAYOUT = "agf-fx patterns", "1"
_FIT = "fit them with patterns = agf_fx.fit_patterns(model, loader)"


@dataclass(frozen=True, eq=False)
class Patterns:
    """The patterns of a model's convolutions and linear layers, from `agf_fx.fit_patterns`.

    Attributes:
        estimator: ``"two-component"`` or ``"linear"``.
        above: layer -> pattern of each of its neurons, of the weight's shape and dtype; of two components that of the
            positive regime, y > 0. A layer is named by its module's path, and by a number behind ``#`` where the module
            is called again.
        below: layer -> pattern of the negative regime, of layers of which not only a ReLU reads the output.
        weights: digest of the weights that they were fitted for.
        images: from how many images.
    """

    estimator: str
    above: Mapping[str, Tensor]
    below: Mapping[str, Tensor] = field(default_factory=dict)
    weights: str = ""
    images: int = 0

    @functools.cached_property
    def digest(self) -> str:
        """What identifies them: hexadecimal SHA-256."""
        return _digest(sorted(self._named().items()), self.estimator, self.weights)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write them to a ``.safetensors`` file, which appears whole or not at all.

        Raises:
            ExportError: it cannot be written.
        """
        about = {"kind": _KIND, "layout": _LAYOUT, "estimator": self.estimator, "weights": self.weights}
        about["images"] = str(self.images)
        write_tensors(path, self._named(), about)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Patterns:
        """Read a file that `save` has written.

        Raises:
            CheckpointError: it is missing, damaged, or holds something else.
        """
        name = os.fspath(path)
        about, stored = read_tensors(path, _KIND, _LAYOUT, what="patterns", advice=_FIT)
        sides: dict[str, dict[str, Tensor]] = {"above": {}, "below": {}}
        for key, tensor in stored.items():
            side, _, layer = key.partition("/")
            if side not in sides or not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
                raise CheckpointError(f"{name}: {key} is no pattern of finite numbers; {_FIT}.")
            sides[side][layer] = tensor
        if about.get("estimator") not in ESTIMATORS or not about.get("images", "").isdecimal():
            raise CheckpointError(f"{name}: does not say how its patterns were fitted; {_FIT}.")
        return Patterns(about["estimator"], **sides, weights=about.get("weights", ""), images=int(about["images"]))

    def _named(self) -> dict[str, Tensor]:
        named = {f"above/{layer}": pattern for layer, pattern in self.above.items()}
        return named | {f"below/{layer}": pattern for layer, pattern in self.below.items()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Patterns) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Patterns({len(self.above)} layers, {self.estimator}, from {self.images} images, {self.digest[:12]})"


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """What identifies a model's weights, path -> tensor: their values, in whatever precision and on whatever device."""
    return _digest((name, weights[name]) for name in sorted(weights))


def _digest(tensors: Iterable[tuple[str, Tensor]], *about: str) -> str:
    found = hashlib.sha256(json.dumps(about).encode())
    for name, tensor in tensors:
        values = tensor.detach().cpu().to(torch.float64).contiguous()
        found.update(json.dumps([name, list(values.shape)]).encode() + values.numpy().tobytes())
    return found.hexdigest()


def layers_with_patterns(canonical: CanonicalGraph) -> dict[str, fx.Node]:
    """The convolutions and linear layers of a graph, by the names that `Patterns` has for them."""
    found: dict[str, fx.Node] = {}
    for node in canonical.calls:
        if is_parametrised(node) and node.target in LINEAR_LAYERS:
            name = path = node.meta["module"] or "model"
            count = 1
            while name in found:
                count += 1
                name = f"{path}#{count}"
            found[name] = node
    return found


def has_two_regimes(node: fx.Node) -> bool:
    """Whether something else than a ReLU reads a layer's output, so that negative outputs hand something back."""
    return any(user.target is not torch.ops.aten.relu.default for user in node.users)


def beside_layers(canonical: CanonicalGraph, patterns: Patterns | None) -> CanonicalGraph:
    """A copy of a graph that takes patterns as constants, each beside its layer; itself if it does already.

    Raises:
        OptionsError: there are no patterns, or they are those of another architecture.
    """
    if any("beside" in node.meta for node in canonical.calls):
        return canonical
    if patterns is None:
        raise OptionsError(
            f"the method needs patterns of {canonical.name}: {_FIT}, and give options={{'patterns': …}}."
        )
    layers = layers_with_patterns(canonical)
    wanted = {node: _of_layer(canonical, patterns, name, node) for name, node in layers.items()}
    if others := sorted(set(patterns.above) - set(layers)):
        raise OptionsError(f"there are patterns for {others[0]!r}, and {canonical.name} has no such layer; {_FIT}.")
    graph, copies, constants, beside = fx.Graph(), {}, dict(canonical.signature.constants), {}
    for node in canonical.graph.nodes:
        if node.op != "placeholder" and not beside:
            for layer, sides in wanted.items():
                beside[layer] = {}
                for side, pattern in sides.items():
                    new = graph.placeholder(f"{side.replace(' ', '_')}_{layer.name}")
                    kind = TensorType(tuple(pattern.shape), canonical.image_type.dtype)
                    new.meta = {"type": kind, "depends_on_images": False}
                    constants[new.name], beside[layer][side] = pattern.to(kind.dtype), new.name
        copies[node] = graph.node_copy(node, copies.__getitem__)
        copies[node].meta = dict(node.meta) | ({"beside": beside[node]} if node in wanted else {})
    return replace(canonical, graph=graph, signature=Signature(canonical.signature.weights, constants))


def _of_layer(canonical: CanonicalGraph, patterns: Patterns, name: str, node: fx.Node) -> dict[str, Tensor]:
    """What stands beside a layer."""
    sides = {rules.ABOVE: patterns.above.get(name)}
    if patterns.estimator == "two-component" and has_two_regimes(node):
        sides[rules.BELOW] = patterns.below.get(name)
    shape = tuple(node.args[1].meta["type"].shape)
    for pattern in sides.values():
        if pattern is None or tuple(pattern.shape) != shape:
            has = "none" if pattern is None else f"one of shape {tuple(pattern.shape)}"
            raise OptionsError(
                f"layer {name!r} of {canonical.name} needs a pattern of shape {shape}, and there is {has}: they were "
                f"fitted for another network; {_FIT}."
            )
    return sides


def check_weights(weights: Mapping[str, Tensor], patterns: Patterns) -> None:
    """Refuse weights that patterns were not fitted for.

    Args:
        weights: path in the model -> tensor.
        patterns: the patterns.

    Raises:
        InputError: they are others.
    """
    if weights_digest(weights) != patterns.weights:
        raise InputError(
            f"the patterns were fitted for other weights than the model has now, and would explain those; {_FIT} again."
        )


@dataclass(frozen=True)
class PatternOptions:
    """Options of PatternNet and PatternAttribution.

    Attributes:
        patterns: of the model, from `agf_fx.fit_patterns`, or the path of a file with them; they must be given.

    Raises:
        OptionsError: it is something else.
        CheckpointError: there is no such file, or it is damaged.
    """

    patterns: str | Patterns | None = None

    def __post_init__(self) -> None:
        if isinstance(self.patterns, str | os.PathLike):
            object.__setattr__(self, "patterns", Patterns.load(self.patterns))
        if self.patterns is not None and not isinstance(self.patterns, Patterns):
            raise OptionsError(f"patterns is a {type(self.patterns).__name__}; give Patterns, or the path of a file.")


_with_pattern = Where(lambda node: "beside" in node.meta, "layer with a pattern")


def _made(options: PatternOptions, name: str, stream: Stream, **more: object) -> Method:
    patterns = options.patterns
    return Method(
        name=name,
        streams=(stream,),
        canonisers=(fold_norms, functools.partial(beside_layers, patterns=patterns)),
        accepts=None if patterns is None else functools.partial(check_weights, patterns=patterns),
        **more,
    )


def pattern_net(options: PatternOptions) -> Method:
    """PatternNet (Kindermans et al. 2018): the gradient, with patterns for weights."""
    stream = gradient_stream(target_indicator, RuleTable.of([(_with_pattern, rules.signal)]))
    scale = "signed, in units of the images per unit of the logit: an estimate of the signal"
    return _made(options, "pattern-net", stream, read_out=input_gradient, scale=scale)


def pattern_attribution(options: PatternOptions) -> Method:
    """PatternAttribution (Kindermans et al. 2018): the logit handed back with w ⊙ a for weights."""
    table = RuleTable.of([(_with_pattern, rules.attribution)]) + CHAIN_RULE
    stream = Stream(RELEVANCE, rules=table, seed=target_logit)
    scale = "signed, in units of the logit: what the signal contributes"
    return _made(options, "pattern-attribution", stream, read_out=at_images, scale=scale)


_CITATION = "Kindermans, Schütt, Alber, Müller, Erhan, Kim and Dähne, ICLR 2018"

ENTRIES = (
    Entry(
        name="pattern-net",
        title="PatternNet: the gradient with patterns, fitted to data, in the place of weights",
        citation=_CITATION,
        properties=Properties(gradients=True, attribution=False, class_specific=True, reaches_input=True),
        make=pattern_net,
        options=PatternOptions,
    ),
    Entry(
        name="pattern-attribution",
        title="PatternAttribution: relevance by weights times patterns, fitted to data",
        citation=_CITATION,
        properties=Properties(gradients=False, attribution=True, class_specific=True, reaches_input=True),
        make=pattern_attribution,
        options=PatternOptions,
    ),
)
