"""Networks with logits at every position: explained for a class on average, or for a class at one position."""

from __future__ import annotations

import functools
from dataclasses import fields

import pytest
import torch
from torch import Tensor, nn

import agf_fx
from agf_fx.errors import TargetError
from agf_fx.methods import REGISTRY
from agf_fx.rules.targets import class_of, position_weights

CLASSES, POSITIONS = 5, (12, 10)
TARGET = torch.tensor([[[0, 3, 4], [4, 11, 9]], [[2, 0, 0], [2, 5, 5]]])  # (images, targets): class, row, column


class Segmentation(nn.Module):
    """Encoder, pointwise head, bilinear upsampling to the images' size."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU()
        )
        self.head = nn.Conv2d(8, CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.interpolate(self.head(self.encoder(images)), size=POSITIONS, mode="bilinear")


class Reduced(nn.Module):
    """The same network with the logits of one position, or their mean."""

    def __init__(self, model: nn.Module, where: tuple[int, int] | None) -> None:
        super().__init__()
        self.model, self.where = model, where

    def forward(self, images: Tensor) -> Tensor:
        y = self.model(images)
        return y.mean((2, 3)) if self.where is None else y[:, :, self.where[0], self.where[1]]


@functools.cache
def model() -> nn.Module:
    torch.manual_seed(0)
    return Segmentation().double().eval()


@functools.cache
def images() -> Tensor:
    return torch.randn(2, 3, *POSITIONS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@functools.cache
def explainer() -> agf_fx.Explainer:
    return agf_fx.compile(model(), images())


def reduced(where: tuple[int, int] | None) -> agf_fx.Explainer:
    return agf_fx.compile(Reduced(model(), where).eval(), images())


def same(found: Tensor, expected: Tensor) -> None:
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("image", "k"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_class_at_a_position_is_the_network_that_reads_only_that_position(image, k):
    label, *where = TARGET[image, k].tolist()
    maps = explainer()(images(), TARGET)
    same(maps[image, k], reduced(tuple(where))(images()[image : image + 1], label)[0])


def test_a_class_alone_is_its_mean_over_positions():
    same(explainer()(images(), [3, 1]), reduced(None)(images(), [3, 1]))


def test_no_target_is_the_class_that_is_highest_on_average():
    explanation = explainer().explain(images(), top_k=2)
    assert explanation.logits.shape == (2, CLASSES, *POSITIONS)
    expected = reduced(None).explain(images(), top_k=2)
    assert torch.equal(explanation.target, expected.target)
    same(explanation.maps, expected.maps)


def test_the_explanation_names_the_class():
    assert torch.equal(explainer().explain(images(), TARGET).target, TARGET[..., 0])


@pytest.mark.parametrize(("row", "column"), [(12, 0), (0, 10), (-1, 0)])
def test_a_position_outside_is_refused(row, column):
    with pytest.raises(TargetError, match=r"position .* outside"):
        explainer()(images(), torch.tensor([[[0, row, column]]] * 2))


def test_a_class_outside_is_refused():
    with pytest.raises(TargetError, match="outside 0 … 4"):
        explainer()(images(), torch.tensor([[[5, 0, 0]]] * 2))


def test_positions_are_refused_where_there_are_none():
    with pytest.raises(TargetError, match="shape"):
        reduced(None)(images(), TARGET)


def test_weights_of_positions():
    logits, codes = torch.zeros(2, 3, 2, 2), torch.tensor([[0, 3 * 1 + 2], [3 * 4 + 1, -1]])
    weights = position_weights(logits, codes, (3, 2, 2))
    expected = [[[0.25] * 4, [0, 0, 0, 1.0]], [[1.0, 0, 0, 0], [0.25] * 4]]  # (targets, images, positions)
    assert torch.equal(weights, torch.tensor(expected))
    assert torch.equal(class_of(codes, 3), torch.tensor([[0, 2], [1, -1]]))


# --- every method ----------------------------------------------------------------------------------------------------


def few(method: str, explained: nn.Module) -> dict[str, object]:
    """Few points, and patterns of the network."""
    known = {field.name for field in fields(REGISTRY[method].options)}
    if "patterns" in known:
        batch = torch.randn(16, 3, 8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        return {"patterns": agf_fx.fit_patterns(explained, [batch])}
    return {name: value for name, value in {"steps": 3, "samples": 4, "window": 4}.items() if name in known}


class Pixels(nn.Module):
    """Logits at every pixel; their mean, or those of one."""

    def __init__(self, where: tuple[int, int] | str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.where = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, CLASSES, 1), where
        self.double().eval()

    def forward(self, images: Tensor) -> Tensor:
        logits = self.b(torch.relu(self.a(images)))
        if self.where == "everywhere":
            return logits
        return logits.mean((2, 3)) if self.where == "mean" else logits[:, :, *self.where]


@pytest.mark.parametrize("method", REGISTRY)
def test_every_method_explains_what_a_target_looks_at(method: str) -> None:
    model = Pixels("everywhere")
    images = torch.randn(2, 3, 8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    explainer = agf_fx.compile(model, method=method, options=few(method, model))
    for where, targets in (("mean", [[1, 3], [0, 2]]), ((3, 4), [[[1, 3, 4], [3, 3, 4]], [[0, 3, 4], [2, 3, 4]]])):
        other = Pixels(where)
        expected = agf_fx.compile(other, method=method, options=few(method, other))
        found = explainer.explain(images, torch.tensor(targets)).maps
        same(found, expected.explain(images, torch.tensor([[1, 3], [0, 2]])).maps)
