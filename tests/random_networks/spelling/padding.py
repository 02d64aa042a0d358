"""Convolutions with zero padding, and by chunks, in several spellings."""

from __future__ import annotations

from random import Random

CHUNKS = (  # of a layer with a 3 × 3 kernel, {g} groups of {n} channels, and padding 1
    "{L}({x})",
    "F.conv2d({x}, {L}.weight, {L}.bias, padding=1, groups={g})",
    "torch.cat([F.conv2d(a, b, c, padding=1) for a, b, c in zip({x}.chunk({g}, 1), {L}.weight.chunk({g}), {L}.bias.chunk({g}))], 1)",
    "torch.cat([F.conv2d({x}[:, {n} * i : {n} * i + {n}], {L}.weight[{n} * i : {n} * i + {n}], {L}.bias[{n} * i : {n} * i + {n}], "
    "padding=1) for i in range({g})], 1)",
    "F.conv2d(F.pad({x}, (1, 1, 1, 1)), {L}.weight, {L}.bias, groups={g})",
)

_CALL = "F.conv2d({what}, {{L}}.weight, {{L}}.bias, stride={stride}, dilation={dilation}{more})"


def drawn(
    random: Random, shape: tuple[int, int, int], out: int, keep: bool
) -> tuple[list[str], str, tuple[int, int, int]]:
    """Spellings of one convolution, its layer, and the shape of its result; ``keep`` the size."""
    c, h, w = shape
    kernel = random.choice((3, 3, 3, 2, 5) if not keep else (3, 3, 5))
    dilation = 2 if kernel == 3 and min(h, w) >= 7 and random.random() < 0.15 else 1
    reach = dilation * (kernel - 1)
    if keep:
        stride, sides = 1, (reach // 2,) * 4
    else:
        stride = random.choice((1, 1, 2))
        even = random.random() < 0.6
        one = random.randint(0, 2)
        sides = (one,) * 4 if even else tuple(random.randint(0, 2) for _ in range(4))
    left, right, top, bottom = sides
    high, wide = ((n - reach - 1) // stride + 1 for n in (h + top + bottom, w + left + right))
    if min(high, wide) < 1:
        return drawn(random, shape, out, keep=True)
    layer = f"nn.Conv2d({c}, {out}, {kernel}, stride={stride}, dilation={dilation}, padding={(min(top, bottom), min(left, right))})"
    return _spellings(shape, sides, kernel, stride, dilation), layer, (out, high, wide)


def _spellings(
    shape: tuple[int, int, int], sides: tuple[int, ...], kernel: int, stride: int, dilation: int
) -> list[str]:
    c, h, w = shape
    left, right, top, bottom = sides
    wide, least = w + left + right, (min(left, right), min(top, bottom))
    rest = (left - least[0], right - least[0], top - least[1], bottom - least[1])

    def call(what: str, more: str = "") -> str:
        return _CALL.format(what=what, stride=stride, dilation=dilation, more=more)

    columns = ", ".join(filter(None, [_zeros(c, h, left), "{x}", _zeros(c, h, right)]))
    both = ", ".join(filter(None, [_zeros(c, top, wide), f"torch.cat([{columns}], 3)", _zeros(c, bottom, wide)]))
    found = [
        call(f"F.pad({{x}}, {sides})"),
        call(f"nn.ZeroPad2d({sides})({{x}})"),
        call(f"nn.ConstantPad2d({sides}, 0.0)({{x}})"),
        call(f"F.pad(F.pad({{x}}, {(left, right)}), {(0, 0, top, bottom)})"),
        call(f"torch.cat([{both}], 2)"),
        call(f"F.pad({{x}}.permute(0, 2, 3, 1), {(0, 0, left, right, top, bottom)}).permute(0, 3, 1, 2)"),
        call(f"F.pad({{x}}, {tuple(side + 1 for side in sides)})[:, :, 1:-1, 1:-1]"),
        call(f"F.pad({{x}}, {rest})", f", padding={least[::-1]}"),
    ]
    if left == right and top == bottom:
        found += ["{L}({x})", call("{x}", f", padding={(top, left)}")] * 2
        if stride == 1 and 2 * top == 2 * left == dilation * (kernel - 1):
            found.append(call("{x}", ", padding='same'"))
    return found


def _zeros(c: int, h: int, w: int) -> str:
    return f"{{x}}.new_zeros({{x}}.shape[0], {c}, {h}, {w})" if h and w else ""
