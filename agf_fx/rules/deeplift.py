"""DeepLIFT, the rescale rule: multipliers m with Σ m_in ⊙ Δx = Σ m ⊙ Δy at every call.

x₀ and y₀ are the values on the baseline, Δx = x - x₀ and x̄ = (x + x₀) / 2. Linear calls have their adjoint, and
functions of every entry the slope Δy / Δx (Shrikumar, Greenside and Kundaje 2017, §3.5.1 and §3.5.2). The paper leaves
the rest open. Calls that mix entries are taken apart into products, sums and functions of every entry, of which each
has an exact multiplier; products give half of what they do to either factor. So attributions sum to the difference of
the logits.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

import torch

from agf_fx.rules.adjoints.pooling import kept
from agf_fx.rules.gradients import vjp
from agf_fx.rules.numerics import Value, nonzero
from agf_fx.rules.rule import Messages, Promise, Rule, rule
from agf_fx.rules.site import Site

aten = torch.ops.aten

SHRIKUMAR = "Shrikumar, Greenside and Kundaje 2017"
NEAR = 1e-4
"""How near x and x₀ are where a slope is the mean of both derivatives: the error of that, f''' Δx² / 12, and what
rounding does to Δy / Δx in single precision are both small there."""

multiplier = functools.partial(rule, "m", promise=Promise.CONSERVES, source=SHRIKUMAR)
derived = functools.partial(rule, "m", promise=Promise.CONSERVES, source="the chain rule of multipliers")


linear = Rule(vjp, "linear", "m", "m_in = Lᵀm  (§3.5.1)", SHRIKUMAR, Promise.CONSERVES)
"""Convolutions, sums, averages, data movement, batch norms, products with constants."""


# Functions of every entry


@multiplier("m_in = m ⊙ Δy / Δx, f'(x) where Δx = 0  (§3.5.2)")
def rescale(site: Site, m: Value) -> Messages:
    """Any function of every entry, as it is: exact however near a step or a corner x and x₀ are."""
    same = _difference(site) == 0
    return (m * _slope(site, same, _derivative(site)),)


@multiplier("m_in = m ⊙ Δy / Δx, (f'(x) + f'(x₀)) / 2 where |Δx| ≤ 1e-4  (§3.5.2)")
def rescale_smooth(site: Site, m: Value) -> Messages:
    """Functions that are smooth everywhere."""
    near = torch.abs(_difference(site)) <= NEAR
    return (m * _slope(site, near, _mean_derivative(site)),)


@multiplier("m_in = m ⊙ Δy / Δx, (f'(x) + f'(x₀)) / 2 where |Δx| ≤ 1e-4 (|x| + |x₀|)  (§3.5.2)")
def rescale_beside_0(site: Site, m: Value) -> Messages:
    """Functions that are smooth but for a corner or a pole at 0: x and x₀ that are so near have one sign."""
    near = torch.abs(_difference(site)) <= (torch.abs(site.x) + torch.abs(site.reference.x)) * NEAR
    return (m * _slope(site, near, _mean_derivative(site)),)


@multiplier("m_in = m ⊙ Δy / Δx, (f'(x) + f'(x₀)) / 2 where |Δx| ≤ 1e-4 and ||x| - 3| > 1e-4  (§3.5.2)")
def rescale_beside_3(site: Site, m: Value) -> Messages:
    """Functions with corners at 3 and -3: x and x₀ that are near, away from these, lie on one smooth piece."""
    near = torch.abs(_difference(site)) <= NEAR
    away = torch.abs(torch.abs(site.x) - 3.0) > NEAR
    return (m * _slope(site, torch.logical_and(near, away), _mean_derivative(site)),)


@derived("m_in = m / (y + y₀), m where that is 0  (Δy (y + y₀) = Δx)")
def square_root(site: Site, m: Value) -> Messages:
    """√x, without a quotient of differences."""
    return (m / _or_one(site.y + site.reference.y),)


def _difference(site: Site) -> Value:
    return site.x - site.reference.x


def _slope(site: Site, near: Value, derivative: Value) -> Value:
    """Δy / Δx, and the derivative where x and x₀ are near."""
    quotient = (site.y - site.reference.y) / torch.masked_fill(_difference(site), near, 1.0)
    return torch.where(near, derivative, quotient)


def _derivative(site: Site) -> Value:
    return vjp(site, torch.ones_like(site.y))[0]


def _mean_derivative(site: Site) -> Value:
    return (_derivative(site) + _derivative(site.reference)) * 0.5


def _or_one(a: Value) -> Value:
    """``a``, and 1 where it is 0."""
    return a + (-nonzero(a) + 1.0)


# Maxima


@multiplier("m_in = [argmax x](m ⊙ (u - y₀)) / Δx + [argmax x₀](m ⊙ (y - u)) / Δx, u = max(y, y₀)")
def maximum(site: Site, m: Value) -> Messages:
    """Maxima: what rises goes to where x is largest, what falls to where x₀ was; the gradient where Δx = 0.

    Both entries have moved at least as far as the maximum has, so no quotient is above 1. As in the authors' and
    Captum's code, but for windows that overlap, whose shares add.
    """
    x, y, y_0 = site.x, site.y, site.reference.y
    batch = site.x_type.batch_dim
    sizes = [aten.sym_size.int(x, dim) if dim == batch else -1 for dim in range(site.x_type.rank)]
    x_0 = aten.expand.default(site.reference.x, sizes)
    before = replace(site, args=(x_0, *site.args[1:]), output=site.node.target(x_0, *site.args[1:], **site.kwargs))
    upper = torch.maximum(y, y_0)
    (rise,), (fall,) = vjp(site, m * (upper - y_0)), vjp(before, m * (y - upper))
    same = x - x_0 == 0
    return (torch.where(same, vjp(site, m)[0], (rise + fall) / torch.masked_fill(x - x_0, same, 1.0)),)


# Two signals


@derived("m_a = m ⊙ b̄, m_b = m ⊙ ā  (Δ(ab) = Δa b̄ + ā Δb)")
def product(site: Site, m: Value) -> Messages:
    """A product of two signals, entry by entry or of matrices: the adjoint at the mean of each factor."""
    return vjp(replace(site, args=(*_means(site), *site.args[2:])), m)


@derived("m_a = m ⊙ (1/b + 1/b₀) / 2, m_b = -m ⊙ ā / (b b₀)  (Δ(1/b) = -Δb / (b b₀))")
def quotient(site: Site, m: Value) -> Messages:
    """a / b, as the product of a and 1 / b."""
    (_, b), (_, b_0), (a_varies, b_varies) = site.operands, site.reference.operands, site.are_signals
    mean, _ = _means(site)
    by_a = m * ((torch.reciprocal(b) + torch.reciprocal(b_0)) * 0.5) if a_varies else None
    return by_a, -(m * (mean / (b * b_0))) if b_varies else None


@derived("m_a = m ⊙ (f(a, b) - f(a₀, b) + f(a, b₀) - f(a₀, b₀)) / 2Δa, ∂f/∂a where Δa = 0")
def jointly(site: Site, m: Value) -> Messages:
    """Any other function of two values, entry by entry: the mean over both orders in which they may change."""
    varying = site.are_signals
    found = [m * _joint_slope(site, place) if varies else None for place, varies in enumerate(varying)]
    return tuple(found)


def _joint_slope(site: Site, place: int) -> Value:
    """The mean slope in one operand, over the two values of the other."""
    now, before = site.operands, site.reference.operands
    step = now[place] - before[place]
    same = step == 0
    step = torch.masked_fill(step, same, 1.0)
    slopes = []
    for other in (now, before):
        ends = [_with(other, place, values[place]) for values in (now, before)]
        y, y_0 = (site.node.target(*operands) for operands in ends)
        here = replace(site, args=tuple(ends[0]), output=y)
        slopes.append(torch.where(same, vjp(here, torch.ones_like(y))[place], (y - y_0) / step))
    return (slopes[0] + slopes[1]) * 0.5


def _with(operands: Sequence[Value], place: int, value: Value) -> list[Value]:
    return [value if index == place else operand for index, operand in enumerate(operands)]


def _means(site: Site) -> list[Value]:
    """The means of the operands and of what they are on the baseline; constants as they are."""
    pairs = zip(site.operands, site.reference.operands, site.are_signals, strict=True)
    return [(now + before) * 0.5 if varies else now for now, before, varies in pairs]


# Normalisations


@derived("m_in = m ⊙ 2x̄ / (y + y₀), 0 where that is 0  (Δy (y + y₀) = Σ 2x̄ Δx)")
def length(site: Site, m: Value) -> Messages:
    """The Euclidean length."""
    dims = site.args[2]
    total = kept(site, _or_one(site.y + site.reference.y), dims, targets=False)
    return (kept(site, m, dims, targets=True) * ((site.x + site.reference.x) / total),)


def _standardised(m: Value, x: Value, x_0: Value, dims: list[int], eps: float, *, centred: bool) -> Value:
    """Multipliers through c / √(mean c² + eps) over ``dims``, c = x - mean x, or x itself if not ``centred``.

    With s = 1 / √v, v = mean c² + eps: Δ(c s) = Δc s̄ + c̄ Δs, Δs = -Δv s² s₀² / (s + s₀), Δv = mean 2c̄ Δc.
    """
    c, c_0 = ((a - torch.mean(a, dims, True) if centred else a) for a in (x, x_0))
    s, s_0 = (torch.rsqrt(torch.mean(a * a, dims, True) + eps) for a in (c, c_0))
    mean = (c + c_0) * 0.5
    fall = s * s * s_0 * s_0 / (s + s_0) * 2
    found = m * ((s + s_0) * 0.5) - mean * (torch.mean(m * mean, dims, True) * fall)
    return found - torch.mean(found, dims, True) if centred else found


@derived("m_in = c - mean c, c = m' ⊙ s̄ - c̄ mean(m' c̄) 2s²s₀² / (s + s₀), m' = m ⊙ weight")
def layer_norm(site: Site, m: Value) -> Messages:
    """Layer norm, taken apart as in `_standardised`."""
    x, shape, weight, _, eps, _ = site.args
    m = m if weight is None else m * weight
    return (_standardised(m, x, site.reference.x, list(range(-len(shape), 0)), eps, centred=True),)


@derived("m_in = c - mean c, c = m' ⊙ s̄ - c̄ mean(m' c̄) 2s²s₀² / (s + s₀), m' = m ⊙ weight, by groups")
def group_norm(site: Site, m: Value) -> Messages:
    """Group norm, likewise."""
    _, groups, weight, _, eps, _ = site.args
    if weight is not None:
        m = m * torch.reshape(weight, [-1, *[1] * (site.x_type.rank - 2)])
    rows = [-1, groups, site.x_type.sample_size // groups]
    x, x_0 = torch.reshape(site.x, rows), torch.reshape(site.reference.x, rows)
    found = _standardised(torch.reshape(m, [site.targets, *rows]), x, x_0, [-1], eps, centred=True)
    return (torch.reshape(found, [site.targets, *site.x_type.free_batch]),)


@derived("m_in = m' ⊙ s̄ - x̄ mean(m' x̄) 2s²s₀² / (s + s₀), m' = m ⊙ weight")
def rms_norm(site: Site, m: Value) -> Messages:
    """RMS norm, likewise, without centring."""
    x, shape, weight, eps = site.args
    m = m if weight is None else m * weight
    return (_standardised(m, x, site.reference.x, list(range(-len(shape), 0)), eps, centred=False),)


# Exponentials and their sums. p are probabilities, p = exp x / Σ exp x, and q their logarithmic means with those on the
# baseline: Δp = q ⊙ Δlog p = q ⊙ (Δx - Δlog Σ exp x). Since Σ Δp = 0, Δlog Σ exp x = Σ q Δx / Σ q.


@derived("m_in = q ⊙ (m - Σ q m / Σ q), q = Δp / Δlog p  (Δp = q ⊙ (Δx - Σ q Δx / Σ q))")
def softmax(site: Site, m: Value) -> Messages:
    """Softmax; entries that are masked out with -inf get nothing."""
    dim = [site.args[1] - site.y_type.rank]
    q = _logarithmic_mean(*(aten.log_softmax.int(x, dim[0]) for x in (site.x, site.reference.x)))
    return (q * (m - torch.sum(m * q, dim, True) / torch.sum(q, dim, True)),)


@derived("m_in = m - q Σ m / Σ q, q = Δp / Δlog p  (Δlog Σ exp x = Σ q Δx / Σ q)")
def log_softmax(site: Site, m: Value) -> Messages:
    """Log-softmax."""
    dim = [site.args[1] - site.y_type.rank]
    q = _logarithmic_mean(site.y, site.reference.y)
    return (m - q * (torch.sum(m, dim, True) / torch.sum(q, dim, True)),)


@derived("m_in = m q / Σ q, q = Δp / Δlog p  (Δlog Σ exp x = Σ q Δx / Σ q)")
def log_sum_exp(site: Site, m: Value) -> Messages:
    """log Σ exp."""
    dims = site.args[1]
    q = _logarithmic_mean(*(call.x - kept(site, call.y, dims, targets=False) for call in (site, site.reference)))
    return (kept(site, m, dims, targets=True) * (q / torch.sum(q, dims, True)),)


def _logarithmic_mean(log_p: Value, log_p_0: Value) -> Value:
    """(p - p₀) / (log p - log p₀), and p where they are equal: max(p, p₀) (1 - exp(-d)) / d, d = |log p - log p₀|."""
    log_p, log_p_0 = (torch.clamp_min(a, _LEAST) for a in (log_p, log_p_0))  # of entries masked out, -inf
    d = torch.abs(log_p - log_p_0)
    same = d == 0
    share = -aten.expm1.default(-d) / torch.masked_fill(d, same, 1.0)
    return torch.exp(torch.maximum(log_p, log_p_0)) * torch.masked_fill(share, same, 1.0)


_LEAST = -1e4
"""Of logarithms of probabilities: exp of it is 0 in every dtype."""
