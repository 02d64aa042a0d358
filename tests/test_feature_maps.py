"""Layers that are read as maps are found from the graph; tokens of transformers are laid out as positions."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

import agf_fx
from agf_fx.errors import OptionsError
from agf_fx.ir.feature_maps import last_feature_map, last_of_each_size
from agf_fx.runtime.degenerate import DegenerateMapWarning

IMAGES = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)).double()
TARGETS = torch.tensor([[0, 2], [1, 3]])
RAW = {"relu": False, "normalise": False, "resize": False}
SIZES = 4, 6


class Block(nn.Module):
    """Attention and a layer, each beside a shortcut."""

    def __init__(self, width):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class Mixer(nn.Module):
    """Layers over positions and over channels, each beside a shortcut."""

    def __init__(self, width):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.across, self.mlp = nn.Linear(24, 24), nn.Linear(width, width)

    def forward(self, x):
        x = x + self.across(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + torch.relu(self.mlp(self.norm2(x)))


class Tokens(nn.Module):
    """A small vision transformer: ``before`` and ``after`` count tokens beside the patches; ``head`` reads ``pooled``."""

    def __init__(self, before=1, after=0, pooled="first", block=Block, width=8):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.before = nn.Parameter(torch.randn(1, before, width))
        self.after = nn.Parameter(torch.randn(1, after, width))
        self.blocks = nn.ModuleList(block(width) for _ in range(3))
        self.norm, self.head, self.pooled = nn.LayerNorm(width), nn.Linear(width, 5), pooled

    def forward(self, images):
        x = self.patches(images).flatten(2).transpose(1, 2)
        beside = [part.expand(len(x), -1, -1) for part in (self.before, self.after)]
        if beside[0].shape[1] + beside[1].shape[1]:
            x = torch.cat([beside[0], x, beside[1]], 1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        first = self.before.shape[1]
        return self.head(
            {
                "first": lambda: x[:, 0],
                "last": lambda: x[:, -1],
                "mean": lambda: x.mean(1),
                "patches": lambda: x[:, first : first + 24].mean(1),
            }[self.pooled]()
        )


def made(**settings):
    torch.manual_seed(0)
    return Tokens(**settings).eval().double()


def at(model, layer, images=IMAGES, targets=TARGETS):
    """Value (N, T, C) and gradients (K, N, T, C) at a module, by autograd."""
    kept = {}
    handle = model.get_submodule(layer).register_forward_hook(lambda _, __, output: kept.update(value=output))
    logits = model(images)
    handle.remove()
    of = [logits.gather(1, column[:, None]).sum() for column in targets.T]
    gradients = [torch.autograd.grad(each, kept["value"], retain_graph=True)[0] for each in of]
    return kept["value"].detach(), torch.stack(gradients)


def as_map(tokens, first):
    """(..., T, C) -> (..., C, *SIZES)."""
    return tokens[..., first : first + 24, :].unflatten(-2, SIZES).movedim(-1, -3)


def relative(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


CASES = {
    "class token": ({}, "blocks.1", 1),
    "two tokens": ({"before": 2}, "blocks.1", 2),
    "tokens behind": ({"before": 0, "after": 1, "pooled": "last"}, "blocks.1", 0),
    "mean of everything": ({"pooled": "mean"}, "norm", 1),
    "mean of patches": ({"before": 2, "after": 3, "pooled": "patches"}, "norm", 2),
    "no others": ({"before": 0, "pooled": "mean"}, "norm", 0),
    "mixer": ({"before": 0, "pooled": "mean", "block": Mixer}, "norm", 0),
}


@pytest.mark.parametrize("case", CASES)
def test_maps_of_tokens(case):
    settings, layer, first = CASES[case]
    model = made(**settings)
    value, gradient = at(model, layer)
    a, g = as_map(value, first), as_map(gradient, first)
    expected = (a * g.mean((-1, -2), keepdim=True)).sum(-3).transpose(0, 1)
    for name in (None, layer):
        found = agf_fx.compile(model, method="gradcam", options=RAW | {"layer": name})(IMAGES, TARGETS)
        assert relative(found, expected) <= 1e-10


def test_other_maps_of_tokens():
    model, layer = made(before=2, after=3, pooled="patches"), "norm"
    value, gradient = at(model, layer)
    a, g = as_map(value, 2), as_map(gradient, 2)
    expected = {"hirescam": (a * g).sum(-3), "layercam": (a * g.clamp_min(0)).sum(-3)}
    for method, maps in expected.items():
        found = agf_fx.compile(model, method=method, options=RAW)(IMAGES, TARGETS)
        assert relative(found, maps.transpose(0, 1)) <= 1e-10
    norms = (a.norm(dim=-3) * g.norm(dim=-3)).transpose(0, 1)
    options = {"layers": layer, "normalise": False, "resize": False}
    assert relative(agf_fx.compile(model, method="normgrad", options=options)(IMAGES, TARGETS), norms) <= 1e-10
    wide = agf_fx.compile(model, method="extract-aggregate", options=options | {"extract": "conv3x3"})(IMAGES, TARGETS)
    around = torch.nn.functional.unfold(a, 3, padding=1).unflatten(-1, SIZES).norm(dim=1)
    assert relative(wide, (around * g.norm(dim=-3)).transpose(0, 1)) <= 1e-10


def test_a_layer_behind_the_last_attention_is_read_as_it_is():
    explainer = agf_fx.compile(made(), method="gradcam", options=RAW | {"layer": "blocks.2"})
    with pytest.warns(DegenerateMapWarning):
        assert not explainer(IMAGES, 1).any()


@pytest.mark.parametrize("method", ["gradcam", "eigencam"])
def test_maps_of_tokens_are_exported(method, tmp_path):
    images = IMAGES.float()
    explainer = agf_fx.compile(made().float(), images, method=method)
    for name in ("explainer.pt", "explainer.onnx"):
        explainer.export(tmp_path / name)
        found = agf_fx.load(tmp_path / name)(images, TARGETS)
        assert relative(found, explainer(images, TARGETS)) <= 1e-4


@pytest.mark.parametrize("tokens", ["first", "mean"])
def test_a_transformer_of_sequences_leaves_its_class_token_out(tokens):
    class Sequences(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.token = nn.Conv1d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 1, 8))
            self.block, self.last, self.head = Block(8), Block(8), nn.Linear(8, 4)

        def forward(self, x):
            x = self.patches(x).transpose(1, 2)
            x = self.last(self.block(torch.cat([self.token.expand(len(x), -1, -1), x], 1)))
            return self.head(x[:, 0] if tokens == "first" else x.mean(1))

    torch.manual_seed(0)
    model, images = Sequences().eval().double(), torch.randn(2, 3, 20).double()
    value, gradient = at(model, "block" if tokens == "first" else "last", images)
    expected = (value[:, 1:] * gradient[:, :, 1:].mean(-2, keepdim=True)).sum(-1).transpose(0, 1)
    found = agf_fx.compile(model, method="gradcam", options=RAW)(images, TARGETS)
    assert relative(found, expected) <= 1e-10


def test_the_layers_of_torchvisions_transformers():
    torch.manual_seed(0)
    vit = torchvision.models.VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=5).eval()
    canonical = agf_fx.compile(vit, torch.randn(1, 3, 32, 32))._binding.latest.program.canonical
    last = last_feature_map(canonical)
    assert "encoder.layers.encoder_layer_1" in last.node.meta["puts_out"]
    assert (last.shape, last.sizes, last.channel, last.first) == ((4, 4, 16), (4, 4), 3, 1)
    swin = torchvision.models.SwinTransformer([4, 4], 8, [1, 1], [1, 2], [4, 4], num_classes=5).eval()
    canonical = agf_fx.compile(swin, torch.randn(1, 3, 32, 32))._binding.latest.program.canonical
    assert [each.sizes for each in last_of_each_size(canonical)] == [(8, 8), (4, 4)]
    assert [each.shape for each in last_of_each_size(canonical)] == [(8, 8, 8), (16, 4, 4)]


def test_one_position_is_no_map():
    class Pooled(nn.Sequential):
        def forward(self, x):
            x = self[0](x).relu().mean((2, 3), keepdim=True)
            return self[2](self[1](x.permute(0, 2, 3, 1)).flatten(1))

    torch.manual_seed(0)
    model = Pooled(nn.Conv2d(3, 4, 3), nn.LayerNorm(4), nn.Linear(4, 2)).eval().double()
    canonical = agf_fx.compile(model, IMAGES)._binding.latest.program.canonical
    assert last_feature_map(canonical).sizes == (14, 22)


def test_values_without_positions_are_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(1152, 8), nn.ReLU(), nn.Linear(8, 3)).eval().double()
    with pytest.raises(OptionsError, match="name a layer"):
        agf_fx.compile(model, method="gradcam")(IMAGES, 1)
    with pytest.raises(OptionsError, match="no feature map of 2 dimensions"):
        agf_fx.compile(model, method="gradcam", options={"layer": "1"})(IMAGES, 1)


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("layer", ["patches", "blocks.1"])
def test_eigencam_is_the_first_singular_vector(layer, centre):
    model = made()
    value, _ = at(model, layer)
    rows = value.flatten(2).transpose(1, 2) if layer == "patches" else value[:, 1:]
    mean = rows.mean(1, keepdim=True)
    rows = rows - mean if centre else rows
    vector = torch.linalg.svd(rows)[2][:, :1].transpose(1, 2)
    sign = (mean @ vector).sign()
    expected = (rows @ vector * sign).unflatten(1, SIZES)[..., 0][:, None].expand(-1, 2, -1, -1)
    options = RAW | {"layer": layer, "centre": centre}
    assert relative(agf_fx.compile(model, method="eigencam", options=options)(IMAGES, TARGETS), expected) <= 1e-9
