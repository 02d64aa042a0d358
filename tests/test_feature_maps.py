"""Layers that are read as maps are found from the graph; tokens of transformers are laid out as positions."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

import agf_fx
from agf_fx.errors import OptionsError
from agf_fx.ir.feature_maps import last_feature_map, last_of_each_size
from agf_fx.ir.positions import positions
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


class Moved(nn.Module):
    """Tokens that ``there`` moves before a layer ``mark``."""

    def __init__(self, there):
        super().__init__()
        self.patches, self.block, self.mark = nn.Conv2d(3, 8, 4, 4), Block(8), nn.Tanh()
        self.there, self.head = there, nn.Linear(8, 5)

    def forward(self, images):
        x = self.patches(images).flatten(2).transpose(1, 2)
        return self.head(self.mark(self.block(self.there(x))).flatten(1, -2).mean(1))


ORDER = torch.randperm(24, generator=torch.Generator().manual_seed(0))
MOVES = {
    "flip": lambda x: x.flip(1),
    "roll": lambda x: x.roll(5, 1),
    "permutation": lambda x: x[:, ORDER],
    "index_select": lambda x: x.index_select(1, ORDER),
    "permutation by a product": lambda x: torch.eye(24, dtype=x.dtype)[ORDER] @ x,
    "columns first": lambda x: x.unflatten(1, SIZES).transpose(1, 2).flatten(1, 2),
    "halves swapped": lambda x: torch.cat([x[:, 12:], x[:, :12]], 1),
    "twice": lambda x: torch.cat([x, 2 * x], 1),
    "windows": lambda x: x.reshape(-1, 2, 2, 3, 2, 8).transpose(2, 3).reshape(-1, 24, 8),
    "every second row turned": lambda x: torch.cat([x[:, :6], x[:, 6:12].flip(1), x[:, 12:]], 1),
    "read as something else": lambda x: x.reshape(-1, 8, 24).transpose(1, 2),
    "added to itself elsewhere": lambda x: x + x.roll(7, 1),
}
BACK = {
    "windows and back": lambda x: (
        x.reshape(-1, 2, 2, 3, 2, 8).transpose(2, 3).tanh().transpose(2, 3).reshape(-1, 24, 8)
    ),
    "rolled and back": lambda x: x + x.roll(5, 1).tanh().roll(-5, 1),
    "halves swapped twice": lambda x: MOVES["halves swapped"](MOVES["halves swapped"](x)),
}


def first_choice(model):
    canonical = agf_fx.compile(model, IMAGES, method="gradient").graph.canonical
    return last_feature_map(canonical).node.meta["module"]


@pytest.mark.parametrize("move", MOVES)
def test_tokens_in_another_order_are_no_map(move):
    torch.manual_seed(0)
    model = Moved(MOVES[move]).eval().double()
    for method, options in (("gradcam", {"layer": "mark"}), ("normgrad", {"layers": ["mark"]})):
        with pytest.raises(OptionsError, match="lie as in the images"):
            agf_fx.compile(model, IMAGES, method=method, options=options)
    assert first_choice(model) in ("", "patches")  # before they are moved


def test_a_part_of_the_tokens_is_a_map_of_a_part_of_the_image():
    torch.manual_seed(0)
    model = Moved(lambda x: x[:, :12]).eval().double()
    value, gradient = at(model, "mark")
    part = [each.unflatten(-2, (2, 6)).movedim(-1, -3) for each in (value, gradient)]
    small = (part[0] * part[1].mean((-1, -2), keepdim=True)).sum(2).transpose(0, 1)
    options = {"layer": "mark", "relu": False, "normalise": False}
    found = agf_fx.compile(model, method="gradcam", options=options).explain(IMAGES, TARGETS).maps
    assert relative(found[:, :, :8], nn.functional.interpolate(small, (8, 24), mode="bilinear")) <= 1e-10
    assert not found[:, :, 8:].any()


@pytest.mark.parametrize("move", BACK)
def test_tokens_that_are_put_back_are_a_map(move):
    torch.manual_seed(0)
    model = Moved(BACK[move]).eval().double()
    value, gradient = at(model, "mark")
    expected = (as_map(value, 0) * as_map(gradient, 0).mean((-1, -2), keepdim=True)).sum(2).transpose(0, 1)
    found = agf_fx.compile(model, method="gradcam", options={"layer": "mark"} | RAW)
    assert relative(found.explain(IMAGES, TARGETS).maps, expected) <= 1e-10


def picture(turn):
    """A network of pictures that ``turn`` changes before a layer ``2``."""

    class Turned(nn.Module):
        def forward(self, x):
            return turn(x)

    torch.manual_seed(0)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    return nn.Sequential(Turned(), nn.Conv2d(3, 4, 3, padding=1, stride=2), nn.ReLU(), *head).eval().double()


@pytest.mark.parametrize(
    "turn",
    [
        lambda x: x.transpose(2, 3),
        lambda x: x.flip(3),
        lambda x: torch.rot90(x, 1, (2, 3)),
        lambda x: x.roll(8, 3),
    ],
)
def test_pictures_that_are_turned_are_no_map(turn):
    with pytest.raises(OptionsError, match="FullGrad adds the map of every layer's bias"):
        agf_fx.compile(picture(turn), IMAGES, method="fullgrad")
    with pytest.raises(OptionsError, match="lie as in the images"):
        agf_fx.compile(picture(turn), IMAGES, method="gradcam", options={"layer": "2"})
    with pytest.raises(OptionsError, match="no value of"):
        agf_fx.compile(picture(turn), IMAGES, method="gradcam")


CROPS = {
    "inside": (slice(4, 12), slice(8, 16)),
    "half": (slice(0, 16), slice(0, 8)),
    "centre": (slice(4, 12), slice(6, 18)),
    "a pixel": (slice(0, 16), slice(1, 24)),
}


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize(
    "method", ["gradcam", "eigencam", "extract-aggregate", "normgrad", "fullgrad", "guided-gradcam"]
)
def test_maps_of_a_model_that_crops_lie_where_it_looks(method, crop):
    rows, columns = CROPS[crop]
    options = {"relu": False, "normalise": False} if method in ("gradcam", "eigencam") else {}
    options |= {"normalise": False} if method in ("normgrad", "extract-aggregate") else {}
    explainer = agf_fx.compile(picture(lambda x: x[:, :, rows, columns]), method=method, options=options)
    found = explainer.explain(IMAGES, TARGETS).maps
    seen = IMAGES[:, :, rows, columns].contiguous()
    if method == "fullgrad":  # the part of the images scales what is 0 around the crop as well
        expected = agf_fx.compile(picture(lambda x: x * 0), method=method).explain(seen, TARGETS)
        blank = agf_fx.compile(picture(lambda x: x[:, :, rows, columns] * 0), method=method)
        found, expected = blank.explain(IMAGES, TARGETS).maps, expected.maps
    else:
        expected = agf_fx.compile(picture(lambda x: x), method=method, options=options).explain(seen, TARGETS).maps
    assert relative(found[:, :, rows, columns], expected) <= 1e-10
    outside = found.clone()
    outside[:, :, rows, columns] = 0
    assert not outside.any()


WHERE = {
    "a layer in front": (lambda s, x: s.colours(x)[:, :, 4:12, 8:16], (4, 12, 8, 16)),
    "a mean behind": (lambda s, x: nn.functional.avg_pool2d(x[:, :, 2:14, 2:22], 4), (2, 14, 2, 22)),
    "every third": (lambda s, x: x[:, :, 3:15:3, 3:21:3], (3, 15, 3, 21)),
    "every second": (lambda s, x: torch.cat([x[:, :, ::2, ::2], x[:, :, 1::2, 1::2]], 1)[:, :3], (0, 16, 0, 24)),
    "larger first": (
        lambda s, x: nn.functional.interpolate(x, scale_factor=2, mode="bilinear")[:, :, 8:24, 16:32],
        (4, 12, 8, 16),
    ),
    "an odd size": (lambda s, x: nn.functional.max_pool2d(x[:, :, :15, :23], 3, 1, 1), (0, 15, 0, 23)),
    "twice": (lambda s, x: x[:, :, 2:14, 4:20][:, :, 2:10, 4:12], (4, 12, 8, 16)),
}


class Looking(nn.Module):
    def __init__(self, look):
        super().__init__()
        torch.manual_seed(0)
        self.look, self.colours = look, nn.Conv2d(3, 3, 1)
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x):
        return self.head(torch.relu(self.conv(self.look(self, x))).mean((2, 3)))


@pytest.mark.parametrize("name", WHERE)
def test_where_a_model_looks(name):
    look, (top, bottom, left, right) = WHERE[name]
    model = Looking(look).eval().double()
    options = {"relu": False, "normalise": False}
    found = agf_fx.compile(model, method="gradcam", options=options).explain(IMAGES, TARGETS).maps
    small = agf_fx.compile(model, method="gradcam", options=RAW).explain(IMAGES, TARGETS).maps
    size = bottom - top, right - left
    expected = torch.zeros_like(found)
    expected[:, :, top:bottom, left:right] = nn.functional.interpolate(small, size, mode="bilinear")
    assert relative(found, expected) <= 1e-10


def test_images_with_an_odd_size_are_seen_as_a_whole():
    images = IMAGES[:, :, :15, :23].contiguous()
    for pool in (nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1), nn.MaxPool2d(3, 2, 1)):
        model = Looking(lambda s, x, pool=pool: pool(x)).eval().double()
        options = {"relu": False, "normalise": False}
        found = agf_fx.compile(model, method="gradcam", options=options).explain(images, TARGETS).maps
        small = agf_fx.compile(model, method="gradcam", options=RAW).explain(images, TARGETS).maps
        assert relative(found, nn.functional.interpolate(small, (15, 23), mode="bilinear")) <= 1e-10


def test_zeros_around_a_crop_leave_no_map():
    model = Looking(lambda s, x: nn.functional.pad(x[:, :, 4:12, 8:16], (4, 4, 4, 4))).eval().double()
    with pytest.raises(OptionsError):
        agf_fx.compile(model, IMAGES, method="gradcam")


class Decoder(nn.Module):
    def __init__(self, mode):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.head, self.mode = nn.Linear(4, 5), mode

    def forward(self, x):
        small = torch.relu(self.b(torch.relu(self.a(x))))
        larger = nn.functional.interpolate(small, scale_factor=2, mode=self.mode)
        return self.head(torch.relu(self.c(larger)).mean((2, 3)))


class TokenNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.norm, self.head = nn.Conv2d(3, 6, 4, 4), nn.BatchNorm1d(24), nn.Linear(6, 5)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.patches(x).flatten(2).transpose(1, 2))).mean(1))


def valid():
    layers = [layer for size in (3, 4, 4, 4, 4) for layer in (nn.Conv2d(size, 4, 3), nn.ReLU())]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


@pytest.mark.parametrize(
    "build",
    [lambda: Decoder("nearest"), lambda: Decoder("bilinear"), TokenNorm, valid],
    ids=["nearest", "bilinear", "tokens", "valid"],
)
def test_fullgrad_takes_networks_whose_positions_are_in_order(build):
    torch.manual_seed(0)
    maps = agf_fx.compile(build().eval().double(), method="fullgrad").explain(IMAGES, TARGETS).maps
    assert maps.shape == (2, 2, 16, 24)
    assert bool((maps.amax((2, 3)) > 0).all())


def test_layers_that_see_different_parts_of_the_images_have_maps_of_their_own():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(8, 5)

        def forward(self, x):
            parts = torch.relu(self.left(x[:, :, :, :12])), torch.relu(self.right(x[:, :, :, 12:]))
            return self.head(torch.cat([part.mean((2, 3)) for part in parts], 1))

    torch.manual_seed(0)
    model = Two().eval().double()
    options = {"relu": False, "normalise": False}
    left, right = (
        agf_fx.compile(model, method="gradcam", options=options | {"layer": layer}).explain(IMAGES, TARGETS).maps
        for layer in ("left", "right")
    )
    assert not left[..., 12:].any()
    assert not right[..., :12].any()
    assert left[..., :12].any()
    assert right[..., 12:].any()


def test_a_layer_without_a_gradient_is_named():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.mask, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

        def forward(self, x):
            return self.head((torch.relu(self.conv(x)) * (self.mask(x) > 0)).mean((2, 3)))

    for method, options in (("gradcam", {"layer": "mask"}), ("normgrad", {"layers": "mask"})):
        with pytest.raises(OptionsError, match="no gradient comes to layer 'mask'"):
            agf_fx.compile(Masked().eval().double(), IMAGES, method=method, options=options)


@pytest.mark.parametrize("method", ["gradcam", "gradcam++", "layercam", "eigencam", "normgrad", "fullgrad"])
@pytest.mark.parametrize("dims", [1, 2])
def test_images_without_channels_have_the_same_maps(method, dims):
    torch.manual_seed(0)
    convolution = (nn.Conv1d, nn.Conv2d)[dims - 1]
    layers = convolution(1, 6, 3, padding=1), nn.ReLU(), convolution(6, 4, 3, 2, 1), nn.ReLU()
    plain = nn.Sequential(*layers, (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)[dims - 1](1), nn.Flatten())
    plain = plain.append(nn.Linear(4, 5)).eval().double()

    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = plain

        def forward(self, x):
            return self.model(x.unsqueeze(1))

    images = IMAGES[:, 0] if dims == 2 else IMAGES[:, 0, 0]
    expected = agf_fx.compile(plain, method=method).explain(images.unsqueeze(1), TARGETS).maps
    assert relative(agf_fx.compile(Single().eval(), method=method).explain(images, TARGETS).maps, expected) <= 1e-10


def test_coordinates_are_those_of_what_was_seen():
    """The middle of the pixels that have a gradient, where nothing is cut off by an edge."""
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 4, 5, 2, 2),
        nn.Conv2d(4, 4, 4, 2, 1),
        nn.AvgPool2d(2, 1),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
    )
    model = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3)).double()
    images = torch.randn(1, 3, 48, 40, dtype=torch.float64)
    model(images)
    canonical = agf_fx.compile(model.eval(), images, method="gradient").graph.canonical
    node = next(node for node in canonical.calls if node.meta["module"] == "3")
    shape = model[:4](images).shape[2:]
    middle = shape[0] // 2, shape[1] // 2
    x = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model[:4](x)[0, 1][middle], x)
    seen = slope[0].abs().sum(0).nonzero().double()
    for dim in (0, 1):
        found = positions(canonical, dim + 2)[node][0, 2]
        assert found.shape == shape
        assert float(found[middle]) == (seen[:, dim].min() + seen[:, dim].max()) / 2
        line = found.movedim(dim, 0)[:, 0]
        assert torch.allclose(line.diff(), torch.full_like(line[1:], 4.0))  # also at the edges


class Mlp(nn.Module):
    """Layers along rows and along columns, each beside a shortcut, which make a dimension of positions."""

    def __init__(self):
        super().__init__()
        self.patches, self.across, self.down = nn.Conv2d(3, 8, 4, 4), nn.Linear(6, 6), nn.Linear(4, 4)
        self.mark, self.head = nn.Tanh(), nn.Linear(8, 5)

    def forward(self, images):
        x = self.patches(images)
        x = torch.relu(self.across(x) + x)
        return self.head(self.mark(self.down(x.transpose(2, 3)).transpose(2, 3) + x).mean((2, 3)))


class Grey(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.block, self.mark = nn.Conv2d(1, 8, 4, 4), Block(8), nn.Tanh()
        self.head = nn.Linear(8, 5)

    def forward(self, images):
        return self.head(self.mark(self.block(self.patches(images[:, None]).flatten(2).transpose(1, 2))).mean(1))


@pytest.mark.parametrize("case", ["layers along positions", "grey images"])
def test_layers_along_positions_and_grey_images(case):
    torch.manual_seed(0)
    model, images = (Mlp(), IMAGES) if case == "layers along positions" else (Grey(), IMAGES[:, 0])
    value, gradient = at(model.eval().double(), "mark", images)
    if case == "grey images":
        value, gradient = as_map(value, 0), as_map(gradient, 0)
    expected = (value * gradient.mean((-1, -2), keepdim=True)).sum(2).transpose(0, 1)
    for layer in ("mark", None):
        found = agf_fx.compile(model, method="gradcam", options={"layer": layer} | RAW)
        assert relative(found.explain(images, TARGETS).maps, expected) <= 1e-10


def test_images_that_are_moved_or_normalised_are_no_inner_layer():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3, 2, 1), nn.Tanh(), nn.Conv2d(6, 6, 3, 2, 1), nn.Tanh(), nn.AdaptiveAvgPool2d(1)
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(6, 5)).eval().double()
    expected = agf_fx.compile(model, method="normgrad")(IMAGES, TARGETS)

    class Changed(nn.Module):
        def __init__(self, change):
            super().__init__()
            self.model, self.change = model, change

        def forward(self, images):
            return self.model(self.change(images))

    last = agf_fx.compile(Changed(lambda x: x.permute(0, 3, 1, 2)).eval(), method="normgrad")
    assert relative(last(IMAGES.permute(0, 2, 3, 1).contiguous(), TARGETS), expected) <= 1e-10
    scaled = agf_fx.compile(Changed(lambda x: (x - 0.5) / 2).eval(), method="normgrad")
    assert relative(scaled(IMAGES * 2 + 0.5, TARGETS), expected) <= 1e-10


@pytest.mark.parametrize("method", ["gradcam", "normgrad", "guided-gradcam", "fullgrad"])
def test_maps_of_positions_have_no_channels(method):
    with pytest.raises(OptionsError, match="channel_dim is None"):
        agf_fx.compile(Mlp().eval().double(), IMAGES, method=method, channel_dim=None)


def test_windows_are_no_rows_and_columns():
    torch.manual_seed(0)
    model = torchvision.models.maxvit.MaxVit(
        input_size=(64, 64), stem_channels=8, partition_size=2, block_channels=[8, 16], block_layers=[1, 1], head_dim=4,
        stochastic_depth_prob=0.0, num_classes=5,
    )  # fmt: skip
    canonical = agf_fx.capture(model.eval(), torch.randn(2, 3, 64, 64))
    assert [found.sizes for found in last_of_each_size(canonical)] == [(32, 32), (16, 16), (8, 8)]


class Columns(nn.Module):
    """The same with the batch second, as PyTorch's own transformers have it."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        for block in model.blocks:
            block.attention.batch_first = False

    def forward(self, images):
        model = self.model
        x = torch.cat([model.before.expand(len(images), -1, -1), model.patches(images).flatten(2).transpose(1, 2)], 1)
        x = x.transpose(0, 1)
        for block in model.blocks:
            x = block(x)
        return model.head(model.norm(x)[0])


def test_tokens_with_the_batch_second_have_the_same_maps():
    first, second = made(), Columns(made()).eval()
    assert relative(second(IMAGES), first(IMAGES)) <= 1e-12
    for method in ("gradcam", "gradcam++", "eigencam", "normgrad"):
        maps = [agf_fx.compile(model, method=method)(IMAGES, TARGETS) for model in (first, second)]
        assert relative(maps[1], maps[0]) <= 1e-10
    named = [
        agf_fx.compile(model, method="normgrad", options={"layers": [layer], "resize": False})(IMAGES, TARGETS)
        for model, layer in ((first, "blocks.1"), (second, "model.blocks.1"))
    ]
    assert relative(named[1], named[0]) <= 1e-10


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "linear-approx"])
def test_what_speaks_against_a_class_alone_stays_negative(method):
    torch.manual_seed(0)
    pool = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Sigmoid(), *pool).double().eval()
    with torch.no_grad():
        model[4].weight[1] = -model[4].weight[1].abs()
    raw, scaled = (
        agf_fx.compile(model, method=method, options={"relu": False, "normalise": scale})(IMAGES, 1)
        for scale in (False, True)
    )
    assert float(scaled.max()) < 0
    assert torch.allclose(scaled * (raw / scaled).mean((1, 2), keepdim=True), raw)  # one factor for each map
    assert float(scaled.abs().max()) <= 1


@pytest.mark.parametrize("options", [{}, {"layer": "1"}])
def test_images_without_positions_have_no_maps_of_layers(options):
    model = nn.Sequential(nn.Unflatten(1, (3, 8, 8)), nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(OptionsError, match=r"takes images f32\[N, 192\], which have no positions"):
        agf_fx.compile(model.eval(), method="gradcam", options=options)(torch.randn(2, 192), 1)
