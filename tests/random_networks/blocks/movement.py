"""Data movement on feature maps: entries exchanged, taken, repeated, padded; and resampling."""

from __future__ import annotations

from random_networks.sketch import Sketch, options


def shuffle(sketch: Sketch, x: str) -> str:
    """Spatial dimensions exchanged, or channels shuffled."""
    channels, *size = sketch.shape(x)
    if channels % 2 or sketch.chance(0.3):
        if sketch.dims == 1:
            return sketch.step(f"{x}.transpose(1, 2)")
        return sketch.step(sketch.pick("{}.transpose(2, 3)", "{}.swapaxes(-1, -2)", "{}.mT").format(x))
    pairs = f"{x}.reshape(-1, 2, {channels // 2}, {', '.join(map(str, size))})"
    return sketch.step(
        sketch.pick(
            f"{pairs}.transpose(1, 2).flatten(1, 2)",
            f"{x}.unflatten(1, (2, {channels // 2})).transpose(1, 2).flatten(1, 2)",
            f"torch.channel_shuffle({x}, 2)",
        )
    )


def reordered(sketch: Sketch, x: str) -> str:
    """Every entry stays, somewhere else."""
    dim = sketch.integer(1, 1 + sketch.dims)
    kinds = [
        f"torch.roll({x}, {sketch.pick(1, -1, 2)}, {dim})",
        f"{x}.roll((1, -2), (1, {1 + sketch.dims}))",
        f"torch.flip({x}, [{dim}])",
        f"{x}.flip(1, {1 + sketch.dims})",
        f"torch.cat({x}.split(1, {dim})[::-1], {dim})",
        f"torch.stack({x}.unbind({dim})[::-1], {dim})",
        f"{x}.index_select({dim}, torch.arange({sketch.shape(x)[dim - 1]} - 1, -1, -1))",
    ]
    return sketch.step(sketch.pick(*kinds))


def turned(sketch: Sketch, x: str) -> str:
    if sketch.dims != 2:
        return reordered(sketch, x)
    return sketch.step(f"torch.rot90({x}, {sketch.pick(1, 2, 3, -1)}, (2, 3))")


def taken(sketch: Sketch, x: str) -> str:
    """A part of the entries, some of them several times."""
    dim = sketch.integer(1, 1 + sketch.dims)
    size = sketch.shape(x)[dim - 1]
    before, half = ":, " * dim, max(1, size // 2)
    middle = sketch.integer(0, size - 1)
    chosen = [sketch.integer(0, size - 1) for _ in range(sketch.integer(2, 3))]
    return sketch.step(
        sketch.pick(
            f"{x}[{before}1:]",
            f"{x}[{before}:-1]",
            f"{x}[{before}::2]",
            f"{x}[{before}{middle}].unsqueeze({dim})",
            f"{x}[{before}{chosen}]",
            f"{x}.narrow({dim}, {size - half}, {half})",
            f"{x}.select({dim}, {middle}).unsqueeze({dim})",
            f"torch.chunk({x}, 2, {dim})[0]",
            f"torch.split({x}, {half}, {dim})[-1]",
            f"torch.tensor_split({x}, 2, {dim})[1]",
            f"{x}.split([{half}, {size - half}], {dim})[0]",
            f"{x}[{before}::2] - {x}[{before}:{(size + 1) // 2}]",
        )
    )


def enlarged(sketch: Sketch, x: str) -> str:
    """More entries than before: padding, resampling. Only of maps that are small."""
    large = max(sketch.size(x)) > (8 if sketch.dims < 3 else 4)
    widths = tuple(sketch.pick(0, 1, 1, -1 if min(sketch.size(x)) > 2 else 0) for _ in range(2 * sketch.dims))
    sides = tuple(sketch.pick(0, 1) for _ in range(2 * sketch.dims))
    kinds = [
        f"F.pad({x}, {widths})",
        f"F.pad({x}, {sides}, value=0.5)",
        f"F.pad({x}, {sides}, mode={sketch.pick('reflect', 'replicate', 'circular')!r})",
        f"nn.{sketch.pick('ZeroPad', 'ReflectionPad', 'ReplicationPad')}{sketch.d}(1)({x})",
        resampled(sketch, x),
    ]
    if large:
        kinds = [kinds[0], kinds[-1]]
    return sketch.step(sketch.pick(*kinds))


def repeated(sketch: Sketch, x: str) -> str:
    """A few channels several times."""
    if sketch.channels(x) > 4:
        return enlarged(sketch, x)
    ones, rest = ", ".join("1" * sketch.dims), ", ".join(["-1"] * sketch.dims)
    return sketch.step(
        sketch.pick(
            f"{x}.repeat(1, 2, {ones})",
            f"{x}.repeat_interleave(2, 1)",
            f"torch.tile({x}, (2, {ones}))",
            f"{x}[:, :1].expand(-1, 3, {rest})",
        )
    )


def resampled(sketch: Sketch, x: str) -> str:
    """Resampling by the nearest entry or linearly, up or down, as an expression."""
    linear = {1: "linear", 2: "bilinear", 3: "trilinear"}[sketch.dims]
    mode = sketch.pick("nearest", "nearest-exact", linear, linear)
    align = sketch.pick(None, True, False) if mode == linear else None
    if sketch.chance(0.5):
        wanted = tuple(max(1, side + sketch.integer(-2, 2)) for side in sketch.size(x))
        return f"F.interpolate({x}, size={wanted}, mode={mode!r}{options(align_corners=align)})"
    factor = sketch.pick(0.5, 0.75, 1.25, 1.5, 2)
    return f"F.interpolate({x}, scale_factor={factor}, mode={mode!r}{options(align_corners=align)})"


def resample(sketch: Sketch, x: str) -> str:
    return sketch.step(resampled(sketch, x))


def masked(sketch: Sketch, x: str) -> str:
    """Entries replaced where a constant mask says so."""
    size = sketch.size(x)[-1]
    mask = f"(torch.arange({size}) % 3 == 0)"
    return sketch.step(
        sketch.pick(
            f"{x}.masked_fill({mask}, 0.0)",
            f"{x}.masked_fill({mask}, 0.5)",
            f"torch.where({mask}, {x}, 0.3 * {x})",
            f"torch.where({mask}, {x}, torch.tensor(0.25, dtype={x}.dtype))",
        )
    )


def windows(sketch: Sketch, x: str) -> str:
    """Patches as channels."""
    channels, *size = sketch.shape(x)
    if sketch.dims == 2 and sketch.chance(0.5) and min(size) >= 2:
        padding = sketch.pick(0, 1)
        wanted = [(side + 2 * padding - 2) // 2 + 1 for side in size]
        patches = sketch.step(f"F.unfold({x}, 2, padding={padding}, stride=2)")
        return sketch.step(f"{patches}.reshape(-1, {channels * 4}, {wanted[0]}, {wanted[1]})")
    patches = sketch.step(f"{x}.unfold(-1, 2, {sketch.pick(1, 2)})")
    return sketch.step(f"{patches}.{sketch.pick('mean(-1)', 'amax(-1)', 'sum(-1)', 'select(-1, 0)')}")


def pixel_unshuffle(sketch: Sketch, x: str) -> str:
    """Squares of pixels as channels."""
    if sketch.dims != 2 or min(sketch.size(x)) < 2 or sketch.channels(x) > 6:
        return windows(sketch, x)
    rows, columns = (side - side % 2 for side in sketch.size(x))
    return sketch.step(f"F.pixel_unshuffle({x}[:, :, :{rows}, :{columns}], 2)")


def pixel_shuffle(sketch: Sketch, x: str) -> str:
    """Channels as pixels, where there are enough of them."""
    channels = sketch.channels(x)
    if sketch.dims != 2 or max(sketch.size(x)) > 6:
        return shuffle(sketch, x)
    x = x if channels % 4 == 0 else sketch.apply(f"nn.Conv2d({channels}, {sketch.pick(4, 8)}, 1)", x)
    return sketch.step(f"F.pixel_shuffle({x}, 2)")


def written(sketch: Sketch, x: str) -> str:
    """A part of a copy overwritten, or changed in place."""
    dim = sketch.integer(1, 1 + sketch.dims)
    size, before = sketch.shape(x)[dim - 1], ":, " * dim
    half, places = max(1, size // 2), sorted({0, size - 1})
    other = sketch.step(f"{x}.flip({dim}) * 0.5")
    x = sketch.step(f"{x}.clone()")
    sketch.in_place(
        sketch.pick(
            f"{x}[{before}:{half}] = {other}[{before}:{half}]",
            f"{x}[{before}-1] = {other}[{before}0]",
            f"{x}[{before}::2] *= 0.5",
            *2 * [f"{x}[{before}:{half}] += {other}[{before}:{half}]"],
            f"{x}[{before}{places}] = 0.25",
            f"{x}[{before}{places}] = {other}[{before}:{len(places)}]",
            f"{x}[{x} < -0.2] = 0.1",
            f"{x}.narrow({dim}, 0, {half}).mul_(-0.5)",
            f"{x}.select({dim}, 0).zero_()",
            f"{x}.select({dim}, -1).fill_(0.5)",
            f"{x}.select({dim}, 0).copy_({other}.select({dim}, -1))",
        )
    )
    return x


def corners(sketch: Sketch, x: str) -> str:
    """Triangles, diagonals and chosen pixels of the last two dimensions."""
    rows, columns = sketch.shape(x)[-2:]
    places = [[sketch.integer(0, side - 1) for _ in range(3)] for side in (rows, columns)]
    taken = f"[..., {places[0]}, {places[1]}]"
    return sketch.step(
        sketch.pick(
            f"torch.tril({x})",
            f"{x}.triu({sketch.pick(-1, 0, 1)})",
            f"{x}.diagonal({sketch.pick(-1, 0, 1)}, -2, -1).unsqueeze(-1)",
            f"{x}{taken}.unsqueeze(-1)",
        )
    )


def folded(sketch: Sketch, x: str) -> str:
    """Patches that overlap, summed where they came from."""
    if sketch.dims != 2:
        return shuffle(sketch, x)
    size, step = tuple(sketch.size(x)), sketch.pick(1, 2)
    patches = sketch.step(f"F.unfold({x}, 2, padding=1, stride={step})")
    return sketch.step(f"F.fold({patches}, {size}, 2, padding=1, stride={step})")


MOVEMENTS = (
    *(shuffle, reordered, turned, taken, enlarged, repeated, resample, resample, masked, windows, pixel_shuffle),
    *(pixel_unshuffle, written, written, corners, folded),
)


def movement(sketch: Sketch, x: str) -> str:
    return sketch.pick(*MOVEMENTS)(sketch, x)
