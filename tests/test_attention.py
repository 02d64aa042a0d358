"""Attention as a whole: its two variants, against dense re-derivations, and what of it is emitted."""

from __future__ import annotations

from functools import cache

import oracles
import pytest
import torch
from emission import weights
from rows.attention import ATTENTION, SELF_ATTENTION
from torch import Tensor, nn

import agf_fx
from agf_fx.emit import Streams, interpret
from agf_fx.errors import CaptureError, UnsupportedOpError
from agf_fx.ir.facts import facts
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.vocabulary import operands
from agf_fx.methods.agf import attribution_guided_factorization
from agf_fx.options import AGFOptions
from agf_fx.pipeline import lower, verify_step
from agf_fx.runtime.program import Program

aten = torch.ops.aten
F = torch.nn.functional

IMAGES = torch.randn(2, 3, 7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([[0, 1], [2, -1]])
LAYERS = {name: (build, 3) for name, build in ATTENTION.items()} | {
    name: (build, 1) for name, build in SELF_ATTENTION.items()
}


class Net(nn.Module):
    """Feature maps of which ``layer`` makes others, and a head."""

    def __init__(self, layer: nn.Module, signals: int) -> None:
        super().__init__()
        self.stems = nn.ModuleList(nn.Conv2d(3, 4, 1) for _ in range(signals))
        self.layer, self.fc = layer, nn.LazyLinear(3)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.layer(*[stem(images) for stem in self.stems]).flatten(1))


@cache
def case(name: str, attention: str) -> tuple[CanonicalGraph, nn.Module, Streams, dict[str, Tensor]]:
    """The analysed graph, the model, the streams and the value of every node; division is exact."""
    torch.manual_seed(0)
    build, signals = LAYERS[name]
    model = Net(build(), signals).eval()
    model(IMAGES.float())
    model = model.double()
    canonical = agf_fx.capture(model, IMAGES)
    lower(canonical, method(attention), verify_step)
    inputs = weights(canonical, model)
    values = {node.name: value for node, value in canonical.forward(IMAGES, inputs).items()}
    return canonical, model, interpret(canonical, method(attention), IMAGES, TARGET, inputs), values


def method(attention: str) -> object:
    return attribution_guided_factorization(AGFOptions(attention=attention, division="exact"))


def products(canonical: CanonicalGraph) -> tuple[torch.fx.Node, torch.fx.Node]:
    """The product that makes the scores, and the one of weights and values."""
    scores, mixed = (node for node in canonical.calls if node.target is aten.matmul.default)
    return scores, mixed


each_layer = pytest.mark.parametrize("name", LAYERS)


@each_layer
def test_constant_attention_gives_all_relevance_to_the_values(name):
    canonical, _, streams, found = case(name, "cp")
    _, mixed = products(canonical)
    first, second = operands(mixed)
    assert facts(mixed).attention in (first.name, second.name)
    value = first if facts(mixed).attention == second.name else second
    for k in range(TARGET.shape[1]):
        phi = streams.relevance[mixed.name][k].flatten(0, -3)
        left, right = (found[node.name].flatten(0, -3) for node in (first, second))
        expected = torch.zeros_like(left if value is first else right)
        for i in range(len(phi)):  # Σ over the outputs of one value's share of |contributions|
            for row in range(phi.shape[1]):
                for column in range(phi.shape[2]):
                    parts = (left[i, row] * right[i, :, column]).abs()
                    share = phi[i, row, column] * parts / parts.sum()
                    if value is first:
                        expected[i, row] += share
                    else:
                        expected[i, :, column] += share
        actual = streams.relevance[value.name][k]
        torch.testing.assert_close(actual.flatten(0, -3), expected, rtol=1e-9, atol=1e-14)
        torch.testing.assert_close(actual.sum(), phi.sum(), rtol=1e-9, atol=1e-14)


@each_layer
def test_constant_attention_emits_no_relevance_on_the_way_to_the_weights(name):
    canonical, _, streams, _ = case(name, "cp")
    scores, mixed = products(canonical)
    softmax = next(node for node in canonical.calls if node.target is aten.softmax.int)
    assert streams.relevance[mixed.name] is not None
    for node in (facts(mixed).attention, softmax.name, scores.name, *(operand.name for operand in operands(scores))):
        assert node not in streams.relevance
        assert streams.gradient[node].abs().max() > 0
    emitted = lower(canonical, method("cp"), verify_step, optimisations=()).graph
    relevant = {node.meta["site"] for node in emitted.nodes if node.meta.get("stream") == "relevance"}
    assert mixed.name in relevant
    assert not relevant & {scores.name, softmax.name}


@each_layer
def test_halves_of_the_relevance_go_to_values_and_weights(name, monkeypatch):
    monkeypatch.setattr(oracles, "EPSILON", 0.0)
    canonical, _, streams, found = case(name, "attnlrp")
    for product in products(canonical):
        x = [found[operand.name] for operand in operands(product)]
        for k in range(TARGET.shape[1]):
            phi = streams.relevance[product.name][k]
            for operand, expected in zip(operands(product), oracles.halves(torch.matmul, x, phi), strict=True):
                actual = streams.relevance[operand.name][k]
                torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)
                torch.testing.assert_close(actual.sum(), phi.sum() / 2, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["PyTorch's own, causal", "hidden by a sum", "PyTorch's own, boolean mask"])
def test_hidden_scores_have_no_relevance(name):
    canonical, _, streams, found = case(name, "attnlrp")
    softmax = next(node for node in canonical.calls if node.target is aten.softmax.int)
    hidden = found[softmax.name] == 0
    assert hidden.any()
    phi = streams.relevance[softmax.args[0].name]
    assert phi.isfinite().all()
    assert (phi[:, hidden] == 0).all()
    assert (phi[:, ~hidden] != 0).any()


@each_layer
@pytest.mark.parametrize("attention", ["cp", "attnlrp"])
def test_emitted_and_optimised_graphs_are_the_interpreter(name, attention):
    canonical, model, streams, _ = case(name, attention)
    emitted = lower(canonical, method(attention), verify_step, optimisations=())
    maps, logits = emitted.module(IMAGES, TARGET, *weights(canonical, model).values())
    assert torch.equal(maps, streams.maps)
    assert torch.equal(logits, streams.logits)
    program = Program(canonical, lower(canonical, method(attention), verify_step))
    maps, logits = program.run(IMAGES, TARGET, program.inputs(model))
    assert streams.maps.isfinite().all()
    torch.testing.assert_close(maps, streams.maps, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(logits, model(IMAGES), rtol=1e-12, atol=1e-12)


def test_the_variants_differ():
    one, other = (case("module", attention)[2].maps for attention in ("cp", "attnlrp"))
    assert (one - other).abs().max() > 1e-3


# Attention, norms and products over the samples of a batch

MIXING = {
    "softmax over the batch": lambda x: x.softmax(0),
    "log-softmax over the batch": lambda x: x * torch.sigmoid(x.log_softmax(0)),
    "length of the batch": lambda x: x / x.norm(dim=0, keepdim=True),
    "variance of the batch": lambda x: x / x.std(0, keepdim=True),
    "mean of the batch": lambda x: x - x.mean(0, keepdim=True),
    "product over the batch": lambda x: torch.einsum("nchw,mchw->nchw", x, x),
    "scores of other images": lambda x: (x.flatten(1) @ x.flatten(1).T).softmax(-1) @ x.flatten(1),
    "attention over the batch": lambda x: F.scaled_dot_product_attention(*[x.flatten(2).transpose(0, 1)] * 3).transpose(
        0, 1
    ),
    "group norm of batches": lambda x: F.group_norm(x.flatten(2).permute(2, 1, 0), 2).permute(2, 1, 0),
    "everything's maximum": lambda x: x / x.abs().max(),
}


@pytest.mark.parametrize("name", MIXING)
def test_what_mixes_the_samples_of_a_batch_is_refused(name):
    model = Net(_Function(MIXING[name]), 1).eval()
    model(IMAGES.float())
    with pytest.raises(
        (UnsupportedOpError, CaptureError), match=r"mixes samples|batch size|no relevance rule"
    ) as refused:
        agf_fx.capture(model.double(), IMAGES)
    if isinstance(refused.value, UnsupportedOpError):
        assert refused.value.module_path == "layer"
        assert __file__ in refused.value.source


def test_a_norm_over_the_batch_is_refused():
    """Its size is fixed by the model, so the batch's is."""
    model = Net(_Function(lambda x: F.layer_norm(x.permute(1, 2, 3, 0), (2,)).permute(3, 0, 1, 2)), 1).eval()
    model(IMAGES.float())
    with pytest.raises(CaptureError, match="batch size"):
        agf_fx.capture(model.double(), IMAGES)


class _Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)
