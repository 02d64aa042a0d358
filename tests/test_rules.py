"""Each rule on small random problems, against dense oracles; and the edges of the arithmetic."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import oracles
import pytest
import torch
from torch import Tensor, fx

from agf_fx.ir.facts import Facts, FlattenBoundary
from agf_fx.ir.types import BATCH, TensorType
from agf_fx.methods.gradient import input_times_gradient, target_indicator
from agf_fx.options import AGFOptions
from agf_fx.rules import agf, factorisation, linear_maps, numerics, propagation
from agf_fx.rules.gradients import vjp
from agf_fx.rules.site import Site

aten = torch.ops.aten
torch.set_num_threads(1)  # tensors are tiny: threads would only wait for each other

DIALECTS = ("reference", "paper")
SWITCHES = ("input_agnostic", "factorise_input", "factorise_gradient", "input_gradient", "regulariser")

# in channels, out channels, height, width, kernel, stride, padding, dilation, groups
GEOMETRIES = {
    "3×3": (3, 4, 5, 7, (3, 3), [1, 1], [0, 0], [1, 1], 1),
    "strided, remainder": (4, 3, 8, 6, (3, 3), [2, 2], [1, 1], [1, 1], 1),
    "stride past the kernel": (5, 3, 7, 8, (2, 2), [3, 3], [0, 0], [1, 1], 1),
    "dilated": (4, 3, 7, 6, (3, 2), [1, 1], [2, 0], [2, 3], 1),
    "groups": (4, 6, 5, 5, (3, 3), [1, 2], [1, 0], [1, 1], 2),
    "depthwise": (3, 3, 6, 5, (3, 1), [1, 1], [1, 0], [1, 1], 3),
    "1×1": (3, 2, 3, 3, (1, 1), [1, 1], [0, 0], [1, 1], 1),
}
each_geometry = pytest.mark.parametrize("geometry", GEOMETRIES)
each_dialect = pytest.mark.parametrize("dialect", DIALECTS)
each_seed = pytest.mark.parametrize("seed", range(3))


def random(*shape: int, zeros: float = 0.0) -> Tensor:
    values = torch.randn(shape, dtype=torch.float64)
    return values.masked_fill(torch.rand(shape) < zeros, 0.0)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    assert torch.isfinite(actual).all()
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())


def make_site(op: Callable[..., Any], x: Tensor, *args: Any, facts: Facts | None = None, signals: int = 1) -> Site:
    """A call of ``op`` on signals and other arguments, as it stands in a canonical graph."""
    graph = fx.Graph()
    given = [graph.placeholder(f"input{i}") if isinstance(a, Tensor) else a for i, a in enumerate((x, *args))]
    for i, (node, value) in enumerate(zip(given, (x, *args), strict=True)):
        if isinstance(node, fx.Node):
            shape = (BATCH, *value.shape[1:]) if i < signals else tuple(value.shape)
            node.meta.update(type=TensorType(shape, value.dtype), depends_on_images=i < signals)
    y = op(x, *args)
    call = graph.call_function(op, tuple(given))
    kind = TensorType((BATCH, *y.shape[1:]), y.dtype)
    call.meta.update(type=kind, depends_on_images=True, facts=facts or Facts())
    return Site(call, (x, *args), y)


@dataclass(frozen=True)
class Problem:
    """A linear layer in a backward pass, for the rules and for the oracles."""

    site: Site
    layer: oracles.Layer
    phi: Tensor
    g: Tensor

    def rule(self, rule: Callable[..., Any], **options: Any) -> Tensor:
        (relevance,) = rule(self.site, self.phi, self.g, vjp(self.site, self.g), **options)
        return relevance

    def oracle(self, oracle: Callable[..., Tensor], *streams: Tensor, **options: Any) -> Tensor:
        return oracles.each(functools.partial(oracle, self.layer), self.site.x, *streams, **options)

    def sample(self, i: int) -> Problem:
        """The same with the i-th sample alone."""
        x, *rest = self.site.args
        site = make_site(self.site.node.target, x[i : i + 1], *rest, facts=self.site.facts)
        return Problem(site, self.layer, self.phi[i : i + 1], self.g[i : i + 1])


def convolution_problem(geometry: str, seed: int = 0, batch: int = 2, zeros: float = 0.2) -> Problem:
    torch.manual_seed(seed)
    inputs, outputs, height, width, kernel, stride, padding, dilation, groups = GEOMETRIES[geometry]
    weight = random(outputs, inputs // groups, *kernel)
    x = random(batch, inputs, height, width, zeros=zeros)
    site = make_site(aten.conv2d.default, x, weight, random(outputs), stride, padding, dilation, groups)
    places = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    layer = oracles.convolution(weight, x.shape[1:], **places)
    return Problem(site, layer, random(*site.y.shape, zeros=zeros), random(*site.y.shape, zeros=zeros))


def linear_problem(*shape: int, outputs: int = 3, seed: int = 0, facts: Facts | None = None) -> Problem:
    torch.manual_seed(seed)
    x, weight = random(2, *shape, zeros=0.2), random(outputs, shape[-1])
    site = make_site(aten.linear.default, x, weight, random(outputs), facts=facts)
    return Problem(site, oracles.linear(weight, shape), random(*site.y.shape), random(*site.y.shape))


# Linear maps


@each_geometry
def test_convolution_and_its_adjoint_are_the_matrix(geometry):
    problem = convolution_problem(geometry)
    L = problem.layer.matrix(-problem.layer.weight)
    Lx = linear_maps.apply(problem.site, problem.site.x, -problem.site.weight)
    close(Lx.flatten(1), problem.site.x.flatten(1) @ L.T)
    LTs = linear_maps.adjoint(problem.site, problem.phi, -problem.site.weight)
    close(LTs.flatten(1), problem.phi.flatten(1) @ L)


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5)])
def test_linear_layer_and_its_adjoint_are_the_matrix(shape):
    problem = linear_problem(*shape)
    L = problem.layer.signed
    close(
        linear_maps.apply(problem.site, problem.site.x, problem.site.weight).flatten(1), problem.site.x.flatten(1) @ L.T
    )
    close(vjp(problem.site, problem.g)[0].flatten(1), problem.g.flatten(1) @ L)


@each_geometry
@each_seed
def test_flat_convolution(geometry, seed):
    problem = convolution_problem(geometry, seed)
    close(problem.rule(propagation.flat), problem.oracle(oracles.absolute_influence, problem.phi))


@pytest.mark.parametrize("shape", [(6,), (4, 5), (2, 3, 5)])
def test_flat_linear_layer(shape):
    problem = linear_problem(*shape)
    close(problem.rule(propagation.flat), problem.oracle(oracles.absolute_influence, problem.phi))


@each_geometry
def test_input_agnostic_influence(geometry):
    problem = convolution_problem(geometry)
    A = agf.input_agnostic_influence(problem.site, problem.phi)
    close(A, problem.oracle(oracles.input_agnostic_influence, problem.phi))


@each_geometry
@each_seed
def test_z_box_convolution(geometry, seed):
    problem = convolution_problem(geometry, seed, zeros=0.0)
    close(problem.rule(propagation.z_box), problem.oracle(oracles.z_box, problem.phi))


def test_z_box_linear_layer():
    problem = linear_problem(7)
    close(problem.rule(propagation.z_box), problem.oracle(oracles.z_box, problem.phi))


# Convolutions with residual terms


def ablations() -> list[AGFOptions]:
    """Every combination of dialect and switches."""
    flags = [dict(zip(SWITCHES, on, strict=True)) for on in itertools.product((True, False), repeat=len(SWITCHES))]
    numerators = [{}, {"numerator": "gradcam"}]
    allowed = [
        more | numerator
        for more in flags
        for numerator in numerators
        if not numerator or (more["factorise_input"] and more["input_gradient"])
    ]
    return [AGFOptions(dialect=dialect, **switches) for dialect in DIALECTS for switches in allowed]


def option_text(options: AGFOptions) -> str:
    off = [name for name in SWITCHES if not getattr(options, name)]
    return " ".join([options.dialect, options.numerator, *(f"-{name}" for name in off)])


@pytest.mark.parametrize("options", ablations(), ids=option_text)
def test_convolution_under_every_option(options):
    problem = convolution_problem("groups", seed=5)
    relevance = problem.rule(agf.guided_convolution, options=options)
    close(relevance, problem.oracle(oracles.convolution_step, problem.phi, problem.g, options=options))


@each_geometry
@each_dialect
@each_seed
def test_convolution(geometry, dialect, seed):
    problem, options = convolution_problem(geometry, seed), AGFOptions(dialect=dialect)
    relevance = problem.rule(agf.guided_convolution, options=options)
    close(relevance, problem.oracle(oracles.convolution_step, problem.phi, problem.g, options=options))


@each_dialect
def test_convolution_conserves_what_c_conserves(dialect):
    problem = convolution_problem("3×3", seed=7)
    relevance = problem.rule(agf.guided_convolution, options=AGFOptions(dialect=dialect))
    C = agf.absolute_influence(problem.site, problem.phi)
    assert not torch.allclose(relevance, C)
    close(relevance.sum((1, 2, 3)), C.sum((1, 2, 3)))


@pytest.mark.parametrize("zero", ["x", "phi", "g", "everything"])
@each_dialect
def test_convolution_of_nothing_is_finite(zero, dialect):
    problem = convolution_problem("strided, remainder")
    x = problem.site.x * (zero not in ("x", "everything"))
    phi, g = problem.phi * (zero not in ("phi", "everything")), problem.g * (zero not in ("g", "everything"))
    empty = Problem(make_site(problem.site.node.target, x, *problem.site.args[1:]), problem.layer, phi, g)
    options = AGFOptions(dialect=dialect)
    expected = empty.oracle(oracles.convolution_step, phi, g, options=options)
    close(empty.rule(agf.guided_convolution, options=options), expected)
    assert bool(expected.any()) == (zero == "g")


# Guided factorisation


@each_dialect
@each_seed
def test_guided_factorisation(dialect, seed):
    torch.manual_seed(seed)
    Y, partition = random(3, 5, 4, 3), random(3, 1, 4, 3, zeros=0.3)
    F = factorisation.guided_factorisation(Y, partition, [4, 3], dialect)
    close(F[:, 0], oracles.each(oracles.factorise, Y, partition[:, 0], dialect=dialect))


@pytest.mark.parametrize("sign", [1.0, -1.0, 0.0], ids=["all foreground", "all background", "neither"])
@each_dialect
def test_guided_factorisation_with_an_empty_region(sign, dialect):
    torch.manual_seed(0)
    Y, partition = random(2, 4, 3, 3), sign * (random(2, 1, 3, 3).abs() + 0.1)
    F = factorisation.guided_factorisation(Y, partition, [3, 3], dialect)
    close(F[:, 0], oracles.each(oracles.factorise, Y, partition[:, 0], dialect=dialect))
    assert (F > 0).all() if sign > 0 else (F <= 0).all()
    assert F.any() == (sign != 0 or dialect == "paper")


@each_dialect
@pytest.mark.parametrize("channels", [1, 3])
def test_guided_factorisation_of_rank_one(dialect, channels):
    """One channel, or equal columns: the two regions cannot be told apart by direction."""
    torch.manual_seed(0)
    Y = random(2, 1, 3, 4).expand(2, channels, 3, 4)
    partition = random(2, 1, 3, 4)
    F = factorisation.guided_factorisation(Y, partition, [3, 4], dialect)
    close(F[:, 0], oracles.each(oracles.factorise, Y, partition[:, 0], dialect=dialect))


def test_guided_factorisation_near_rank_one_leaves_the_small_direction_out():
    """Paper dialect: plain least squares would amplify the difference of the regions' means without bound."""
    torch.manual_seed(0)
    Y = torch.ones(2, 3, 3, 4, dtype=torch.float64) + 1e-4 * random(2, 3, 3, 4)
    partition = random(2, 1, 3, 4)
    F = factorisation.guided_factorisation(Y, partition, [3, 4], "paper")
    close(F[:, 0], oracles.each(oracles.factorise, Y, partition[:, 0], dialect="paper", rank_tolerance=1e-3), 1e-4)


# Flatten boundary


@pytest.mark.parametrize(
    ("shape", "channel_dim"), [((3, 5, 4), 1), ((5, 4, 3), 3), ((4, 3), 1), ((2, 3, 2, 3), 2)], ids=str
)
@each_seed
def test_flatten_boundary(shape, channel_dim, seed):
    facts = Facts(flatten_boundary=FlattenBoundary(shape, channel_dim))
    problem = linear_problem(torch.Size(shape).numel(), outputs=4, seed=seed, facts=facts)
    expected = problem.oracle(
        oracles.flatten_boundary, problem.phi, problem.g, shape=shape, channel_dim=channel_dim - 1
    )
    close(problem.rule(agf.flatten_boundary), expected)


# Initial gradient


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 30.0, 1e8])
def test_softened_target_gradient(classes, scale):
    torch.manual_seed(classes)
    y = scale * random(classes, classes)
    target = torch.arange(classes)
    assert (y.gather(1, target[:, None]) < 0).any()
    expected = torch.stack([oracles.softened_target_gradient(*pair) for pair in zip(y, target.tolist(), strict=True)])
    close(agf.softened_target_gradient(y, target), expected)


@pytest.mark.parametrize(
    "logits",
    {
        "tie at the far end": [1.0, 4.0, 4.0, 2.0],
        "tie on either side": [1.0, 3.0, -1.0, 1.5],
        "tie with the target": [1.0, 1.0, 1.0, -2.0],
        "target lowest": [-3.0, 2.0, 0.5, 1.0],
        "target zero": [0.0, 2.0, -0.5, 1.0],
    }.items(),
    ids=lambda item: item[0],
)
def test_softened_target_gradient_of_special_logits(logits):
    y = torch.tensor(logits[1], dtype=torch.float64)
    close(agf.softened_target_gradient(y[None], torch.tensor([0]))[0], oracles.softened_target_gradient(y, 0))


@pytest.mark.parametrize(
    "logits", [[800.0, 2.0, -900.0, 1.0], [60.0, 1.0, 0.0, 2.0], [-50.0, 40.0, 3.0, -70.0]], ids=str
)
def test_softened_target_gradient_keeps_its_digits_where_the_score_saturates(logits):
    y = torch.tensor([logits], dtype=torch.float64)
    expected = oracles.exact_softened_target_gradient(logits, 0)
    close(agf.softened_target_gradient(y, torch.tensor([0]))[0], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("value", [0.0, -3.0, 1e6])
def test_softened_target_gradient_of_equal_logits_is_zero(value):
    y = torch.full((2, 4), value, dtype=torch.float64)
    assert torch.equal(agf.softened_target_gradient(y, torch.tensor([0, 3])), torch.zeros_like(y))


def test_target_indicator_is_the_gradient_of_the_logit():
    y, target = random(3, 4).requires_grad_(), torch.tensor([1, 3, 0])
    (expected,) = torch.autograd.grad(y.gather(1, target[:, None]).sum(), y)
    assert torch.equal(target_indicator(y, target), expected)


# Merges, fan-out and read-out


@pytest.mark.parametrize("op", [aten.add.Tensor, aten.sub.Tensor])
def test_merge_hands_nothing_on_where_its_sides_cancel(op):
    torch.manual_seed(0)
    sign = -1 if op is aten.add.Tensor else 1
    a, other, phi = random(2, 3, 4), random(2, 3, 4), random(2, 3, 4)
    b = torch.where(a > 0.5, sign * a, other)
    site = make_site(op, a, b, signals=2)
    assert (site.y == 0).any()
    found = propagation.proportional(site, phi, phi, vjp(site, phi))
    for part, expected in zip(found, oracles.proportional(op, (a, b), phi), strict=True):
        close(part, expected)


def test_fan_out_sums_where_the_value_is_not_zero():
    torch.manual_seed(0)
    x, parts = random(2, 3, 4, zeros=0.4), [random(2, 3, 4) for _ in range(3)]
    relevance = agf.fan_out(x, parts)
    close(relevance, oracles.fan_out(x, parts))
    close(relevance, sum(parts) * (x != 0), tolerance=1e-6)


def test_read_out_divides_each_image_by_its_maximum():
    torch.manual_seed(0)
    phi = torch.stack([random(3, 4, 5), -random(3, 4, 5).abs(), torch.zeros(3, 4, 5, dtype=torch.float64)])
    maps = agf.normalised_channel_sum(phi, phi, phi, 4)
    close(maps, oracles.each(oracles.normalised_channel_sum, phi))
    assert not maps[2].any()


def test_input_times_gradient_sums_over_channels():
    x, g = random(2, 3, 4, 5), random(2, 3, 4, 5)
    close(input_times_gradient(x, x, g, 4), torch.einsum("nchw,nchw->nhw", x, g))


# Arithmetic


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (3.0, 0.0, 0.0),
        (3.0, -0.0, 0.0),
        (0.0, 2.0, 0.0),
        (3.0, -1e-9, 3e9),
        (3.0, 1e-9, 1.5e9),
        (3.0, -1e-8, 3.0 / -9e-9),
        (3.0, 5e-324, 3e9),
        (-3.0, 2.0, -3.0 / (2.0 + 1e-9)),
    ],
)
def test_div(a, b, expected):
    result = numerics.div(torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64))
    torch.testing.assert_close(result, torch.tensor([expected], dtype=torch.float64), rtol=1e-14, atol=0)


def test_div_at_minus_epsilon_in_float32():
    b = torch.tensor([-1e-9], dtype=torch.float32)
    torch.testing.assert_close(numerics.div(torch.ones(1), b), torch.tensor([1e9]))


def test_divide_or_zero_is_exact():
    a, b = random(20), random(20, zeros=0.5)
    quotients = [0.0 if bottom == 0 else top / bottom for top, bottom in zip(a.tolist(), b.tolist(), strict=True)]
    assert torch.equal(numerics.divide_or_zero(a, b), torch.tensor(quotients, dtype=torch.float64))


def test_max_normalise():
    a = torch.stack([random(2, 3), -random(2, 3).abs(), torch.zeros(2, 3, dtype=torch.float64)])
    normalised = numerics.max_normalise(a, 3)
    close(normalised, oracles.each(oracles.max_normalise, a))
    close(normalised[0].max(), torch.tensor(1.0, dtype=torch.float64), tolerance=1e-7)
    close(normalised[1].min(), torch.tensor(1.0, dtype=torch.float64), tolerance=1e-7)  # all negative: signs turn
    assert not normalised[2].any()


def test_delta_shift_adds_a_residual_and_keeps_the_sum():
    torch.manual_seed(0)
    C, r = random(2, 3, 4, 5, zeros=0.4), 100 * random(2, 3, 4, 5)
    r = r * (C != 0)
    shifted = numerics.delta_shift(C, r, 4)
    close(shifted, oracles.each(oracles.delta_shift, C, r))
    close(shifted.sum((1, 2, 3)), C.sum((1, 2, 3)))
    assert not shifted[C == 0].any()


def test_delta_shift_of_nothing():
    C = torch.stack([torch.zeros(2, 3), torch.ones(2, 3)]).double()
    shifted = numerics.delta_shift(C, torch.stack([torch.zeros(2, 3), torch.eye(2, 3)]).double(), 3)
    assert torch.equal(shifted[0], C[0])
    close(shifted[1].sum(), C[1].sum())


# Samples do not see each other


def batch_of_scales() -> Problem:
    """Samples of very different size, one of them zero."""
    problem = convolution_problem("strided, remainder", batch=4)
    scale = torch.tensor([1.0, 1e4, 1e-4, 0.0], dtype=torch.float64).reshape(-1, 1, 1, 1)
    site = make_site(problem.site.node.target, problem.site.x * scale, *problem.site.args[1:])
    return Problem(site, problem.layer, problem.phi / (scale + 1), problem.g * scale)


CONVOLUTION_RULES = {
    "C": propagation.flat,
    "z box": propagation.z_box,
    "initial attribution": propagation.initial_attribution,
    **{f"guided, {d}": functools.partial(agf.guided_convolution, options=AGFOptions(dialect=d)) for d in DIALECTS},
    "guided, Grad-CAM": functools.partial(agf.guided_convolution, options=AGFOptions(numerator="gradcam")),
}


@pytest.mark.parametrize("rule", CONVOLUTION_RULES.values(), ids=CONVOLUTION_RULES)
def test_samples_of_a_convolution_are_independent(rule):
    problem = batch_of_scales()
    for i, together in enumerate(problem.rule(rule)):
        close(together, problem.sample(i).rule(rule)[0], tolerance=1e-12)


def test_samples_of_a_flatten_boundary_are_independent():
    problem = linear_problem(12, facts=Facts(flatten_boundary=FlattenBoundary((3, 2, 2), 1)))
    for i, together in enumerate(problem.rule(agf.flatten_boundary)):
        close(together, problem.sample(i).rule(agf.flatten_boundary)[0], tolerance=1e-12)


def test_samples_of_the_initial_gradient_are_independent():
    y, target = torch.tensor([[1.0], [1e3], [0.0]], dtype=torch.float64) * random(3, 5), torch.tensor([4, 0, 2])
    alone = [agf.softened_target_gradient(y[i : i + 1], target[i : i + 1])[0] for i in range(3)]
    close(agf.softened_target_gradient(y, target), torch.stack(alone), tolerance=1e-12)
