"""Certificates of read-outs: what is made of values and gradients of a layer, and of relevance at the images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from agf_fx.inspect.certificates.arrays import sqrt
from agf_fx.inspect.certificates.certificate import Claim
from agf_fx.inspect.certificates.laws import positive
from agf_fx.inspect.certificates.numbers import Number, number, symbols, total
from agf_fx.inspect.certificates.symbolic import Symbolic
from agf_fx.methods.cam import Reading
from agf_fx.rules.contributions import Contribution, Window
from agf_fx.rules.site import RELEVANCE

# Sizes of a contribution x_u gᵀ_u, whose entries are formed here, and nowhere else

_X, _G = ((2, -3), (5, 1), (-4, -2)), ((3, -1), (-2, -5))


def _factors(channels: int) -> tuple[np.ndarray, np.ndarray]:
    """x (1, C, 2), and g (2, 1, D, 2)."""
    x, g = symbols("x", [_X[:channels]]), symbols("g", [_G])
    return x, np.stack([g, -g[:, ::-1]])


def _aggregated(subject: Callable[..., Any], size: Callable[[np.ndarray], Number], kind: str) -> Iterator[Number]:
    channels, groups = (2, 2) if kind == "scaling" else (3, 1)
    x, g = _factors(channels)
    window = Window([3], [1], [(1, 1)], [1]) if kind == "window" else None
    found = subject(Contribution(Symbolic(x), Symbolic(g), groups, window, (channels, 2), (2, 2), 2)).entries
    padded = np.pad(x[0], ((0, 0), (1, 1)), constant_values=number(0))
    for target, position in np.ndindex(2, 2):
        read = padded[:, position : position + 3] if window else x[0, :, position]
        gradient = g[target, 0, :, position]
        entries = read * gradient if kind == "scaling" else np.outer(read.reshape(-1), gradient).reshape(-1)
        yield found[target, 0, position] - size(entries)


LAYERS = {
    "pointwise": "1×1 convolution of 3 channels to 2 at 2 positions, for two targets",
    "window": "convolution of 3 channels to 2 with a kernel of 3 at 2 positions, padded, for two targets",
    "scaling": "scalings of 2 channels at 2 positions, for two targets",
}


def aggregate(
    size: Callable[[np.ndarray], Number], says: str, latex: str
) -> Callable[[Callable[..., Any]], tuple[Claim, ...]]:
    """The claim that products of factors are the size of the contribution itself."""
    claims = tuple(
        Claim(says, layer, lambda subject, kind=kind: _aggregated(subject, size, kind), latex)
        for kind, layer in LAYERS.items()
    )
    return lambda subject: claims


def _length(entries: np.ndarray) -> Number:
    return sqrt(np.array(total((entries * entries).flat), dtype=object)).item()


def _largest(entries: np.ndarray) -> Number:
    return max(entries, key=lambda entry: entry.value)


# Maps of a layer's channels

LAYER = "a layer of 2 channels with 3 positions"


def _map_of(subject: Callable[..., Any], wanted: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Iterator[Number]:
    a, g = symbols("a", [((2, -3, 5), (1, 4, -2))]), symbols("g", [[((3, -1, 2), (-2, 5, 1))]])
    found = subject(Reading(Symbolic(a), Symbolic(g), -2, [-1])).entries
    yield from (found[0, 0] - wanted(a[0], g[0, 0])).flat


def weighted(
    wanted: Callable[[np.ndarray, np.ndarray], np.ndarray], says: str, latex: str
) -> Callable[[Callable[..., Any]], tuple[Claim, ...]]:
    """The claim that a layer's map is this function of values and gradients, (channels, positions)."""
    claim = Claim(says, LAYER, lambda subject: _map_of(subject, wanted), latex)
    return lambda subject: (claim,)


def _higher_derivatives(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    sums = a.sum(1, keepdims=True)
    alpha = g * g / (g * g * 2 + g * g * g * sums + number(1e-6))
    return (a * (alpha * positive(g)).sum(1, keepdims=True)).sum(0)


# Relevance at the images


@dataclass
class _Trace:
    """What these read-outs ask of a trace: relevance of two streams at an image of 2 channels, 2 positions."""

    own: np.ndarray
    others: np.ndarray
    rank: int = 3
    channel_dim: int = 1

    def at_images(self, stream: str) -> Symbolic:
        return Symbolic(self.own if stream == RELEVANCE else self.others)

    def over_channels(self, values: Symbolic) -> Symbolic:
        return Symbolic(values.entries.sum(2))


IMAGE = "an image of 2 channels with 2 positions"


def _relevances() -> _Trace:
    own = symbols("Phi", [[((2, -3), (5, 1))], [((1, 2), (3, -4))]])
    return _Trace(own, symbols("Psi", [[((1, 4), (-2, 3))], [((2, 1), (4, -3))]]))


def _balanced(subject: Callable[..., Any]) -> Iterator[Number]:
    yield from (total(part.flat) for part in subject(_relevances()).entries)


def _rescaled(subject: Callable[..., Any]) -> Iterator[Number]:
    trace = _relevances()
    for found, own, others in zip(subject(trace).entries, trace.own.sum(2), trace.others.sum(2), strict=True):
        yield from (found - (own - others * (total(own.flat) / total(others.flat)))).flat


def difference(subject: Callable[..., Any]) -> tuple[Claim, ...]:
    """The contrast of CLRP and SGLRP."""
    return (
        Claim("the map sums to 0", IMAGE, _balanced, r"\sum_p \mathrm{map}_p = 0"),
        Claim(
            "the target's relevance less that of the others, at its scale",
            IMAGE,
            _rescaled,
            r"\mathrm{map} = \sum_c \Phi - \Psi \frac{\sum \Phi}{\sum \Psi}",
        ),
    )


def _normalised(subject: Callable[..., Any]) -> Iterator[Number]:
    """Of two targets: the first has a largest entry above 0; of the second none is, or next to none."""
    for second in (((-2, -3), (-5, -1)), ((-2, -3), (-5, 0.004))):
        phi = symbols("Phi", [[((2, -3), (-5, 1))], [second]])
        found = subject(_Trace(phi, phi)).entries
        yield from (found[0] - phi[0].sum(1) / phi[0, 0, 0, 0]).flat
        yield from (found[1] + phi[1].sum(1) / phi[1, 0, 1, 0]).flat


def normalised_channel_sum(subject: Callable[..., Any]) -> tuple[Claim, ...]:
    """The map of AGF."""
    says = "relevance over its maximum, summed over channels; over its largest size where next to none is positive"
    return (Claim(says, IMAGE, _normalised, r"\mathrm{map} = \sum_c \Phi / \max \Phi"),)


CLAIMS: dict[str, Callable[[Any], tuple[Claim, ...]]] = {
    "agf_fx.rules.contributions:by_sum": aggregate(
        lambda entries: total(entries), "the sum over all entries, none of which is formed", r"\sum_{ij} x_i g_j"
    ),
    "agf_fx.rules.contributions:by_norm": aggregate(
        _length, "the L2 norm over all entries, none of which is formed", r"\lVert x_u g_u^{\mathsf T} \rVert"
    ),
    "agf_fx.rules.contributions:by_positive_norm": aggregate(
        lambda entries: _length(positive(entries)),
        "the L2 norm of the positive entries, none of which is formed",
        r"\lVert \max(x_u g_u^{\mathsf T}, 0) \rVert",
    ),
    "agf_fx.rules.contributions:by_max": aggregate(
        _largest, "the largest entry, of which none is formed", r"\max_{ij} x_i g_j"
    ),
    "agf_fx.methods.cam:by_mean_gradient": weighted(
        lambda a, g: (a * (g.sum(1, keepdims=True) / number(3))).sum(0),
        "channels weighted by the mean of their gradient",
        r"\sum_c a_{cp} \tfrac1n \sum_q g_{cq}",
    ),
    "agf_fx.methods.cam:by_gradient": weighted(
        lambda a, g: (a * g).sum(0), "every entry by its gradient", r"\sum_c a_{cp} g_{cp}"
    ),
    "agf_fx.methods.cam:by_positive_gradient": weighted(
        lambda a, g: (a * positive(g)).sum(0),
        "every entry by the positive part of its gradient",
        r"\sum_c a_{cp} \max(g_{cp}, 0)",
    ),
    "agf_fx.methods.cam:by_higher_derivatives": weighted(
        _higher_derivatives,
        "channels weighted by gradients, each by the share of its powers (eq. 19)",
        r"\sum_c a_{cp} \sum_q \alpha_{cq} \max(g_{cq}, 0),\ \alpha = g^2 / (2 g^2 + g^3 \sum_q a_{cq} + 10^{-6})",
    ),
    "agf_fx.methods.contrast:difference": difference,
    "agf_fx.methods.agf:normalised_channel_sum": normalised_channel_sum,
}
