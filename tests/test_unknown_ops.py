"""Operations without a rule, explained by their captured derivative."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from emission import weights
from torch import Tensor, nn

import agf_fx
from agf_fx.emit import interpret
from agf_fx.errors import OptionsError, UnsupportedOpError
from agf_fx.ir.facts import facts
from agf_fx.ir.vocabulary import VOCABULARY, Family, family_of
from agf_fx.methods.agf import attribution_guided_factorization
from agf_fx.pipeline import lower, verify_step
from agf_fx.runtime.program import Program

aten = torch.ops.aten

IMAGES = torch.randn(3, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([[0, 1], [2, 0], [1, -1]])  # (images, targets)


@torch.library.custom_op("agf_unknown::soften", mutates_args=())
def soften(x: Tensor, y: Tensor, power: float) -> tuple[Tensor, Tensor]:
    return x * torch.tanh(y) ** power, torch.zeros(x.shape[0], dtype=torch.int64)


@soften.register_fake
def _(x: Tensor, y: Tensor, power: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty([x.shape[0]], dtype=torch.int64)


def _keep(ctx, inputs, output):
    x, y, ctx.power = inputs
    ctx.save_for_backward(x, y)


def _soften_backward(ctx, g, _):
    x, y = ctx.saved_tensors
    t = torch.tanh(y)
    return g * t**ctx.power, g * x * ctx.power * t ** (ctx.power - 1) * (1 - t * t), None


soften.register_autograd(_soften_backward, setup_context=_keep)


@torch.library.custom_op("agf_unknown::no_derivative", mutates_args=())
def no_derivative(x: Tensor) -> Tensor:
    return x.clone()


@no_derivative.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("agf_unknown::stepped", mutates_args=())
def stepped(x: Tensor) -> Tensor:
    return torch.floor(4 * x) / 4


@stepped.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


stepped.register_autograd(lambda ctx, g: torch.zeros_like(g))


class Middle(nn.Module):
    """The operation, as a layer."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Network(nn.Module):
    """Values in (0, 1) go through the operation."""

    def __init__(self, function) -> None:
        super().__init__()
        self.conv, self.middle = nn.Conv2d(3, 4, 3), Middle(function)
        features = function(torch.rand(1, 4, 4, 4, dtype=torch.float64)).numel()
        self.fc = nn.Linear(features, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.middle(torch.sigmoid(self.conv(images))).flatten(1))


def network(function) -> nn.Module:
    torch.manual_seed(0)
    return Network(function).double().eval()


def tokens(x: Tensor) -> Tensor:
    """(positions, N, channels): the batch is not the first dimension."""
    return x.flatten(2).permute(2, 0, 1)


CASES = {
    aten.digamma.default: lambda x: torch.digamma(x + 1),
    aten.i0.default: torch.i0,
    aten.special_ndtri.default: torch.special.ndtri,
    aten.cumsum.default: lambda x: x.cumsum(1),
    aten.cumprod.default: lambda x: x.cumprod(1),
    aten.grid_sampler.default: lambda x: F.grid_sample(
        x, torch.tanh(x[:, :2]).permute(0, 2, 3, 1), align_corners=False
    ),
    aten.logcumsumexp.default: lambda x: torch.logcumsumexp(tokens(x), 0).permute(1, 2, 0),
    aten.sort.default: lambda x: x.reshape(-1, 2, 16).sort(2)[0].reshape(-1, 4, 4, 4),
    aten.polygamma.default: lambda x: torch.polygamma(1, x + 1),
    aten.linalg_inv.default: lambda x: torch.linalg.inv(x + 2 * torch.eye(4, dtype=x.dtype)),
    aten.cumsum.default: lambda x: x.cumsum(2),
    aten.special_zeta.default: lambda x: torch.special.zeta(
        (x > 0.2).double() + 2, x + 1
    ),  # reads a mask made of the images
    torch.ops.agf_unknown.soften.default: lambda x: torch.ops.agf_unknown.soften(x, x.flip(3) + 0.5, 3.0)[0],
}
each_case = pytest.mark.parametrize("op", CASES, ids=str)


def captured(model: nn.Module):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no relevance rule")
        return agf_fx.capture(model, IMAGES[:1], unknown_ops="gradient")


@each_case
def test_streams(op):
    """Forward and gradient are the model's, relevance is the proportional rule, and the emitted graph gives the bits."""
    assert op not in VOCABULARY
    model = network(CASES[op])
    canonical, method = captured(model), attribution_guided_factorization(agf_fx.AGFOptions())
    (node,) = (node for node in canonical.calls if node.target is op)
    assert family_of(node) is Family.PROPORTIONAL
    assert "captured vjp" in str(canonical)
    emitted = lower(canonical, method, verify_step, optimisations=())
    inputs = weights(canonical, model)
    streams = interpret(canonical, method, IMAGES, TARGET, inputs)

    maps, logits = emitted.module(IMAGES, TARGET, *inputs.values())
    assert torch.equal(maps, streams.maps)
    assert torch.equal(logits, streams.logits)
    torch.testing.assert_close(logits, model(IMAGES), rtol=1e-12, atol=1e-12)

    images = IMAGES.clone().requires_grad_()
    y = model(images)
    for found, seed in zip(streams.gradient["images"], streams.gradient[canonical.logits.name], strict=True):
        (expected,) = torch.autograd.grad(y, images, seed, retain_graph=True)
        assert expected.any()
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)

    optimised = Program(canonical, lower(canonical, method, verify_step))
    maps, _ = optimised.run(IMAGES, TARGET, optimised.inputs(model))
    torch.testing.assert_close(maps, streams.maps, rtol=1e-9, atol=1e-10)


@each_case
def test_export_and_every_batch_size(op, tmp_path):
    model = network(CASES[op])
    with pytest.warns(UserWarning, match=re.escape(str(op))):
        explainer = agf_fx.compile(model, IMAGES[:1], unknown_ops="gradient")
    expected = explainer(IMAGES, TARGET[:, :1].clamp(min=0))
    assert expected.any()
    alone = torch.cat([explainer(IMAGES[i : i + 1], TARGET[i : i + 1, :1].clamp(min=0)) for i in range(3)])
    torch.testing.assert_close(alone, expected, rtol=1e-9, atol=1e-10)
    explainer.export(tmp_path / "explainer.pt")
    maps, _ = torch.jit.load(tmp_path / "explainer.pt")(IMAGES, TARGET[:, :1].clamp(min=0))
    torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("op", [aten.i0.default, aten.cumsum.default, aten.grid_sampler.default], ids=str)
def test_relevance_is_the_proportional_rule(op):
    model = network(CASES[op])
    canonical, method = captured(model), attribution_guided_factorization(agf_fx.AGFOptions())
    lower(canonical, method, optimisations=())
    streams = interpret(canonical, method, IMAGES, TARGET, weights(canonical, model))
    (node,) = (node for node in canonical.calls if node.target is op)
    operands = [value_of(model, canonical, operand) for operand in facts_operands(node)]
    for k in range(2):
        leaves = [operand.clone().requires_grad_() for operand in operands]
        y = op(*leaves, *node.args[len(leaves) :])
        phi = streams.relevance[node.name][k]
        shares = torch.autograd.grad(y, leaves, torch.where(y == 0, 0.0, phi / (y + 1e-9)))
        for found, x, share in zip(streams.handed["relevance"][node.name], operands, shares, strict=True):
            assert found[k].any()
            torch.testing.assert_close(found[k], x * share, rtol=1e-9, atol=1e-12)


def facts_operands(node):
    return [node.args[position] for position in facts(node).captured_vjp.operands]


def value_of(model, canonical, node):
    return canonical.forward(IMAGES, weights(canonical, model))[node].detach()


def test_entry_by_entry_targets_stay_in_front_and_others_are_merged():
    def nodes(op):
        canonical = captured(network(CASES[op]))
        (node,) = (node for node in canonical.calls if node.target is op)
        return facts(node).captured_vjp

    assert nodes(aten.i0.default).entrywise
    assert nodes(aten.polygamma.default).entrywise
    assert not nodes(aten.cumsum.default).entrywise


def test_no_autograd_at_run_time():
    model = network(CASES[aten.i0.default])
    with pytest.warns(UserWarning, match="no relevance rule"):
        explainer = agf_fx.compile(model, IMAGES, unknown_ops="gradient")
    with torch.inference_mode():
        assert explainer(IMAGES).any()
    assert {node.target for node in explainer.graph.graph.nodes} >= {aten.i0.default, aten.special_i1.default}


def test_one_warning_for_each_operation_names_it_and_the_modules():
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 4, 3), Middle(torch.i0), Middle(lambda x: x.cumsum(2)), Middle(torch.i0)]
    model = nn.Sequential(*body, nn.Flatten(), nn.Linear(64, 3)).double().eval()
    with pytest.warns(UserWarning, match="no relevance rule") as caught:
        agf_fx.capture(model, IMAGES, unknown_ops="gradient")
    texts = sorted(str(warning.message) for warning in caught if "relevance rule" in str(warning.message))
    assert len(texts) == 2
    assert texts[0].startswith("aten.cumsum.default")
    assert "in '2' of Sequential" in texts[0]
    assert texts[1].startswith("aten.i0.default")
    assert "in '1', '3' of Sequential" in texts[1]


def test_known_operations_do_not_warn():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).double().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert str(agf_fx.capture(model, IMAGES, unknown_ops="gradient")) == str(agf_fx.capture(model, IMAGES))


def test_nothing_is_learnt_for_other_models():
    model = network(torch.i0)
    captured(model)
    with pytest.raises(UnsupportedOpError, match='unknown_ops="gradient"'):
        agf_fx.capture(model, IMAGES)


def transformed(x: Tensor) -> Tensor:
    """A spatial transformer."""
    theta = x.mean((2, 3)).repeat(1, 2)[:, :6].reshape(-1, 2, 3)
    return F.grid_sample(x, F.affine_grid(theta, x.shape, align_corners=False), align_corners=False)


@pytest.mark.parametrize("function", [torch.i0, transformed])
def test_gradient_times_input(function):
    model = network(function)
    with pytest.warns(UserWarning, match="no relevance rule"):
        maps = agf_fx.compile(model, method="gradient_x_input", unknown_ops="gradient")(IMAGES, 1)
    images = IMAGES.clone().requires_grad_()
    (g,) = torch.autograd.grad(model(images)[:, 1].sum(), images)
    torch.testing.assert_close(maps, (images * g).sum(1).detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x + 0.1 * x.argmax(1, keepdim=True), "aten.argmax.default.*has no derivative"),
        (lambda x: torch.ops.agf_unknown.stepped(x), "stepped.*derivative is zero"),
        (lambda x: x.cumsum(0), "aten.cumsum.default.*mixes the samples"),
        (lambda x: torch.ops.agf_unknown.no_derivative(x), "no_derivative.*no derivative"),
        (lambda x: torch.fft.rfft2(x).abs(), "fft_rfft2.*is complex, and relevance is followed through real numbers"),
    ],
)
def test_what_has_no_derivative_of_its_own_is_refused(function, reason):
    model = network(function)
    with pytest.raises(UnsupportedOpError, match=reason) as caught:
        agf_fx.capture(model, IMAGES, unknown_ops="gradient")
    assert caught.value.module_path == "middle"
    assert "agf_fx.register_rule" in str(caught.value)


def test_other_choices_are_refused_at_once():
    with pytest.raises(OptionsError, match="'refuse', 'gradient'"):
        agf_fx.compile(network(torch.i0), unknown_ops="autograd")


def test_the_example_of_the_guide_runs():
    text = (Path(__file__).parent.parent / "docs" / "guide.md").read_text()
    (example,) = (
        code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "agf_fx.register_rule(" in code
    )
    before = dict(VOCABULARY)
    try:
        names: dict[str, object] = {}
        exec(compile(example, "guide.md", "exec"), names)
        assert names["maps"].shape == (2, 16, 16)
        assert names["maps"].any()
    finally:
        for op in set(VOCABULARY) - set(before):
            del VOCABULARY[op]


def test_methods_of_derivatives_alone_need_no_rule():
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(2), Middle(lambda x: x.topk(3, -1).values.mean(-1))]
    model = nn.Sequential(*body, nn.Linear(4, 5)).double().eval()
    images = IMAGES.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(images)[:, 1].sum(), images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = agf_fx.compile(model, method="gradient")
        torch.testing.assert_close(found(IMAGES, 1), expected.sum(1))
        assert found.graph.layers()
        agf_fx.compile(model, method="occlusion")(IMAGES, 1)
    for method in ("agf", "lrp-epsilon", "deeplift"):
        with pytest.raises(UnsupportedOpError, match=r"aten.topk.default"):
            agf_fx.compile(model, method=method)(IMAGES, 1)
