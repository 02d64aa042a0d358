"""Single layers on feature maps: convolutions, normalisations, activations, poolings, arithmetic with constants."""

from __future__ import annotations

from random_networks.sketch import Impossible, Sketch, finite, fresh, maybe, options


def convolution(sketch: Sketch, x: str) -> str:
    """A convolution of any kind that fits; a pointwise one where the drawn one does not."""
    channels = sketch.channels(x)
    groups = sketch.pick(None, None, None, channels if channels > 1 else None, None if channels % 2 else 2)
    out = groups * sketch.pick(1, 2) if groups else sketch.integer(2, 5)
    kernel, stride = sketch.per_dim(1, 2, 3, 3, 4, 5), sketch.per_dim(1, 1, 1, 1, 2, 3)
    padding = sketch.pick("valid", sketch.per_dim(0, 1, 1, 2))
    if stride == 1 and sketch.chance(0.3):
        padding = "same"
    mode = sketch.pick(*[None] * 6, "reflect", "replicate", "circular")
    dilation, bias = sketch.pick(None, None, None, sketch.per_dim(1, 2)), sketch.pick(None, False)
    details = options(stride=stride, padding=padding, dilation=dilation, groups=groups, bias=bias, padding_mode=mode)
    try:
        return sketch.apply(f"nn.Conv{sketch.d}({channels}, {out}, {kernel}{details})", x)
    except Impossible:
        return sketch.apply(f"nn.Conv{sketch.d}({channels}, {out}, 1{options(groups=groups, bias=bias)})", x)


def transposed_convolution(sketch: Sketch, x: str) -> str:
    """Only on small maps: it enlarges them."""
    channels = sketch.channels(x)
    stride = sketch.per_dim(1, 2) if max(sketch.size(x)) <= 8 else 1
    padding = 1 if max(sketch.size(x)) > 4 else sketch.pick(None, 1)
    odd = 1 if stride == 2 and sketch.chance(0.3) else None
    groups = sketch.pick(None, None, channels, 2) if channels % 2 == 0 else None
    dilation = sketch.pick(None, None, 2)
    details = options(stride=stride, padding=padding, output_padding=odd, groups=groups, dilation=dilation)
    out, bias = groups or sketch.integer(2, 4), options(bias=sketch.pick(None, False))
    return sketch.apply(f"nn.ConvTranspose{sketch.d}({channels}, {out}, {sketch.per_dim(1, 2, 3)}{details}{bias})", x)


def functional_convolution(sketch: Sketch, x: str) -> str:
    """With a parameter, used as it is, twice, transposed or scaled."""
    channels, kernel = sketch.channels(x), [sketch.pick(1, 3)] * sketch.dims
    weight = sketch.parameter(sketch.integer(2, 4), channels, *kernel)
    padding, convolution = kernel[0] // 2, f"F.conv{sketch.d}"
    use = sketch.pick("plain", "tied", "scaled", "normalised", "transposed")
    if use == "tied":
        x = activation(sketch, sketch.step(f"{convolution}({x}, {weight}, padding={padding})"))
        return sketch.step(f"F.conv_transpose{sketch.d}({x}, {weight}, padding={padding})")
    if use == "transposed":
        x = activation(sketch, sketch.step(f"{convolution}({x}, {weight}, padding={padding})"))
        return sketch.step(f"{convolution}({x}, {weight}.transpose(0, 1), padding={padding})")
    form = {
        "plain": "{0}",
        "scaled": "{0} * 0.5",
        "normalised": "({0} - {0}.mean()) / {0}.std()",
    }[use].format(weight)
    return sketch.step(f"{convolution}({x}, {form}, padding={padding})")


def keeping_size(sketch: Sketch, x: str, out: int | None = None, stride: int | None = None) -> str:
    """A convolution whose output is as large as its input, or a strided part of it; ``out`` channels."""
    channels = sketch.channels(x)
    out = out or channels
    kernel, dilation = sketch.per_dim(1, 3, 3, 5), sketch.pick(None, None, None, 2)
    sides = kernel if isinstance(kernel, tuple) else (kernel,) * sketch.dims
    padding: object = tuple((dilation or 1) * (side - 1) // 2 for side in sides)
    if stride is None and sketch.chance(0.3):
        padding = "same"
    groups = channels if out % channels == 0 and sketch.chance(0.2) else None
    details = options(stride=stride, padding=padding, dilation=dilation, groups=groups, bias=sketch.pick(None, False))
    return sketch.apply(f"nn.Conv{sketch.d}({channels}, {out}, {kernel}{details})", x)


# Normalisations


def batch_norm(sketch: Sketch, x: str) -> str:
    details = options(affine=sketch.pick(None, None, None, False), eps=sketch.pick(None, None, 1e-3))
    return sketch.apply(f"nn.BatchNorm{sketch.d}({sketch.channels(x)}{details})", x)


def sample_norm(sketch: Sketch, x: str) -> str:
    """A normalisation by statistics of the sample."""
    channels, *size = sketch.shape(x)
    kind = sketch.pick("group", "one group", "instance", "stored", "layer", "whole", "rms", "function")
    if kind == "layer":
        return _channels_last(sketch, f"nn.LayerNorm({channels}{options(bias=sketch.pick(None, False))})", x)
    if kind == "rms":
        return _channels_last(sketch, f"nn.RMSNorm({channels}{options(eps=sketch.pick(None, 1e-3))})", x)
    if kind == "function":
        return sketch.step(f"F.group_norm({x}, 1, {sketch.parameter(channels)}, {sketch.parameter(channels)})")
    affine = options(affine=sketch.pick(None, False))
    groups = 2 if channels % 2 == 0 and channels > 2 else 1
    return sketch.apply(
        {
            "group": f"nn.GroupNorm({groups}, {channels}{affine})",
            "one group": f"nn.GroupNorm(1, {channels})",
            "instance": f"nn.InstanceNorm{sketch.d}({channels}, affine={sketch.pick(True, False)})",
            "stored": f"nn.InstanceNorm{sketch.d}({channels}, affine=True, track_running_stats=True)",
            "whole": f"nn.LayerNorm({[channels, *size]}, elementwise_affine={sketch.pick(True, False)})",
        }[kind],
        x,
    )


def _channels_last(sketch: Sketch, layer: str, x: str) -> str:
    back = sketch.pick(
        "movedim(-1, 1)", f"permute(0, {1 + sketch.dims}, {', '.join(map(str, range(1, 1 + sketch.dims)))})"
    )
    return sketch.step(f"{sketch.apply(layer, sketch.step(f'{x}.movedim(1, -1)'))}.{back}")


def norm(sketch: Sketch, x: str) -> str:
    return sketch.pick(batch_norm, batch_norm, sample_norm)(sketch, x)


# Activations. The α of celu is a power of 2: PyTorch's own gradient takes 1 / α in single precision.

FUNCTIONS = (
    *("F.gelu({})", "F.gelu({}, approximate='tanh')", "F.silu({})", "F.mish({})", "F.hardswish({})", "F.relu6({})"),
    *("F.leaky_relu({}, 0.2)", "F.elu({})", "F.elu({}, 0.7)", "F.selu({})", "F.celu({}, 0.5)", "F.softplus({})"),
    *("torch.tanh({})", "torch.sigmoid({})", "{}.clamp(-0.5, 0.75)", "torch.clamp({}, min=-0.25)", "{}.clamp(max=0.5)"),
    *("F.hardtanh({}, -0.4, 0.6)", "F.softplus({}, 2.0, 15.0)", "F.logsigmoid({})", "F.hardsigmoid({})", "{}.tanh()"),
    *("F.rrelu({}, training=False)", "torch.nn.functional.threshold({}, 0, 0)", "{}.clamp_min(0)", "{}.sigmoid()"),
)
MODULES = (
    *("GELU()", "GELU('tanh')", "SiLU()", "Mish()", "Hardswish()", "ReLU6()", "LeakyReLU(0.3)", "PReLU()", "ELU(0.9)"),
    *(
        "Softplus()",
        "Tanh()",
        "Sigmoid()",
        "Hardsigmoid()",
        "SELU()",
        "CELU()",
        "Hardtanh()",
        "LogSigmoid()",
        "RReLU()",
    ),
)
IN_PLACE = (
    *(
        "F.silu({}, inplace=True)",
        "F.leaky_relu({}, inplace=True)",
        "F.relu6({}, inplace=True)",
        "{}.clamp_(-0.6, 0.9)",
    ),
    *(
        "F.hardswish({}, inplace=True)",
        "F.elu({}, inplace=True)",
        "{}.tanh_()",
        "{}.sigmoid_()",
        "F.mish({}, inplace=True)",
    ),
)
BY_HAND = (
    *("{0} * torch.sigmoid({0})", "{0} * F.relu6({0} + 3) / 6", "{0} * torch.tanh(F.softplus({0}))"),
    *("{0} * 0.5 * (1 + torch.erf({0} / math.sqrt(2)))", "{0} * torch.sigmoid(1.702 * {0})", "{0} / (1 + {0}.abs())"),
    *("torch.maximum({0}, 0.1 * {0})", "torch.where({0} > 0, {0}, 0.2 * {0})", "{0} * ({0} > -0.2)"),
    *("torch.max({0}, torch.tensor(0.1))", "{0}.masked_fill({0} < -0.3, 0.25)", "F.threshold({0}, 0.1, -0.3)"),
    *("F.hardshrink({0}, 0.2)", "F.softshrink({0}, 0.1)", "torch.sign({0}) * torch.log1p({0}.abs())"),
    *("torch.sin({0})", "torch.cos({0}) + 0.5", "torch.exp(-0.5 * {0})", "torch.expm1(0.3 * {0})", "{0}.abs()"),
    *("torch.log({0} * {0} + 0.5)", "torch.log1p(F.relu({0}))", "({0} * {0} + 0.1) ** 0.75", "{0}.double() * 1.5"),
    *("torch.reciprocal(1 + F.relu({0}))", "torch.rsqrt({0} * {0} + 0.2)", "(F.relu({0}) + 0.1).pow(1.5)"),
)


def relu(sketch: Sketch, x: str) -> str:
    """ReLU in one of its spellings; some share one module, some change ``x`` itself."""
    spelling = sketch.pick("shared", "shared", "own", "function", "in place", "torch", "method", "method in place")
    if "place" in spelling or spelling in ("own", "shared"):
        x = fresh(sketch, x)
    if spelling == "own":
        return sketch.apply(f"nn.ReLU({sketch.pick('', 'inplace=True')})", x)
    if spelling == "shared" and not hasattr(sketch.self, "act"):
        sketch.layer("nn.ReLU(inplace=True)", "act")
    return sketch.step(
        {
            "shared": f"self.act({x})",
            "function": f"F.relu({x})",
            "in place": f"F.relu({x}, inplace=True)",
            "torch": f"torch.relu({x})",
            "method": f"{x}.relu()",
            "method in place": f"{x}.relu_()",
        }[spelling]
    )


def smooth(sketch: Sketch, x: str) -> str:
    """Any other activation."""
    kind = sketch.pick("function", "module", "in place", "by hand", "slopes")
    if kind == "module":
        return sketch.apply(f"nn.{sketch.pick(*MODULES)}", x)
    if kind == "slopes" and sketch.values[x].dim() > 2:
        return sketch.apply(f"nn.PReLU({sketch.channels(x)})", x)
    if kind == "in place":
        return sketch.step(sketch.pick(*IN_PLACE).format(fresh(sketch, x)))
    return sketch.step(sketch.pick(*(BY_HAND if kind == "by hand" else FUNCTIONS)).format(x))


def activation(sketch: Sketch, x: str) -> str:
    return sketch.pick(relu, smooth)(sketch, x)


def plain(sketch: Sketch, x: str) -> str:
    """Convolution, perhaps a norm, usually an activation."""
    x = maybe(0.5, norm, sketch, convolution(sketch, x))
    return maybe(0.8, activation, sketch, x)


# Pooling


def pool(sketch: Sketch, x: str) -> str:
    """A pooling that fits; none where the drawn one does not."""
    d = sketch.d
    kernel = sketch.per_dim(2, 3, 3)
    stride, ceil = sketch.pick(None, 1, 2, 2), sketch.pick(None, True)
    window = f"{kernel}{options(stride=stride, padding=sketch.pick(None, 1), ceil_mode=ceil)}"
    size = tuple(sketch.pick(1, 2, 3) for _ in range(sketch.dims))
    rest = [", count_include_pad=False"] if sketch.dims == 1 else [", count_include_pad=False", ", divisor_override=3"]
    kind = sketch.pick(
        f"nn.MaxPool{d}({window})",
        f"nn.MaxPool{d}({window}{options(dilation=sketch.pick(None, 2))})",
        f"nn.AvgPool{d}({window})",
        f"nn.AvgPool{d}({window}{sketch.pick(*rest)})",
        f"nn.AdaptiveAvgPool{d}({size})",
        f"nn.AdaptiveMaxPool{d}({size})",
    )
    try:
        return sketch.apply(kind, x) if finite(kind, sketch.shape(x)) else x
    except Impossible:
        return x


def reduction(sketch: Sketch, x: str) -> str:
    """Over one dimension, kept or put back."""
    dim = sketch.integer(1, 1 + sketch.dims)
    call = sketch.pick("mean({d}, {k})", "sum({d}, {k})", "amax({d}, {k})", "amin({d}, {k})", "max({d}, {k})[0]")
    k = "keepdim=True" if sketch.chance(0.5) else "False"
    x = sketch.step(f"{x}.{call.format(d=dim, k=k)}")
    return x if "True" in k else sketch.step(f"{x}.unsqueeze({dim})")


# Arithmetic with numbers and parameters


def affine(sketch: Sketch, x: str) -> str:
    spelling = sketch.pick(
        *(
            "{} * 0.5",
            "-0.3 * {}",
            "{} + 0.25",
            "{} / -1.5",
            "{} - 0.1",
            "1 - {}",
            "-{}",
            "torch.sub({}, 0.5, alpha=2)",
        ),
        *("torch.rsub({}, 1.5)", "*", "*", "+", "-", "/", "r-", "addcmul", "in place", "buffer"),
    )
    channels, ones = sketch.channels(x), [1] * sketch.dims
    if "{}" in spelling:
        return sketch.step(spelling.format(x))
    if spelling == "in place":
        x = fresh(sketch, x)
        sketch.in_place(sketch.pick("{} += 0.5", "{} *= 0.75", "{} -= 0.2", "{} /= 2").format(x))
        return x
    parameter = sketch.parameter(channels, *ones, positive=True)
    if spelling == "r-":
        return sketch.step(f"{parameter} - {x}")
    if spelling == "addcmul":
        return sketch.step(f"torch.addcmul({sketch.parameter(channels, *ones)}, {x}, {parameter}, value=0.5)")
    if spelling == "buffer":
        return sketch.step(f"{x} * torch.linspace(0.5, 1.5, {sketch.size(x)[-1]}, dtype={x}.dtype)")
    if spelling == "/":
        return sketch.step(f"{x} / (0.5 + {parameter})")
    if sketch.chance(0.5):
        return sketch.step(f"{x} {spelling} {parameter}")
    return sketch.step(f"{x} {spelling} {sketch.parameter(channels)}.view(-1, {', '.join(map(str, ones))})")


def layer_scale(sketch: Sketch, x: str) -> str:
    scale = sketch.layer(f"nn.Parameter(0.3 * torch.ones({sketch.channels(x)}, {', '.join(['1'] * sketch.dims)}))")
    return sketch.step(f"{x} * self.{scale}")


def dropout(sketch: Sketch, x: str) -> str:
    kinds = ("nn.Dropout(0.3)", "nn.Dropout(0.2, inplace=True)", "nn.Identity()", f"nn.Dropout{sketch.d}(0.1)")
    return sketch.apply(sketch.pick(*kinds[: 4 if sketch.values[x].dim() > 2 else 3]), x)


def on_channels(sketch: Sketch, x: str) -> str:
    """A linear layer on the channels of every position, as a layer, a function, an einsum or a matrix product."""
    channels, out = sketch.channels(x), sketch.integer(2, 4)
    if sketch.chance(0.3):
        letters = "hwd"[: sketch.dims]
        return sketch.step(f"torch.einsum('nc{letters},co->no{letters}', {x}, {sketch.parameter(channels, out)})")
    x = sketch.step(f"{x}.movedim(1, -1)")
    bias = sketch.pick(None, False)
    kind = sketch.pick("layer", "layer", "function", "matmul", "@")
    if kind == "layer":
        x = sketch.apply(f"nn.Linear({channels}, {out}{options(bias=bias)})", x)
    elif kind == "function":
        x = sketch.step(f"F.linear({x}, {sketch.parameter(out, channels)})")
    else:
        matrix = sketch.parameter(channels, out)
        x = sketch.step(f"{x} @ {matrix}" if kind == "@" else f"torch.matmul({x}, {matrix})")
    return sketch.step(f"{maybe(0.7, activation, sketch, x)}.movedim(-1, 1)")
