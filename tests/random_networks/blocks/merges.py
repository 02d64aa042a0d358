"""Blocks in which several signals meet: residual blocks, concatenations, sums, gates, products and quotients."""

from __future__ import annotations

from random_networks.blocks.layers import (
    activation,
    convolution,
    keeping_size,
    layer_scale,
    norm,
    relu,
    transposed_convolution,
)
from random_networks.sketch import Sketch, maybe, options


def residual(sketch: Sketch, x: str, depth: int = 0) -> str:
    """A sum of a branch and its input; the branch may hold a residual block, and the input may be downsampled."""
    out, stride = sketch.channels(x), None
    if sketch.chance(0.3):
        out, stride = sketch.integer(2, 5), sketch.pick(1, 2, 2, 3)
    before = maybe(0.3, activation, sketch, x)
    branch = activation(sketch, maybe(0.5, norm, sketch, keeping_size(sketch, before, out, stride)))
    if depth < 2 and not sketch.full and sketch.chance(0.3):
        branch = residual(sketch, branch, depth + 1)
    if sketch.shape(branch) == sketch.shape(x) or sketch.chance(0.7):
        branch = maybe(0.5, norm, sketch, keeping_size(sketch, branch, sketch.channels(branch)))
    branch = maybe(0.2, layer_scale, sketch, branch)
    x = shortcut(sketch, before if sketch.chance(0.3) else x, branch)
    return maybe(0.7, activation, sketch, merged(sketch, branch, x))


def shortcut(sketch: Sketch, x: str, branch: str) -> str:
    """``x`` itself, or a pointwise convolution of it that has the shape of ``branch``."""
    (channels, *size), (out, *wanted) = sketch.shape(x), sketch.shape(branch)
    if (channels, size) == (out, wanted):
        return x
    for stride in (1, 2, 3, 4, 6, 9):
        if [(side - 1) // stride + 1 for side in size] == wanted:
            details = options(stride=stride, bias=sketch.pick(None, False))
            return maybe(0.4, norm, sketch, sketch.apply(f"nn.Conv{sketch.d}({channels}, {out}, 1{details})", x))
    pooled = sketch.step(f"F.adaptive_avg_pool{sketch.d}({x}, {tuple(wanted)})")
    return sketch.apply(f"nn.Conv{sketch.d}({channels}, {out}, 1)", pooled)


def merged(sketch: Sketch, first: str, second: str) -> str:
    """A sum or difference in one of its spellings; the second may be broadcast."""
    spelling = sketch.pick(
        *(
            "{} + {}",
            "{} + {}",
            "torch.add({}, {})",
            "{} - {}",
            "{}.add({}, alpha=0.5)",
            "torch.sub({}, {}, alpha=0.7)",
        ),
        *("torch.lerp({}, {}, 0.3)", "sum([{}, {}])", "torch.stack([{}, {}]).sum(0)", "+="),
    )
    same = sketch.shape(first) == sketch.shape(second)
    if spelling == "+=" and first not in (second, "x"):
        sketch.in_place(f"{first} += {second}")
        return first
    if not same and ("stack" in spelling or "lerp" in spelling):
        spelling = "{} + {}"
    return sketch.step(spelling.replace("+=", "{} + {}").format(first, second))


def branches(sketch: Sketch, x: str, count: int = 0) -> list[str]:
    """Two or three values of one size: ``x`` itself may be among them, also twice."""
    names = []
    for _ in range(count or sketch.pick(2, 2, 3)):
        names.append(x if sketch.chance(0.3) else maybe(0.6, activation, sketch, keeping_size(sketch, x)))
    return names


def concatenation(sketch: Sketch, x: str) -> str:
    """Of branches, or dense: every layer reads all values before it."""
    dim = sketch.pick(1, 1, -1 - sketch.dims)
    if sketch.chance(0.6):
        spelling = sketch.pick("torch.cat([{}], {})", "torch.cat(({}), dim={})", "torch.concat([{}], {})")
        return sketch.step(spelling.format(", ".join(branches(sketch, x)), dim))
    for _ in range(2):
        new = activation(sketch, keeping_size(sketch, x, sketch.integer(1, 2)))
        x = sketch.step(f"torch.cat([{x}, {new}], {dim})")
    return x


def fan_out(sketch: Sketch, x: str) -> str:
    """A sum of several branches of one value."""
    return sketch.step(" + ".join(branches(sketch, x)))


def junction(sketch: Sketch, x: str) -> str:
    """A sum of pointwise convolutions of two values with different numbers of channels."""
    out, names = sketch.integer(2, 5), []
    for _ in range(2):
        source = maybe(0.8, activation, sketch, keeping_size(sketch, x, sketch.integer(1, 4)))
        weights = f"nn.Conv{sketch.d}({sketch.channels(source)}, {out}, 1{options(bias=sketch.pick(None, False))})"
        names.append(maybe(0.4, norm, sketch, sketch.apply(weights, source)))
    return maybe(0.8, activation, sketch, merged(sketch, *names))


def shared(sketch: Sketch, x: str) -> str:
    """One layer used twice: on its own output, on two branches, or with its weight in another layer."""
    kind = sketch.pick("twice", "branches", "tied", "norm")
    x = norm(sketch, x) if kind == "norm" else keeping_size(sketch, x)
    layer = sketch.steps[-1].split(" = ")[1].split("(")[0]
    if not layer.startswith("self."):
        return x
    if kind == "tied":
        return sketch.step(f"F.conv_transpose{sketch.d}({activation(sketch, x)}, {layer}.weight[..., :1])")
    if kind == "branches":
        return merged(sketch, sketch.step(f"{layer}({activation(sketch, x)})"), sketch.step(f"{layer}({x})"))
    return sketch.step(f"{layer}({relu(sketch, x)})")


def u_shape(sketch: Sketch, x: str) -> str:
    """Down, up again, and concatenated with the value before."""
    size = sketch.size(x)
    if min(size) < 4:
        return residual(sketch, x)
    down = activation(sketch, keeping_size(sketch, x, stride=2))
    up = transposed_convolution(sketch, down) if sketch.chance(0.5) else down
    linear = {1: "linear", 2: "bilinear", 3: "trilinear"}[sketch.dims]
    spelling = sketch.pick(
        "size={1})", "size={0}.shape[2:])", "size={1}, mode='{2}')", "size={1}, mode='{2}', align_corners=True)"
    )
    up = sketch.step(f"F.interpolate({up}, {spelling.format(x, tuple(size), linear)}")
    if sketch.channels(up) == sketch.channels(x) and sketch.chance(0.5):
        return merged(sketch, up, x)
    return sketch.step(f"torch.cat([{up}, {x}], 1)")


def global_context(sketch: Sketch, x: str) -> str:
    """A value summed with its own mean, or largest entry, over positions or channels."""
    dims = sketch.pick(sketch.spatial, sketch.spatial, (1,), (1 + sketch.dims,))
    kind = sketch.pick("mean", "mean", "amax", "sum")
    pooled = sketch.step(f"{x}.{kind}({dims}, keepdim=True)")
    if dims == sketch.spatial and sketch.chance(0.4):
        pooled = activation(
            sketch, sketch.apply(f"nn.Conv{sketch.d}({sketch.channels(x)}, {sketch.channels(x)}, 1)", pooled)
        )
    return sketch.step(sketch.pick("{} + {}", "{} - {}", "torch.add({}, {}, alpha=0.5)").format(x, pooled))


def column_and_row(sketch: Sketch, x: str) -> str:
    """A sum of two signals neither of which has the shape of the sum."""
    first = sketch.step(f"{convolution(sketch, x)}")
    dims = list(range(1, 2 + sketch.dims))
    means = [f"{first}.mean({dim}, keepdim=True)" for dim in sketch.random.sample(dims, 2)]
    return sketch.step(f"{means[0]} {sketch.pick('+', '-')} {means[1]}")


# Gates

GATES = ("torch.sigmoid({})", "F.hardsigmoid({})", "{}.sigmoid()", "torch.tanh({})", "{}.clamp(0, 1)")


def squeeze_excite(sketch: Sketch, x: str) -> str:
    """Channels scaled by what their means say."""
    channels, hidden = sketch.channels(x), sketch.integer(1, 3)
    if sketch.chance(0.5):
        s = sketch.step(
            sketch.pick("{0}.mean({1}, keepdim=True)", "F.adaptive_avg_pool{2}({0}, 1)").format(
                x, sketch.spatial, sketch.d
            )
        )
        s = activation(sketch, sketch.apply(f"nn.Conv{sketch.d}({channels}, {hidden}, 1)", s))
        s = sketch.apply(f"nn.Conv{sketch.d}({hidden}, {channels}, 1)", s)
    else:
        s = sketch.step(f"{x}.{sketch.pick('mean', 'mean', 'amax')}({sketch.spatial})")
        s = relu(sketch, sketch.apply(f"nn.Linear({channels}, {hidden})", s))
        s = sketch.apply(f"nn.Linear({hidden}, {channels})", s)
        s = sketch.step(f"{s}.view(-1, {channels}, {', '.join('1' * sketch.dims)})")
    s = sketch.step(sketch.pick(*GATES).format(s))
    return sketch.step(
        sketch.pick("{x} * {s}", "{s} * {x}", "{x} + {x} * {s}", "{x} * {s}.expand_as({x})").format(x=x, s=s)
    )


def spatial_gate(sketch: Sketch, x: str) -> str:
    """Positions scaled by what a convolution of one channel says, or the largest and the mean channel."""
    if sketch.chance(0.5):
        s = sketch.apply(f"nn.Conv{sketch.d}({sketch.channels(x)}, 1, 1)", x)
    else:
        s = sketch.step(f"torch.cat([{x}.mean(1, keepdim=True), {x}.amax(1, keepdim=True)], 1)")
        s = sketch.apply(f"nn.Conv{sketch.d}(2, 1, 3, padding=1)", s)
    return sketch.step(f"{x} * {sketch.pick(*GATES).format(s)}")


def gated_unit(sketch: Sketch, x: str) -> str:
    """Half of the channels scaled by the other half."""
    channels = sketch.channels(x)
    if channels % 2:
        x = sketch.apply(f"nn.Conv{sketch.d}({channels}, 4, 1)", x)
        channels = 4
    kind = sketch.pick("F.glu({}, 1)", "layer", "chunk", "slices", "bilinear")
    if kind == "layer":
        return sketch.apply("nn.GLU(1)", x)
    if "{}" in kind:
        return sketch.step(kind.format(x))
    half = channels // 2
    if kind == "slices":
        return sketch.step(f"{x}[:, :{half}] * torch.sigmoid({x}[:, {half}:])")
    a, b = sketch.step(f"{x}.chunk(2, 1)[0]"), sketch.step(f"{x}.chunk(2, 1)[1]")
    return sketch.step(
        f"{a} * {b}" if kind == "bilinear" else f"{a} * {sketch.pick('F.gelu', 'F.silu', 'torch.sigmoid')}({b})"
    )


def highway(sketch: Sketch, x: str) -> str:
    """A gate that chooses between a branch and its input."""
    channels = sketch.channels(x)
    g = sketch.step(f"torch.sigmoid({sketch.apply(f'nn.Conv{sketch.d}({channels}, {channels}, 1)', x)})")
    branch = activation(sketch, keeping_size(sketch, x))
    return sketch.step(f"{g} * {branch} + (1 - {g}) * {x}")


# Products, quotients, maxima


def product(sketch: Sketch, x: str) -> str:
    """Of two signals."""
    first, second = branches(sketch, x, 2)
    return sketch.step(
        sketch.pick(
            "{} * {}",
            "torch.mul({}, {})",
            "torch.addcmul({0}, {0}, {1}, value=0.3)",
            "{0} * {1} + {0}",
            "({0} + 0.5).square() - {1}",
        ).format(first, second)
    )


def quotient(sketch: Sketch, x: str) -> str:
    """A signal divided by a signal that is not zero, often its own size."""
    other = keeping_size(sketch, x)
    return sketch.step(
        sketch.pick(
            *("{0} / (1 + {1}.abs())", "{0} / ({1}.exp() + 0.5)", "{0} / (1 + {1} * {1})", "F.normalize({0}, dim=1)"),
            *("{0} / ({0}.norm(dim=1, keepdim=True) + 0.1)", "{0} / (0.1 + {0}.abs().mean({2}, keepdim=True))"),
            *("({0} - {0}.mean({2}, keepdim=True)) / ({0}.var({2}, keepdim=True, unbiased=False) + 0.1).sqrt()",),
            *("{0} * torch.rsqrt({0}.pow(2).mean(1, keepdim=True) + 0.01)", "torch.addcdiv({1}, {0}, 1 + {1}.abs())"),
            *("{0} / {0}.amax({2}, keepdim=True).abs().clamp(min=0.2)",),
        ).format(x, other, sketch.spatial)
    )


def larger(sketch: Sketch, x: str) -> str:
    """The larger, or smaller, of two signals."""
    first, second = (keeping_size(sketch, x), x) if sketch.chance(0.5) else branches(sketch, x, 2)
    return sketch.step(
        sketch.pick("torch.maximum({}, {})", "torch.minimum({}, {})", "torch.max({}, {})").format(first, second)
    )


def attention_over_positions(sketch: Sketch, x: str) -> str:
    """Positions weighted by a softmax."""
    s = sketch.step(f"{sketch.apply(f'nn.Conv{sketch.d}({sketch.channels(x)}, 1, 1)', x)}.flatten(2).softmax(-1)")
    context = (
        sketch.step(f"({x}.flatten(2) * {s}).sum(-1)")
        if sketch.chance(0.5)
        else sketch.step(f"({x}.flatten(2) @ {s}.transpose(1, 2)).squeeze(-1)")
    )
    return sketch.step(f"{x} + {context}.view(-1, {sketch.channels(x)}, {', '.join('1' * sketch.dims)})")
