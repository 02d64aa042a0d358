"""Blocks on tokens (N, T, D): attention in every spelling, multilayer perceptrons, class tokens, pooling."""

from __future__ import annotations

import math

from random_networks.blocks.layers import relu, smooth
from random_networks.sketch import Sketch, maybe, options


def tokens(sketch: Sketch, x: str) -> str:
    """Patches of a feature map, or its positions, as tokens; perhaps with a class token and position embedding."""
    channels, *size = sketch.shape(x)
    width = sketch.pick(4, 6)
    patch = 2 if min(size) >= 4 and math.prod(size) > 9 else 1
    x = sketch.apply(f"nn.Conv{sketch.d}({channels}, {width}, {patch}, stride={patch})", x)
    count = math.prod(sketch.size(x))
    if count > 27:
        x = sketch.apply(f"nn.AdaptiveAvgPool{sketch.d}(2)", x)
        count = math.prod(sketch.size(x))
    x = sketch.step(
        sketch.pick("{0}.flatten(2).transpose(1, 2)", "{0}.reshape({0}.shape[0], {1}, -1).permute(0, 2, 1)").format(
            x, width
        )
    )
    if sketch.chance(0.5):
        first = sketch.parameter(1, 1, width)
        spelling = sketch.pick(
            "{0}.expand({1}.shape[0], -1, -1)", "{0}.repeat({1}.shape[0], 1, 1)", "{0}.expand({1}.size(0), 1, {2})"
        )
        x = sketch.step(f"torch.cat([{spelling.format(first, x, width)}, {x}], 1)")
        count += 1
    if sketch.chance(0.6):
        x = sketch.step(f"{x} + {sketch.parameter(sketch.pick(1, 1), count, width)}")
    return x


def linear(sketch: Sketch, x: str, out: int) -> str:
    bias = options(bias=sketch.pick(None, None, False))
    return sketch.apply(f"nn.Linear({sketch.shape(x)[-1]}, {out}{bias})", x)


def token_norm(sketch: Sketch, x: str) -> str:
    width = sketch.shape(x)[-1]
    return sketch.apply(
        sketch.pick(f"nn.LayerNorm({width})", f"nn.LayerNorm({width})", f"nn.RMSNorm({width}, eps=1e-5)"), x
    )


def attention(sketch: Sketch, x: str) -> str:
    """Self-attention, (N, T, D) -> (N, T, D)."""
    if sketch.chance(0.3):
        return module_attention(sketch, x)
    count, width = sketch.shape(x)
    heads = sketch.pick(1, 2)
    q, k, v = projections(sketch, x, heads)
    x = mixed(sketch, q, k, v, width // heads)
    x = sketch.step(
        sketch.pick("{0}.transpose(1, 2).reshape(-1, {1}, {2})", "{0}.permute(0, 2, 1, 3).flatten(2)").format(
            x, count, width
        )
    )
    return maybe(0.7, lambda sketch, x: linear(sketch, x, width), sketch, x)


def projections(sketch: Sketch, x: str, heads: int) -> list[str]:
    """Queries, keys and values, each (N, heads, T, D / heads)."""
    count, width = sketch.shape(x)
    size = width // heads
    kind = sketch.pick("one layer", "chunk", "split", "three layers")
    if kind == "one layer":
        qkv = sketch.step(
            f"{linear(sketch, x, 3 * width)}.reshape(-1, {count}, 3, {heads}, {size}).permute(2, 0, 3, 1, 4)"
        )
        if sketch.chance(0.5):
            return [sketch.step(f"{qkv}[{i}]") for i in range(3)]
        return [sketch.step(f"{qkv}.unbind(0)[{i}]") for i in range(3)]
    if kind == "three layers":
        parts = [linear(sketch, x, width) for _ in range(3)]
    else:
        qkv = linear(sketch, x, 3 * width)
        cut = "chunk(3, dim=-1)" if kind == "chunk" else f"split({width}, -1)"
        parts = [f"{qkv}.{cut}[{i}]" for i in range(3)]
    return [
        sketch.step(f"{part}.view(-1, {count}, {heads}, {size}).transpose(1, 2)")
        if kind == "three layers"
        else sketch.step(f"{part}.reshape(-1, {count}, {heads}, {size}).transpose(1, 2)")
        for part in parts
    ]


def mixed(sketch: Sketch, q: str, k: str, v: str, size: int) -> str:
    """softmax(q kᵀ) v in one of its spellings."""
    heads, count, _ = sketch.shape(q)
    kind = sketch.pick("function", "function", "scale", "mask", "causal", "by hand", "einsum", "bmm", "bias", "cosine")
    if kind in ("function", "scale", "mask", "causal"):
        details = {
            "function": "",
            "scale": ", scale=0.4",
            "mask": f", attn_mask={sketch.parameter(count, count) if kind == 'mask' else ''}",
            "causal": ", is_causal=True",
        }[kind]
        return sketch.step(f"F.scaled_dot_product_attention({q}, {k}, {v}{details})")
    if kind == "einsum":
        weights = sketch.step(f"torch.einsum('bhid,bhjd->bhij', {q}, {k}).mul({size**-0.5:.3f}).softmax(-1)")
        return sketch.step(f"torch.einsum('bhij,bhjd->bhid', {weights}, {v})")
    if kind == "bmm":
        q, k, v = (sketch.step(f"{part}.reshape(-1, {count}, {size})") for part in (q, k, v))
        weights = sketch.step(f"torch.bmm({q}, {k}.transpose(1, 2)).softmax(-1)")
        return sketch.step(f"torch.bmm({weights}, {v}).view(-1, {heads}, {count}, {size})")
    if kind == "cosine":
        q, k = (sketch.step(f"F.normalize({part}, dim=-1)") for part in (q, k))
    scores = sketch.step(f"{q} @ {k}.transpose(-2, -1) * {size**-0.5:.3f}")
    if kind == "bias":
        scores = sketch.step(f"{scores} + {sketch.parameter(heads, count, count)}")
    weights = sketch.step(sketch.pick("{}.softmax(-1)", "F.softmax({}, dim=-1)", "torch.softmax({}, 3)").format(scores))
    weights = sketch.apply("nn.Dropout(0.1)", weights) if sketch.chance(0.3) else weights
    return sketch.step(sketch.pick("{} @ {}", "torch.matmul({}, {})").format(weights, v))


def module_attention(sketch: Sketch, x: str) -> str:
    """``nn.MultiheadAttention``, batch first or second, with weights or without."""
    _, width = sketch.shape(x)
    first = sketch.chance(0.6)
    layer = sketch.layer(f"nn.MultiheadAttention({width}, {sketch.pick(1, 2)}{options(batch_first=first or None)})")
    weights = sketch.pick("", ", need_weights=False", ", need_weights=False")
    if first:
        return sketch.step(f"self.{layer}({x}, {x}, {x}{weights})[0]")
    x = sketch.step(f"{x}.transpose(0, 1)")
    return sketch.step(f"self.{layer}({x}, {x}, {x}{weights})[0].transpose(0, 1)")


def perceptron(sketch: Sketch, x: str) -> str:
    """Two linear layers with an activation or a gate between them."""
    width, hidden = sketch.shape(x)[-1], sketch.integer(3, 6)
    if sketch.chance(0.25):
        h = linear(sketch, x, 2 * hidden)
        form = "F.silu({0}[..., :{1}]) * {0}[..., {1}:]" if sketch.chance(0.5) else "F.glu({0}, -1)"
        return linear(sketch, sketch.step(form.format(h, hidden)), width)
    h = sketch.pick(relu, smooth, smooth)(sketch, linear(sketch, x, hidden))
    return linear(sketch, h, width)


def across_tokens(sketch: Sketch, x: str) -> str:
    """A linear layer, or a convolution, across tokens."""
    count, width = sketch.shape(x)
    if sketch.chance(0.3):
        y = sketch.apply(
            f"nn.Conv1d({width}, {width}, 3, padding=1, groups={width})", sketch.step(f"{x}.transpose(1, 2)")
        )
    elif sketch.chance(0.5):
        return sketch.step(f"{sketch.parameter(count, count)} @ {x}")
    else:
        y = linear(sketch, sketch.step(f"{x}.transpose(1, 2)"), count)
    return sketch.step(f"{y}.transpose(1, 2)")


def token_block(sketch: Sketch, x: str) -> str:
    """A residual block, with the norm before or behind, perhaps scaled."""
    layer, kind = (
        sketch.pick(attention, attention, perceptron, across_tokens),
        sketch.pick("pre", "pre", "post", "plain"),
    )
    before = token_norm(sketch, x) if kind == "pre" else x
    branch = layer(sketch, before)
    if sketch.chance(0.2):
        branch = sketch.step(f"{branch} * {sketch.parameter(sketch.shape(x)[-1])}")
    if kind == "plain" and sketch.chance(0.5):
        return branch
    x = sketch.step(sketch.pick("{} + {}", "{} + {}", "{}.add({})").format(x, branch))
    return token_norm(sketch, x) if kind == "post" else x


def token_movement(sketch: Sketch, x: str) -> str:
    """Tokens dropped, moved around, merged in pairs, or looked at by a learned query."""
    count, width = sketch.shape(x)
    kind = sketch.pick("roll", "drop", "merge", "query", "flip")
    if kind == "merge" and count % 2 == 0:
        return linear(sketch, sketch.step(f"{x}.reshape(-1, {count // 2}, {2 * width})"), width)
    if kind == "query":
        query = sketch.parameter(1, 2, width)
        weights = sketch.step(f"({query} @ {x}.transpose(1, 2)).softmax(-1)")
        return sketch.step(f"{weights} @ {x}")
    forms = {"roll": "torch.roll({}, 1, 1)", "drop": "{}[:, 1:]", "flip": "{}.flip(1)"}
    return sketch.step(forms.get(kind, "{}[:, ::2]").format(x))


def pooled_tokens(sketch: Sketch, x: str) -> str:
    """One vector: (N, D)."""
    x = maybe(0.4, token_norm, sketch, x)
    return sketch.step(
        sketch.pick(
            "{}[:, 0]", "{}.mean(1)", "{}.mean(dim=-2)", "{}.amax(1)", "{}.flatten(1)", "{}.select(1, -1)"
        ).format(x)
    )


def as_maps(sketch: Sketch, x: str) -> str:
    """Tokens as a feature map of the images' dimensions."""
    count, width = sketch.shape(x)
    return sketch.step(
        f"{x}.transpose(1, 2).reshape(-1, {width}, {', '.join(['1'] * (sketch.dims - 1) + [str(count)])})"
    )


TOKEN_BLOCKS = (token_block, token_block, token_block, token_movement)
