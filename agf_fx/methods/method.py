"""What a method is: streams that run from the logits to the images, and a read-out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor, fx

from agf_fx.errors import CaptureError, OptionsError
from agf_fx.ir.facts import UNCLEAR, facts
from agf_fx.ir.graph import BASELINE, CanonicalGraph
from agf_fx.methods.baseline import Baseline
from agf_fx.methods.table import NOTHING, RuleTable
from agf_fx.rules.merging import Merge, total
from agf_fx.rules.numerics import Division, Value, channel_sum
from agf_fx.rules.rule import Rule

Seed = Callable[[Value, Value], Value]
"""(logits (N, classes), target classes (K, N)) -> the message at the logits, (K, N, classes)."""

Need = Callable[[CanonicalGraph], object]
"""Refuses a network that the method cannot explain, with a `CaptureError`."""

Acceptance = Callable[[Mapping[str, Tensor]], None]
"""Refuses weights, path in the model -> tensor, that the method was not made for, with an `InputError`."""

Canoniser = Callable[[CanonicalGraph], CanonicalGraph]
"""A step on the analysed canonical graph, before emission."""


@dataclass(frozen=True)
class Stream:
    """What is handed from the logits to the images, call by call: a gradient, or relevance.

    Attributes:
        name: as it stands in graphs.
        rules: which rule every call has.
        seed: what it starts with at the logits; None where it starts with ``starts`` alone.
        starts: rules of calls that need no message, and make one.
        merge: what becomes of the messages that several readers of a value hand back.
        derives: whether it is a derivative, or nothing, at operations that no rule is named for: these need none then.
    """

    name: str
    rules: RuleTable
    seed: Seed | None = None
    starts: RuleTable = NOTHING
    merge: Merge = total
    derives: bool = False

    def rule_for(self, node: fx.Node, message: Value | None) -> Rule | None:
        """The rule of a call that has a message, or starts one."""
        return self.starts.rule_for(node) or (None if message is None else self.rules.rule_for(node))


@dataclass(frozen=True)
class Trace:
    """What a read-out may see.

    Attributes:
        canonical: the model.
        values: canonical node name -> value, (N, ...).
        messages: stream name -> canonical node name -> what the stream has there, (K, N, ...).
        channel_dim: the images' dimension that maps sum over; None for none.
        targets: the number of targets K.
    """

    canonical: CanonicalGraph
    values: Mapping[str, Value]
    messages: Mapping[str, Mapping[str, Value]]
    channel_dim: int | None
    targets: Value = 1

    @property
    def images(self) -> Value:
        """The images, (N, ...)."""
        return self.values[self.canonical.images.name]

    @property
    def baseline(self) -> Value:
        """What the method compares images with, (1, *image); at points (B, *image), where there are B baselines."""
        return self.values[BASELINE]

    def at_images(self, stream: str) -> Value:
        """What a stream has at the images, (K, N, ...).

        Raises:
            OptionsError: nothing reaches them.
        """
        found = self.messages[stream].get(self.canonical.images.name)
        if found is None:
            raise OptionsError(
                f"no {stream} reaches the images of {self.canonical.name}: the method has no rule for a call on every "
                "way. Add one to its table; print the table to see which there are."
            )
        return found

    def over_channels(self, values: Value) -> Value:
        """Values at the images, (K, N, ...), summed over channels: (K, N, *spatial)."""
        return channel_sum(values, self.rank, self.channel_dim)

    @property
    def rank(self) -> int:
        """The number of dimensions of the images, N included."""
        return self.canonical.image_type.rank


@dataclass(frozen=True)
class Point:
    """A place where a method looks in the place of the images.

    Attributes:
        of: trace, of the images and the baseline alone -> images (N, ...).
        weight: of what is found there, in the sum over all points.
        times: trace, likewise -> what is found there is multiplied by, (N, ...); None for nothing.
    """

    of: Callable[[Trace], Value]
    weight: float
    times: Callable[[Trace], Value] | None = None


@dataclass(frozen=True)
class Points:
    """For methods that look at many points for each image.

    The method's own read-out is taken at every point: (K, N, *image), say a gradient. Classes are chosen by the logits
    of the images themselves.

    Attributes:
        points: where it looks; or canonical graph, the images' dimension that maps sum over -> that.
        read_out: trace, of the images and the baseline alone, and weighted sums over the points, (K, N, *image), one
            for each of ``moments`` -> maps (K, N, *spatial).
        moments: what is summed of what is found at a point, say itself and its square.
        unwritable: what the method does at its points, in words, where no file can hold them.
        from_first: whether moments are of the differences from what the first point finds: for methods that these tell
            everything, such as a variance, which loses its digits where points hardly differ.
    """

    points: tuple[Point, ...] | Callable[[CanonicalGraph, int | None], tuple[Point, ...]]
    read_out: Callable[..., Value]
    moments: tuple[Callable[[Value], Value], ...] = (lambda found: found,)
    unwritable: str = ""
    from_first: bool = False

    def on(self, canonical: CanonicalGraph, channel_dim: int | None) -> tuple[Point, ...]:
        """Where it looks at images of a model."""
        return self.points if isinstance(self.points, tuple) else self.points(canonical, channel_dim)


class Seeker(ABC):
    """Searches side by side, one in each row: R images, each with its one target. Rows know nothing of each other.

    Attributes:
        state: all that changes from step to step, or belongs to single rows, by name: tensors (R, ...).
    """

    state: dict[str, Tensor]

    @abstractmethod
    def images(self, step: int) -> Tensor:
        """The images (R, *image) at which step ``step`` = 0, 1, ... looks."""

    @abstractmethod
    def advance(self, step: int, score: Tensor, gradient: Tensor) -> Tensor:
        """Make a step.

        Args:
            step: its number.
            score: of the images of this step, (R,).
            gradient: of the score at these images, (R, *image).

        Returns:
            What is to become small, as it was before the step, (R,).
        """

    @abstractmethod
    def maps(self) -> Tensor:
        """The heat maps (R, *spatial) of the rows as they are now."""

    def keep(self, rows: Tensor) -> None:
        """Go on with some rows alone, int64."""
        self.state = {name: values[rows] for name, values in self.state.items()}


@dataclass(frozen=True)
class Search:
    """For methods that search step by step, for every image and target, by a gradient at the images.

    The method's own graph has the gradient: its read-out is that at the images, (K, N, *image). Classes are chosen by
    the logits of the images themselves.

    Attributes:
        begin: trace, of R images and the baseline alone, and which of its ``runs`` a row is, (R,) int64 -> what seeks.
        score: (logits (R, classes), target classes (R, 1)) -> what the gradient is of, (R,).
        steps: the most.
        tolerance: a row stops once what is to become small has not done so by this share of its size within
            ``patience`` steps; None: never.
        patience: see there.
        runs: searches for every image and target, whose maps are added.
        held: sizes of an image that a row takes at most, besides what the graph does.
    """

    begin: Callable[[Trace, Tensor], Seeker]
    score: Callable[[Tensor, Tensor], Tensor]
    steps: int
    tolerance: float | None = None
    patience: int = 1
    runs: int = 1
    held: int = 8


@dataclass(frozen=True)
class Step:
    """One plain step of gradient descent: θ' = θ - lr · sign · ∇_θ CE(f_θ(x), t), for each image x and target t alone.

    Attributes:
        lr: its length.
        sign: 1 towards the target, -1 away from it.
    """

    lr: float
    sign: int = 1


@dataclass(frozen=True)
class Method:
    """An explanation method, as data.

    Attributes:
        name: what users call it.
        streams: run interleaved, in this order at every call: a stream may read what those before it had there.
        read_out: trace -> maps (K, N, *spatial).
        needs: what it asks of a network.
        canonisers: steps on the canonical graph before emission.
        scale: what its numbers mean, in words.
        channel_dim: the images' dimension that maps sum over, or None for none; ``"auto"``: as the model reads them.
        accepts: what it asks of the weights, whenever they have changed; None: nothing.
        points: where it looks besides at the images; None: at the images.
        search: how it searches for maps step by step; None: it does not.
        blank: why a map may be zero everywhere, and what to do, where that is the method's own doing.
        bounds: between which values the images are taken to lie; None: anywhere.
        not_finite: why a map may not be finite, and what to do, where that may be the method's own doing.
        rounding: what else to do than to compute in float64 where rounding moves maps.
        baseline: what it compares images with. Maps are the mean over baselines, where there are several and no points.
        reference: whether the network also sees the baseline, so that rules may read ``site.reference``.
        step: how weights are moved before an image is explained for a target; None: not. It is no part of the graph.
    """

    name: str
    streams: tuple[Stream, ...]
    read_out: Callable[[Trace], Value]
    needs: tuple[Need, ...] = ()
    canonisers: tuple[Canoniser, ...] = ()
    scale: str = ""
    channel_dim: int | str | None = "auto"
    accepts: Acceptance | None = None
    points: Points | None = None
    search: Search | None = None
    blank: str = ""
    bounds: tuple[float, float] | None = None
    not_finite: str = ""
    rounding: str = ""
    baseline: Baseline | None = None
    reference: bool = False
    step: Step | None = None

    def __post_init__(self) -> None:
        names = [stream.name for stream in self.streams]
        if len({*names}) < len(names):
            raise OptionsError(f"two streams of {self.name} have one name, of {', '.join(names)}; give each its own.")
        for stream in self.streams:
            if not isinstance(stream.rules, RuleTable):
                raise OptionsError(
                    f"the rules of stream {stream.name} are a {type(stream.rules).__name__}; give RuleTable.of([...])."
                )

    def stream(self, name: str) -> Stream | None:
        """The stream of this name; None if there is none."""
        return next((stream for stream in self.streams if stream.name == name), None)

    def divided(self, division: Division) -> Method:
        """The same method with another division in every rule that divides."""
        streams = (
            replace(
                stream,
                rules=stream.rules.divided(division),
                starts=stream.starts.divided(division),
                merge=stream.merge.divided(division),
            )
            for stream in self.streams
        )
        return replace(self, streams=tuple(streams))

    def channels_of(self, canonical: CanonicalGraph) -> int | None:
        """The dimension of the images that maps sum over; None for none.

        Raises:
            CaptureError: several could hold channels, and the user has not said which.
            OptionsError: the images have no such dimension.
        """
        rank, images = canonical.image_type.rank, f"the images {canonical.image_type} of {canonical.name}"
        dim = facts(canonical.images).channel_dim if self.channel_dim == "auto" else self.channel_dim
        if dim == UNCLEAR and self.channel_dim == "auto":
            raise CaptureError(
                f"several dimensions of {images} could hold channels, over which a map sums. Say which: "
                "agf_fx.compile(model, channel_dim=1), or channel_dim=None for a map of every entry."
            )
        if dim is not None and not 0 < dim < rank:
            raise OptionsError(f"channel_dim is {dim} for {images}; give a dimension from 1 to {rank - 1}, or None.")
        return dim
