"""The extension point: an operation of the user's own library, refused before registration and explained after."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from emission import weights
from torch import Tensor, nn

import agf_fx
from agf_fx.emit import Streams, interpret
from agf_fx.errors import OptionsError, UnsupportedOpError, VerifyError
from agf_fx.ir.vocabulary import VOCABULARY, Family
from agf_fx.methods.agf import attribution_guided_factorization
from agf_fx.pipeline import lower, verify_step
from agf_fx.rules import register
from agf_fx.rules.gradients import VJPS
from agf_fx.runtime.program import Program

aten = torch.ops.aten


@torch.library.custom_op("agf_tests::cube", mutates_args=())
def cube(x: Tensor) -> Tensor:
    return x**3


@cube.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("agf_tests::blend", mutates_args=())
def blend(x: Tensor, y: Tensor) -> Tensor:
    return 2 * x + y


@blend.register_fake
def _(x: Tensor, y: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("agf_tests::scale", mutates_args=())
def scale(x: Tensor, *, factor: float = 2.0) -> Tensor:
    return x * factor


@scale.register_fake
def _(x: Tensor, *, factor: float = 2.0) -> Tensor:
    return torch.empty_like(x)


SCALE = torch.ops.agf_tests.scale.default
CUBE, BLEND = torch.ops.agf_tests.cube.default, torch.ops.agf_tests.blend.default


def cube_vjp(site, g):
    return (g * 3.0 * site.x * site.x,)


def blend_vjp(site, g):
    return g * 2.0, g


class Cube(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.agf_tests.cube(x)  # the user's line


class Blend(nn.Module):
    """A sum that a ReLU closes."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.agf_tests.blend(x, x.relu()).relu()


class Scale(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.agf_tests.scale(x, factor=3.0)


def network(middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), middle), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(4, 3)).double().eval()


IMAGES = torch.randn(2, 3, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([[0, 1], [2, 0]])  # (images, targets)


@pytest.fixture(autouse=True)
def _tables() -> Iterator[None]:
    """Leave the global tables as they were."""
    tables = (VOCABULARY, VJPS, register._REGISTERED)
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


def explained(model: nn.Module) -> tuple[Streams, dict[Callable[..., Any], str]]:
    """The streams of the model's explanation, and the name of each operation's node.

    Emitted, it gives the same bits; optimised, the same up to rounding.
    """
    canonical, method = agf_fx.capture(model, IMAGES), attribution_guided_factorization(agf_fx.AGFOptions())
    emitted = lower(canonical, method, verify_step, optimisations=())
    inputs = weights(canonical, model)
    streams = interpret(canonical, method, IMAGES, TARGET, inputs)
    maps, logits = emitted.module(IMAGES, TARGET, *inputs.values())
    assert torch.equal(maps, streams.maps)
    assert torch.equal(logits, streams.logits)
    optimised = Program(canonical, lower(canonical, method, verify_step))
    maps, logits = optimised.run(IMAGES, TARGET, optimised.inputs(model))
    torch.testing.assert_close(maps, streams.maps, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(logits, streams.logits, rtol=1e-12, atol=1e-12)
    return streams, {node.target: node.name for node in canonical.calls}


def test_unregistered_operation_is_refused():
    with pytest.raises(UnsupportedOpError) as caught:
        agf_fx.capture(network(Cube()), IMAGES)
    error = caught.value
    assert error.op == "agf_tests.cube.default"
    assert error.module_path == "1.1"
    assert error.source.startswith(f"{__file__}:")
    assert error.source.endswith("# the user's line")
    for text in (
        error.op,
        repr(error.module_path),
        error.source,
        "agf_fx.register_rule(torch.ops.agf_tests.cube.default",
    ):
        assert text in str(error)


@pytest.mark.parametrize("family", ["proportional", "pass-through", Family.DATA_MOVEMENT])
def test_family_by_name(family):
    agf_fx.register_rule(CUBE, family, vjp=cube_vjp)
    model = network(Cube())
    streams, name = explained(model)
    phi, x = streams.relevance[name[CUBE]], model[:1](IMAGES).relu().detach()
    expected = {
        "proportional": 3 * x**3 * torch.where(x == 0, 0, phi / (x**3 + 1e-9)),
        "pass-through": phi,
        "data movement": 3 * x**2 * phi,
    }[family]
    assert expected.any()
    torch.testing.assert_close(streams.relevance[name[aten.relu.default]], expected)


def test_gradient_passes_by_the_given_vjp():
    agf_fx.register_rule(CUBE, "pass-through", vjp=cube_vjp)
    model = network(Cube())
    streams, name = explained(model)
    model[1][1].forward = lambda x: x**3  # which autograd can differentiate
    images = IMAGES.clone().requires_grad_()
    for found, seed in zip(streams.gradient["images"], streams.gradient[name[aten.linear.default]], strict=True):
        (expected,) = torch.autograd.grad(model(images), images, seed)
        assert expected.any()
        torch.testing.assert_close(found, expected)


def test_rule_as_a_function():
    def rule(site, phi):
        return (phi * 0.5 + site.x * site.sent["gradient"].handed[0],)

    agf_fx.register_rule(CUBE, rule, vjp=cube_vjp)
    model = network(Cube())
    streams, name = explained(model)
    relu = name[aten.relu.default]
    expected = 0.5 * streams.relevance[name[CUBE]] + model[:1](IMAGES).relu().detach() * streams.gradient[relu]
    assert expected.any()
    torch.testing.assert_close(streams.relevance[relu], expected)


def test_merge_of_two_operands():
    agf_fx.register_rule(BLEND, "merge", vjp=blend_vjp, operands=(0, 1))
    model = network(Blend())
    streams, name = explained(model)
    x, phi = model[:1](IMAGES).relu().detach(), streams.relevance[name[BLEND]]
    share = torch.where(x == 0, 0, phi / (3 * x + 1e-9))
    of_x, of_y = streams.handed["relevance"][name[BLEND]]
    assert share.any()
    torch.testing.assert_close(of_x, 2 * x * share)
    torch.testing.assert_close(of_y, x * share)


def test_second_signal_that_is_no_operand_is_refused():
    agf_fx.register_rule(BLEND, "pass-through", vjp=lambda site, g: (g * 2.0,))
    with pytest.raises(UnsupportedOpError, match="computed from the images"):
        agf_fx.capture(network(Blend()), IMAGES)


def test_registering_again_replaces_the_rule():
    agf_fx.register_rule(CUBE, lambda site, phi: (phi * 0.0,), vjp=cube_vjp)
    agf_fx.register_rule(CUBE, "pass-through", vjp=cube_vjp)
    streams, name = explained(network(Cube()))
    assert streams.relevance[name[CUBE]].any()
    assert torch.equal(streams.relevance[name[aten.relu.default]], streams.relevance[name[CUBE]])


def test_rule_that_changes_the_shape_is_found_by_the_verifier():
    agf_fx.register_rule(CUBE, lambda site, phi: (torch.sum(phi, [1], True),), vjp=cube_vjp)
    canonical = agf_fx.capture(network(Cube()), IMAGES)
    with pytest.raises(VerifyError, match="is the relevance of %_1_0_relu"):
        lower(canonical, attribution_guided_factorization(agf_fx.AGFOptions()), verify_step)


def test_keyword_only_arguments_are_kept_or_refused():
    agf_fx.register_rule(SCALE, "pass-through", vjp=lambda site, g: (g * 3.0,))
    model = network(Scale())
    with contextlib.suppress(UnsupportedOpError):
        streams, _ = explained(model)
        torch.testing.assert_close(streams.logits, model(IMAGES))


@pytest.mark.parametrize("op", [aten.relu.default, aten.add.Tensor, aten.conv2d.default])
def test_built_in_operation_cannot_be_replaced(op):
    before = VOCABULARY[op], VJPS[op]
    with pytest.raises(OptionsError, match="built in"):
        agf_fx.register_rule(op, "pass-through", vjp=cube_vjp)
    assert (VOCABULARY[op], VJPS[op]) == before


@pytest.mark.parametrize(
    ("op", "rule", "message"),
    [
        (torch.ops.agf_tests.cube, "pass-through", "no operator overload"),
        (torch.relu, "pass-through", "no operator overload"),
        (CUBE, "convolution", "no rule family 'convolution'"),
        (CUBE, "tail", "no rule family 'tail'"),
        (CUBE, "Proportional", "choose one of proportional, pass-through, data movement, merge"),
    ],
)
def test_bad_arguments_are_refused_and_change_nothing(op, rule, message):
    with pytest.raises(OptionsError, match=message):
        agf_fx.register_rule(op, rule, vjp=cube_vjp)
    assert CUBE not in VOCABULARY
    assert CUBE not in VJPS


class Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.i0(x)


def test_the_example_of_the_documentation_runs():
    """It gives the gradient of autograd, and the relevance of the captured derivative of the same operation."""
    _, _, example = agf_fx.register_rule.__doc__.partition("::\n")
    code = textwrap.dedent(example.partition("\n\n    Without")[0])
    model = network(Bessel())
    with pytest.warns(UserWarning, match="aten.i0.default has no relevance rule"):
        expected = agf_fx.compile(model, IMAGES, unknown_ops="gradient")(IMAGES, TARGET)
    exec(code, {"agf_fx": agf_fx, "torch": torch})
    streams, _ = explained(model)
    assert expected.any()
    torch.testing.assert_close(streams.maps, expected)
    images = IMAGES.clone().requires_grad_()
    for found, seed in zip(streams.gradient["images"], streams.gradient["_4_linear"], strict=True):
        (g,) = torch.autograd.grad(model(images), images, seed)
        torch.testing.assert_close(found, g)
