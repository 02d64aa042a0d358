"""Each rule on small random problems, against dense oracles; and the edges of the arithmetic."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from torch import Tensor, fx

from agf_fx.ir.facts import Facts, FlattenBoundary
from agf_fx.ir.types import BATCH, TensorType
from agf_fx.methods.gradient import target_indicator
from agf_fx.options import AGFOptions
from agf_fx.rules import agf, factorisation, linear_maps, merging, numerics, propagation
from agf_fx.rules.gradients import vjp
from agf_fx.rules.rule import Rule
from agf_fx.rules.site import GRADIENT, Sent, Site
from agf_fx.rules.targets import chosen_classes, class_of

aten = torch.ops.aten
torch.set_num_threads(1)  # tensors are tiny: threads would only wait for each other

TARGETS = 2  # how many targets the problems have: streams are (TARGETS, N, ...), forward values (N, ...)
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


def make_site(
    op: Callable[..., Any],
    x: Tensor,
    *args: Any,
    facts: Facts | None = None,
    signals: int = 1,
    targets: int = TARGETS,
) -> Site:
    """A call of ``op`` on signals and other arguments, as it stands in a canonical graph."""
    graph = fx.Graph()
    given = [graph.placeholder(f"input{i}") if isinstance(a, Tensor) else a for i, a in enumerate((x, *args))]
    for i, (node, value) in enumerate(zip(given, (x, *args), strict=True)):
        if isinstance(node, fx.Node):
            shape = (BATCH, *value.shape[1:]) if i < signals else tuple(value.shape)
            node.meta.update(type=TensorType(shape, value.dtype), depends_on_images=i < signals)
    y = op(x, *args)
    call = graph.call_function(op, tuple(given))
    kinds = tuple(TensorType((BATCH, *out.shape[1:]), out.dtype) for out in (y if isinstance(y, tuple) else (y,)))
    kind = kinds if isinstance(y, tuple) else kinds[0]
    call.meta.update(type=kind, depends_on_images=True, facts=facts or Facts())
    return Site(call, (x, *args), y, targets)


@dataclass(frozen=True)
class Problem:
    """A linear layer in a backward pass for several targets, for the rules and for the oracles."""

    site: Site
    layer: oracles.Layer
    phi: Tensor
    g: Tensor

    def rule(self, rule: Rule) -> Tensor:
        self.site.sent[GRADIENT] = Sent(self.g, vjp(self.site, self.g))
        (relevance,) = rule(self.site, self.phi)
        return relevance

    def oracle(self, oracle: Callable[..., Tensor], *streams: Tensor, **options: Any) -> Tensor:
        """For one target after the other, and one sample after the other."""
        of_sample = functools.partial(oracle, self.layer, **options)
        return oracles.each(lambda *of_target: oracles.each(of_sample, self.site.x, *of_target), *streams)

    def sample(self, i: int) -> Problem:
        """The same with the i-th sample alone."""
        x, *rest = self.site.args
        site = make_site(self.site.node.target, x[i : i + 1], *rest, facts=self.site.facts)
        return Problem(site, self.layer, self.phi[:, i : i + 1], self.g[:, i : i + 1])

    def target(self, k: int) -> Problem:
        """The same with the k-th target alone."""
        site = dataclasses.replace(self.site, targets=1, sent={})
        return Problem(site, self.layer, self.phi[k : k + 1], self.g[k : k + 1])


def convolution_problem(geometry: str, seed: int = 0, batch: int = 2, zeros: float = 0.2) -> Problem:
    torch.manual_seed(seed)
    inputs, outputs, height, width, kernel, stride, padding, dilation, groups = GEOMETRIES[geometry]
    weight = random(outputs, inputs // groups, *kernel)
    x = random(batch, inputs, height, width, zeros=zeros)
    site = make_site(aten.conv2d.default, x, weight, random(outputs), stride, padding, dilation, groups)
    places = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    layer = oracles.convolution(weight, x.shape[1:], **places)
    phi, g = (random(TARGETS, *site.y.shape, zeros=zeros) for _ in range(2))
    return Problem(site, layer, phi, g)


def linear_problem(*shape: int, outputs: int = 3, seed: int = 0, facts: Facts | None = None) -> Problem:
    torch.manual_seed(seed)
    x, weight = random(2, *shape, zeros=0.2), random(outputs, shape[-1])
    site = make_site(aten.linear.default, x, weight, random(outputs), facts=facts)
    phi, g = (random(TARGETS, *site.y.shape) for _ in range(2))
    return Problem(site, oracles.linear(weight, shape), phi, g)


# Linear maps


@each_geometry
def test_convolution_and_its_adjoint_are_the_matrix(geometry):
    problem = convolution_problem(geometry)
    L = problem.layer.matrix(-problem.layer.weight)
    Lx = linear_maps.apply(problem.site, problem.site.x, -problem.site.weight)
    close(Lx.flatten(1), problem.site.x.flatten(1) @ L.T)
    LTs = linear_maps.adjoint(problem.site, problem.phi, -problem.site.weight)
    close(LTs.flatten(2), problem.phi.flatten(2) @ L)


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5)])
def test_linear_layer_and_its_adjoint_are_the_matrix(shape):
    problem = linear_problem(*shape)
    L = problem.layer.signed
    close(
        linear_maps.apply(problem.site, problem.site.x, problem.site.weight).flatten(1), problem.site.x.flatten(1) @ L.T
    )
    close(vjp(problem.site, problem.g)[0].flatten(2), problem.g.flatten(2) @ L)


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
    relevance = problem.rule(agf.guided_convolution(options))
    close(relevance, problem.oracle(oracles.convolution_step, problem.phi, problem.g, options=options))


@each_geometry
@each_dialect
@each_seed
def test_convolution(geometry, dialect, seed):
    problem, options = convolution_problem(geometry, seed), AGFOptions(dialect=dialect)
    relevance = problem.rule(agf.guided_convolution(options))
    close(relevance, problem.oracle(oracles.convolution_step, problem.phi, problem.g, options=options))


@each_dialect
def test_convolution_conserves_what_c_conserves(dialect):
    problem = convolution_problem("3×3", seed=7)
    relevance = problem.rule(agf.guided_convolution(AGFOptions(dialect=dialect)))
    C = agf.absolute_influence(problem.site, problem.phi)
    assert not torch.allclose(relevance, C)
    close(relevance.sum((2, 3, 4)), C.sum((2, 3, 4)))


@pytest.mark.parametrize("zero", ["x", "phi", "g", "everything"])
@each_dialect
def test_convolution_of_nothing_is_finite(zero, dialect):
    problem = convolution_problem("strided, remainder")
    x = problem.site.x * (zero not in ("x", "everything"))
    phi, g = problem.phi * (zero not in ("phi", "everything")), problem.g * (zero not in ("g", "everything"))
    empty = Problem(make_site(problem.site.node.target, x, *problem.site.args[1:]), problem.layer, phi, g)
    options = AGFOptions(dialect=dialect)
    expected = empty.oracle(oracles.convolution_step, phi, g, options=options)
    close(empty.rule(agf.guided_convolution(options)), expected)
    assert bool(expected.any()) == (zero == "g")


# Guided factorisation


def check_factorisation(Y: Tensor, guides: Tensor, dialect: str, tolerance: float = 1e-9, **more: Any) -> Tensor:
    """F of Y (N, C, h, w) for guides (N, J, h, w), against the oracle of each guide alone."""
    F = factorisation.guided_factorisation(Y, guides.flatten(2), Y.dim(), dialect).unflatten(2, guides.shape[2:])
    for j in range(guides.shape[1]):
        close(F[:, j], oracles.each(oracles.factorise, Y, guides[:, j], dialect=dialect, **more), tolerance)
    return F


@each_dialect
@each_seed
def test_guided_factorisation(dialect, seed):
    torch.manual_seed(seed)
    check_factorisation(random(3, 5, 4, 3), random(3, 2, 4, 3, zeros=0.3), dialect)


@each_dialect
def test_guided_factorisation_of_features_that_belong_to_targets(dialect):
    torch.manual_seed(0)
    Y, guides = random(2, 3, 5, 4, 3), random(2, 3, 1, 12, zeros=0.3)
    together = factorisation.guided_factorisation(Y, guides, 4, dialect)
    for k in range(2):
        close(together[k, :, 0], check_factorisation(Y[k], guides[k].unflatten(2, (4, 3)), dialect)[:, 0].flatten(1))


@pytest.mark.parametrize("sign", [1.0, -1.0, 0.0], ids=["all foreground", "all background", "neither"])
@each_dialect
def test_guided_factorisation_with_an_empty_region(sign, dialect):
    torch.manual_seed(0)
    Y, partition = random(2, 4, 3, 3), sign * (random(2, 2, 3, 3).abs() + 0.1)
    F = check_factorisation(Y, partition, dialect)
    assert (F > 0).all() if sign > 0 else (F <= 0).all()
    assert F.any() == (sign != 0 or dialect == "paper")


@each_dialect
@pytest.mark.parametrize("channels", [1, 3])
def test_guided_factorisation_of_rank_one(dialect, channels):
    """One channel, or equal columns: the two regions cannot be told apart by direction."""
    torch.manual_seed(0)
    Y = random(2, 1, 3, 4).expand(2, channels, 3, 4)
    check_factorisation(Y, random(2, 2, 3, 4), dialect)


def test_guided_factorisation_near_rank_one_leaves_the_small_direction_out():
    """Paper dialect: plain least squares would amplify the difference of the regions' means without bound."""
    torch.manual_seed(0)
    Y = torch.ones(2, 3, 3, 4, dtype=torch.float64) + 1e-4 * random(2, 3, 3, 4)
    check_factorisation(Y, random(2, 1, 3, 4), "paper", 1e-4, rank_tolerance=1e-3)


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


def all_targets(y: Tensor) -> Tensor:
    """Every class as a target of every sample: (classes, N)."""
    return torch.arange(y.shape[1])[:, None].expand(-1, len(y))


def of_every_target(oracle: Callable[[Tensor, int], Tensor], y: Tensor) -> Tensor:
    return torch.stack([torch.stack([oracle(sample, target) for sample in y]) for target in range(y.shape[1])])


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 30.0, 1e8])
def test_softened_target_gradient(classes, scale):
    torch.manual_seed(classes)
    y = scale * random(3, classes)
    assert (y < 0).any()
    # At 1e8, autograd cancels, and the rounding of y alone is worth 1e-8 of the gradient.
    oracle = oracles.softened_target_gradient if scale < 1e8 else oracles.exact_softened_target_gradient
    expected = of_every_target(oracle, y)
    for k, found in enumerate(agf.softened_target_gradient(y, all_targets(y))):
        close(found, expected[k], tolerance=1e-9 if scale < 1e8 else 1e-8)


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
    y = torch.tensor([logits[1]], dtype=torch.float64)
    expected = of_every_target(oracles.softened_target_gradient, y)
    for k, found in enumerate(agf.softened_target_gradient(y, all_targets(y))):
        close(found, expected[k])


@pytest.mark.parametrize(
    "logits", [[800.0, 2.0, -900.0, 1.0], [60.0, 1.0, 0.0, 2.0], [-50.0, 40.0, 3.0, -70.0]], ids=str
)
def test_softened_target_gradient_keeps_its_digits_where_the_score_saturates(logits):
    y = torch.tensor([logits], dtype=torch.float64)
    expected = of_every_target(oracles.exact_softened_target_gradient, y)
    for k, found in enumerate(agf.softened_target_gradient(y, all_targets(y))):
        close(found, expected[k])


@pytest.mark.parametrize("value", [0.0, -3.0, 1e6])
def test_softened_target_gradient_of_equal_logits_is_zero(value):
    y = torch.full((2, 4), value, dtype=torch.float64)
    found = agf.softened_target_gradient(y, torch.tensor([[0, 3], [1, 2], [3, 3]]))
    assert torch.equal(found, torch.zeros(3, 2, 4, dtype=torch.float64))


def test_target_indicator_is_the_gradient_of_the_logit():
    y, targets = random(3, 4).requires_grad_(), torch.tensor([[1, 3, 0], [2, 3, 1]])
    expected = [torch.autograd.grad(y.gather(1, target[:, None]).sum(), y)[0] for target in targets]
    assert torch.equal(target_indicator(y, targets), torch.stack(expected))


# Targets


LOGITS = torch.tensor([[1.0, 4.0, 4.0, -2.0, 4.0], [0.0, -1.0, 5.0, 2.0, 3.0]], dtype=torch.float64)
RANKED = torch.tensor([[1, 2, 4, 0, 3], [2, 4, 3, 0, 1]])  # equal logits by class number


def test_a_class_is_chosen_by_its_number():
    targets = torch.tensor([[0, 4, 1], [3, 3, 2]])
    assert torch.equal(chosen_classes(LOGITS, targets), targets.T)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_class_is_chosen_by_its_rank_and_equal_logits_rank_by_class_number(dtype):
    ranks = torch.arange(-1, -6, -1).expand(2, 5)
    assert torch.equal(chosen_classes(LOGITS.to(dtype), ranks), RANKED.T)
    assert torch.equal(chosen_classes(LOGITS.to(dtype), ranks[:, [4, 1]]), RANKED[:, [4, 1]].T)


def test_ranks_and_class_numbers_mix():
    targets = torch.tensor([[0, -1, -2, 3], [-3, 2, -5, 0]])
    assert torch.equal(chosen_classes(LOGITS, targets), torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]]).T)


def test_many_equal_logits_rank_by_class_number():
    found = chosen_classes(torch.zeros(2, 1000), torch.arange(-1, -1001, -1).expand(2, 1000))
    assert torch.equal(found, torch.arange(1000)[:, None].expand(1000, 2))


# Selections, merges, fan-out and read-out


SELECTIONS = {
    "ReLU": (aten.relu.default, ()),
    "max pool": (aten.max_pool2d_with_indices.default, ([3, 2], [2, 2], [1, 0], [1, 1], False)),
}


@pytest.mark.parametrize("selection", SELECTIONS)
@each_seed
def test_selection_hands_back_what_the_proportional_rule_does(selection, seed):
    torch.manual_seed(seed)
    op, args = SELECTIONS[selection]
    x = random(2, 3, 5, 6, zeros=0.3)
    x[0, 0] = -x[0, 0].abs() - 1e-9  # a map without a positive entry
    x[1, 1] = -1e-9
    site = make_site(op, x, *args)
    phi = random(TARGETS, *site.y.shape)
    (found,), (proportional,) = (rule(site, phi) for rule in (propagation.selective, propagation.proportional))
    close(found, proportional)
    y = functools.partial(lambda x: make_site(op, x, *args).y)
    for k in range(TARGETS):
        close(found[k], oracles.proportional(y, (x,), phi[k])[0])


@pytest.mark.parametrize("op", [aten.add.Tensor, aten.sub.Tensor])
def test_merge_hands_nothing_on_where_its_sides_cancel(op):
    torch.manual_seed(0)
    sign = -1 if op is aten.add.Tensor else 1
    a, other, phi = random(2, 3, 4), random(2, 3, 4), random(TARGETS, 2, 3, 4)
    b = torch.where(a > 0.5, sign * a, other)
    site = make_site(op, a, b, signals=2)
    assert (site.y == 0).any()
    found = propagation.proportional(site, phi)
    for k in range(TARGETS):
        for part, expected in zip(found, oracles.proportional(op, (a, b), phi[k]), strict=True):
            close(part[k], expected)


def test_fan_out_sums_where_the_value_is_not_zero():
    torch.manual_seed(0)
    x, parts = random(2, 3, 4, zeros=0.4), [random(TARGETS, 2, 3, 4) for _ in range(3)]
    x[0, 0, 0] = -1e-9
    relevance = merging.fan_out(x, parts, numerics.per_sample(x.dim()))
    for k in range(TARGETS):
        close(relevance[k], oracles.fan_out(x, [part[k] for part in parts]))
    away = x.abs() > 1e-3
    close(relevance[:, away], sum(parts)[:, away], tolerance=1e-6)
    assert not relevance[:, x == 0].any()


def test_read_out_divides_the_map_of_each_target_by_its_maximum():
    torch.manual_seed(0)
    phi = torch.stack([random(3, 4, 5), -random(3, 4, 5).abs(), torch.zeros(3, 4, 5, dtype=torch.float64)])
    phi = torch.stack([phi, 1e3 * phi.flip(0)])
    maps = agf.normalised_channel_sum(phi, 4, 1)
    close(maps, oracles.each(lambda samples: oracles.each(oracles.normalised_channel_sum, samples), phi))
    assert not maps[0, 2].any()
    assert not maps[1, 0].any()
    assert (maps[0, 1] < 0).all()


@pytest.mark.parametrize("largest", [0.0, -1e-3, 1e-5])
def test_the_signs_and_the_size_of_a_map_without_positive_relevance_are_right(largest):
    phi = -random(1, 1, 3, 4, 5).abs() - 0.1
    phi[0, 0, 0, 0, 0] = largest
    maps = agf.normalised_channel_sum(phi, 5, 2)
    torch.testing.assert_close(maps, phi.sum(2) / phi.abs().max())
    assert maps.max() < 0
    assert maps.abs().max() <= 3


def test_a_small_positive_maximum_scales_as_published():
    phi = -random(1, 1, 3, 4, 5).abs()
    phi[0, 0, 0, 0, 0] = 0.01 * phi.abs().max()
    torch.testing.assert_close(agf.normalised_channel_sum(phi, 5, 2), phi.sum(2) / phi.max())


def test_images_without_channels_are_not_summed():
    phi = random(2, 3, 4, 5)
    assert agf.normalised_channel_sum(phi, 3, None).shape == phi.shape


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


EDGES = [0.0, 1e-9, 2e-9, 1e-8, 1e-20, 1e-38, 1e-45, 5e-324, 1e-3, 1.0, 1e9, 1e30]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_stabiliser_at_the_edges(dtype):
    """Finite, and the formula's value to the last bit of the dtype."""
    b = torch.tensor([sign * edge for edge in EDGES for sign in (1, -1)], dtype=torch.float64).to(dtype)
    b = torch.cat([b, torch.tensor(-1e-9, dtype=dtype).nextafter(torch.tensor([0.0, -1.0], dtype=dtype))])
    shifted = b + numerics.EPSILON
    assert (shifted == 0).any()
    expected = torch.where(shifted == 0, torch.tensor(numerics.EPSILON, dtype=dtype), shifted)
    none = b == 0
    assert torch.equal(numerics.stabilised(b), expected)
    assert torch.equal(numerics.reciprocal(b), torch.where(none, 0.0, 1 / expected))
    assert torch.equal(numerics.share(b), b / expected)
    for result in (numerics.stabilised(b), numerics.reciprocal(b), numerics.share(b), numerics.div(b, b)):
        assert result.dtype == dtype
        assert result.isfinite().all()
    assert not numerics.share(b)[none].any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_nonzero_is_a_mask_of_numbers(dtype):
    a = torch.tensor([0.0, -0.0, 1e-45, -1e-45, 2.0, -3e30, 5e-324], dtype=torch.float64).to(dtype)
    assert torch.equal(numerics.nonzero(a), (a != 0).to(dtype))


def test_divide_or_zero_is_exact():
    a, b = random(20), random(20, zeros=0.5)
    quotients = [0.0 if bottom == 0 else top / bottom for top, bottom in zip(a.tolist(), b.tolist(), strict=True)]
    assert torch.equal(numerics.divide_or_zero(a, b), torch.tensor(quotients, dtype=torch.float64))


def test_max_normalise():
    a = torch.stack([random(2, 3), -random(2, 3).abs(), torch.zeros(2, 3, dtype=torch.float64)])
    normalised = numerics.max_normalise(a, 3)
    close(normalised, oracles.each(oracles.max_normalise, a))
    close(numerics.max_normalise(a, 3, 10.0), 10 * normalised)
    assert torch.equal(numerics.max_normalise(torch.stack([a, a.flip(0)]), 3)[1], normalised.flip(0))
    close(normalised[0].max(), torch.tensor(1.0, dtype=torch.float64), tolerance=1e-7)
    close(normalised[1].max(), torch.tensor(-1.0, dtype=torch.float64), tolerance=1e-7)  # all negative, and stays so
    assert not normalised[2].any()


def test_delta_shift_adds_a_residual_and_keeps_the_sum():
    torch.manual_seed(0)
    C, r = random(TARGETS, 2, 3, 4, 5, zeros=0.4), 100 * random(TARGETS, 2, 3, 4, 5)
    r = r * (C != 0)
    shifted = numerics.delta_shift(C, r, 4)
    for k in range(TARGETS):
        close(shifted[k], oracles.each(oracles.delta_shift, C[k], r[k]))
    close(shifted.sum((2, 3, 4)), C.sum((2, 3, 4)))
    assert not shifted[C == 0].any()


def test_delta_shift_of_nothing():
    C = torch.stack([torch.zeros(2, 3), torch.ones(2, 3)]).double()
    shifted = numerics.delta_shift(C, torch.stack([torch.zeros(2, 3), torch.eye(2, 3)]).double(), 3)
    assert torch.equal(shifted[0], C[0])
    close(shifted[1].sum(), C[1].sum())


# Samples do not see each other


def batch_of_scales() -> Problem:
    """Samples and targets of very different size, one sample zero."""
    problem = convolution_problem("strided, remainder", batch=4)
    scale = torch.tensor([1.0, 1e4, 1e-4, 0.0], dtype=torch.float64).reshape(-1, 1, 1, 1)
    site = make_site(problem.site.node.target, problem.site.x * scale, *problem.site.args[1:])
    phi, g = problem.phi / (scale + 1), problem.g * scale
    again = torch.tensor([1.0, 1e-3], dtype=torch.float64).reshape(-1, 1, 1, 1, 1)
    return Problem(site, problem.layer, phi * again, g / again)


CONVOLUTION_RULES = {
    "C": propagation.flat,
    "z box": propagation.z_box,
    "initial attribution": propagation.initial_attribution,
    **{f"guided, {d}": agf.guided_convolution(AGFOptions(dialect=d)) for d in DIALECTS},
    "guided, Grad-CAM": agf.guided_convolution(AGFOptions(numerator="gradcam")),
}


@pytest.mark.parametrize("rule", CONVOLUTION_RULES.values(), ids=CONVOLUTION_RULES)
def test_samples_and_targets_of_a_convolution_are_independent(rule):
    problem = batch_of_scales()
    together = problem.rule(rule)
    for i in range(together.shape[1]):
        close(together[:, i], problem.sample(i).rule(rule)[:, 0], tolerance=1e-12)
    for k in range(TARGETS):
        close(together[k], problem.target(k).rule(rule)[0], tolerance=1e-12)


def test_nearly_parallel_regions_keep_their_small_difference():
    """Far above what is taken for parallel, and far below what is plainly not: 1e-6 of |R_f|² lies between them."""
    R_b = random(1, 6).abs() + 0.5
    across = random(1, 6)
    across = across - (across * R_b).sum() / (R_b * R_b).sum() * R_b
    R_f = R_b + 1e-3 * across / across.norm() * R_b.norm()
    H = random(6, 7).abs()
    W_b, W_f = factorisation._least_squares(R_b, R_f, H)
    expected = torch.linalg.lstsq(torch.cat([R_b, R_f]).T, H, driver="gelsd").solution
    torch.testing.assert_close(torch.cat([W_b, W_f]), expected, rtol=1e-6, atol=1e-6)


def test_a_map_of_one_position_is_no_residual_in_single_precision():
    problem = linear_problem(5, facts=Facts(flatten_boundary=FlattenBoundary((5, 1, 1), 1)))
    assert torch.equal(problem.rule(agf.flatten_boundary), problem.rule(propagation.flat))


def test_class_0_at_position_0_is_class_0():
    target = torch.tensor([[4, 5, 9, 10, -1]])
    assert class_of(target, 5).tolist() == [[4, 0, 4, 0, -1]]


def test_samples_and_targets_of_a_flatten_boundary_are_independent():
    problem = linear_problem(12, facts=Facts(flatten_boundary=FlattenBoundary((3, 2, 2), 1)))
    together = problem.rule(agf.flatten_boundary)
    for i in range(together.shape[1]):
        close(together[:, i], problem.sample(i).rule(agf.flatten_boundary)[:, 0], tolerance=1e-12)
    for k in range(TARGETS):
        close(together[k], problem.target(k).rule(agf.flatten_boundary)[0], tolerance=1e-12)


def test_samples_and_targets_of_the_initial_gradient_are_independent():
    y = torch.tensor([[1.0], [1e3], [0.0]], dtype=torch.float64) * random(3, 5)
    targets = torch.tensor([[4, 0, 2], [1, 1, 0]])
    together = agf.softened_target_gradient(y, targets)
    for (k, i), target in np.ndenumerate(targets):
        alone = agf.softened_target_gradient(y[i : i + 1], torch.tensor([[target]]))
        close(together[k, i], alone[0, 0], tolerance=1e-12)
