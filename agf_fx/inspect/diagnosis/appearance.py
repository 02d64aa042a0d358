"""Maps that look wrong: noise, grids, one pixel, the border, one sign."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, fx

from agf_fx.inspect.diagnosis import measures
from agf_fx.inspect.diagnosis.case import Case, beginning, most
from agf_fx.inspect.diagnosis.report import Check, Place, found
from agf_fx.inspect.layer_maps import over_channels
from agf_fx.ir.vocabulary import CONVOLUTIONS
from agf_fx.rules.site import RELEVANCE

aten = torch.ops.aten

ROUGH = 0.4
"""Roughness of noise; see `agf_fx.inspect.diagnosis.measures.roughness`."""
GRID = 0.25
"""Strength of a grid that is seen; see `agf_fx.inspect.diagnosis.measures.grid`."""
PEAK = 0.25
"""Share of the sum of absolute values at one pixel."""
BORDER = 5.0
"""Times the odds of a pixel's relevance to lie at the border are those of the area."""
NEGATIVE = 0.9
"""Share of the sum of absolute values that is negative."""

_PADDING = {
    **dict.fromkeys(CONVOLUTIONS, 4),
    **dict.fromkeys((aten.avg_pool2d.default, aten.max_pool2d_with_indices.default), 3),
}
"""Where calls name how much they pad."""
_SLOPES = ("gradient", "smoothgrad", "guided-backprop", "deconvnet", "beta-smooth")
_LEAST = 8  # height and width of a map whose neighbours say something
_NUDGE = 0.01  # of the image's range, deviation of the noise that tells whether gradients are shattered


def noise(case: Case) -> Check:
    """Whether pixels say nothing of their neighbours, and from which call on."""
    kind, limit = "noisy", f"roughness above {ROUGH}"
    unfit = _unfit(case)
    if unfit:
        return Check(kind, limit=limit, left_out=unfit)
    if not bool((case.image != case.image.flatten()[0]).any()):
        return Check(kind, limit=limit, left_out="the image is one value everywhere, which is no picture")
    rough = measures.roughness(case.drawn)
    measured = {"roughness": rough}
    pixels = _summed(case, case.canonical.images, case.image[None])
    if pixels is not None and bool((pixels[0] != pixels[0].mean()).any()):
        measured["roughness of the image"] = measures.roughness(pixels[0] - pixels[0].mean())
    if not rough > ROUGH:
        return Check(kind, measured, limit)
    if _drawn_by_a_stride(case) is not None:
        return Check(kind, measured, limit, left_out="the map is a grid, in which neighbours differ without noise")
    if measured.get("roughness of the image", 0) > ROUGH:
        said = "the image is noise itself, so that noise of the map says nothing of the network; give a photograph"
        return Check(kind, measured, limit, left_out=said)
    measured["correlation after a nudge"] = _after_a_nudge(case)
    where = beginning(case, _on_maps(case, _roughness), ROUGH)
    shattered = measured["correlation after a nudge"] < 0.5
    message = (
        f"neighbouring pixels have little to do with each other (roughness {rough:.2f}; that of the image is "
        f"{measured.get('roughness of the image', float('nan')):.2f}). "
        + (
            f"The map is shattered: noise of {_NUDGE:.0%} of the image's range gives another map "
            f"(correlation {measured['correlation after a nudge']:.2f})."
            if shattered
            else "A nearly equal image has the same noise (correlation "
            f"{measured['correlation after a nudge']:.2f}), so that it is not the image's."
        )
    )
    calmer = [f'"{name}"' for name in ("agf", "gradcam") if name != case.method.name]
    advice = (
        f'average over noise (method="smoothgrad"), choose a method without such noise (method={" or ".join(calmer)}), '
        'or draw the figure smoothed: result.save("map.png", smooth=2).'
    )
    return _beginning_at(case, kind, measured, limit, where, message, advice)


def _after_a_nudge(case: Case) -> float:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(case.image.shape, generator=generator, dtype=torch.float64).to(case.image)
    span = case.image.max() - case.image.min()
    return measures.similarity(case.again(case.image + _NUDGE * span * drawn), case.drawn)


def _roughness(drawn: Tensor) -> float | None:
    unlike = min(drawn.shape) >= _LEAST and bool((drawn != drawn[0, 0]).any())
    return measures.roughness(drawn) if unlike else None


def grid(case: Case) -> Check:
    """Whether the map repeats with the period of a stride, and which call draws that."""
    kind, limit = "grid", f"strength above {GRID} at a period, or half that in a rough map of a layer that has it"
    unfit = _unfit(case)
    if unfit:
        return Check(kind, limit=limit, left_out=unfit)
    strengths = _strengths(case)
    if not strengths:
        return Check(kind, limit=limit, left_out="the network has no strides, or the map too few periods of them")
    measured = {f"period {size}": strength for size, strength in strengths.items()}
    period = _drawn_by_a_stride(case)
    if period is None:
        return Check(kind, measured, limit)
    if _image_repeats(case, period):
        other = measures.grid(case.again(_averaged(case.image, period)), period) or 0.0
        measured["strength without the image's own grid"] = other
        if not other > GRID / 2:
            said = f"the image itself repeats every {period} pixels, and without that the map has no grid"
            return Check(kind, measured, limit, left_out=said)
    least = GRID if measured[f"period {period}"] > GRID else GRID / 2
    where = beginning(case, _on_maps(case, _strength_at(case, period)), least)
    message = (
        f"the map is a grid with a period of {period} pixels (strength {strengths[period]:.2f}, where 1 is all on one "
        "pixel of each cell)."
    )
    if where is not None:
        message += f" {where.op}{_geometry(case, where)} draws it first."
    advice = (
        'draw the figure smoothed, result.save("map.png", smooth='
        f"{period / 2:g}), or average the map over {period} x {period} pixels; for good, take pooling in place of the "
        f"stride{_other_kernel(case, where)}."
    )
    return _beginning_at(case, kind, measured, limit, where, message, advice)


def _drawn_by_a_stride(case: Case) -> int | None:
    """The period of the grid that the map is; None where it is none.

    Of a rough map half the strength will do, if a layer has the whole of it: convolutions in front blur a grid.
    """
    strengths = _strengths(case)
    period = max(strengths, key=strengths.get, default=None)
    if period is None or strengths[period] > GRID:
        return period
    blurred = strengths[period] > GRID / 2 and measures.roughness(case.drawn) > ROUGH
    if not blurred:
        return None
    drawn = most(case, _on_maps(case, _strength_at(case, period)))
    return period if drawn is not None and drawn > GRID else None


def _image_repeats(case: Case, period: int) -> bool:
    """Whether the image, or its edges, are a grid of this period."""
    pixels = _summed(case, case.canonical.images, case.image[None])
    if pixels is None:
        return False
    shown = pixels[0].double()
    edges = torch.zeros_like(shown)
    edges[1:] += (shown[1:] - shown[:-1]).abs()
    edges[:, 1:] += (shown[:, 1:] - shown[:, :-1]).abs()
    seen = (measures.grid(drawn, period) for drawn in (shown - shown.median(), edges) if bool((drawn != 0).any()))
    return any(strength is not None and strength > GRID / 2 for strength in seen)


def _averaged(image: Tensor, period: int) -> Tensor:
    """The image with each pixel the mean of the cell around it, in which nothing has that period."""
    before = (period - 1) // 2
    sides = (before, period - 1 - before)
    padded = torch.nn.functional.pad(image, (*sides, *sides), mode="replicate")
    return torch.nn.functional.avg_pool2d(padded, period, stride=1).to(image)


def _strength_at(case: Case, period: int) -> Callable[[Tensor], float | None]:
    return functools.partial(_strength, height=case.drawn.shape[0], period=period)


def _strengths(case: Case) -> dict[int, float]:
    """How strong the grid is at every period of the network's strides that can be measured."""
    known = {period: measures.grid(case.drawn, period) for period in _periods(case)}
    return {period: strength for period, strength in known.items() if strength is not None}


def _periods(case: Case) -> list[int]:
    """How many pixels of the image there are for one position of each feature map."""
    height = case.drawn.shape[0]
    periods = set()
    for node in case.signals:
        kind = node.meta["type"]
        sizes = kind.shape[2:] if not isinstance(kind, tuple) and kind.rank == 4 else ()
        if sizes and isinstance(sizes[0], int) and 1 < sizes[0] < height:
            periods.add(round(height / sizes[0]))
    return sorted(period for period in periods if period > 1)


def _strength(drawn: Tensor, height: int, period: int) -> float | None:
    """That of the grid that has ``period`` in the map of ``height`` pixels."""
    own = round(period * drawn.shape[0] / height)
    return measures.grid(drawn, own) if own > 1 else None


def _other_kernel(case: Case, where: Place | None) -> str:
    """Advice on the kernel of a convolution, where it is none that its stride divides."""
    if where is None or not where.op.startswith("conv"):
        return ""
    node = next(node for node in case.signals if node.name == where.node)
    pairs = zip(node.args[1].meta["type"].shape[2:], node.args[3], strict=False)
    return ", or a kernel that is a multiple of its stride" if any(size % step for size, step in pairs) else ""


def _geometry(case: Case, where: Place) -> str:
    """Kernel and stride of a convolution, in words."""
    node = next(node for node in case.signals if node.name == where.node)
    if not where.op.startswith("conv"):
        return ""
    kernel = "x".join(map(str, node.args[1].meta["type"].shape[2:]))
    return f" with a kernel of {kernel} and a stride of {'x'.join(map(str, node.args[3]))}"


def peak(case: Case) -> Check:
    """Whether one pixel outshines all others."""
    message = "one pixel has {share:.0%} of the map: everything else is drawn in the colour of 0."
    advice = (
        'draw the figure on a scale without it, result.save("map.png", clip=0.99), and look at the layer: a value near '
        "0 is divided by there, or one activation is far larger than all others."
    )
    return _of_shares(case, "one-pixel", measures.peak_share, PEAK, "share of the largest pixel", message, advice)


def border(case: Case) -> Check:
    """Whether what lies at the border of the image outshines all else."""
    message = "relevance lies at the border: {share:.2g} times as likely as on average"
    advice = "explain the image with more context around it, or cut the border off before you compare pixels"
    if any(map(_pads, case.canonical.calls)):
        message, advice = f"{message}, where padding is read.", f'{advice}; padding_mode="reflect" has no such edge.'
    else:
        message, advice = f"{message}.", f"{advice}."
    pixels = _summed(case, case.canonical.images, case.image[None])
    if pixels is not None and not _unfit(case):
        odds = _border_odds(pixels[0] - pixels[0].median())
        if odds > BORDER:
            said = "the image has its contrast at the border itself, and relevance may lie there"
            return Check("border", {"odds of the image's contrast": odds}, left_out=said)
    return _of_shares(case, "border", _border_odds, BORDER, "odds of the border over its area's", message, advice)


def _pads(node: fx.Node) -> bool:
    """Whether a call reads places outside of a feature map."""
    if node.target is aten.constant_pad_nd.default:
        return True
    place = _PADDING.get(node.target)
    given = node.args[place] if place is not None and len(node.args) > place else 0
    return any(given) if isinstance(given, list | tuple) else bool(given)


def _border_odds(drawn: Tensor) -> float:
    if not bool((drawn != 0).any()):
        return 1.0
    share, area = measures.border_share(drawn)
    return (share / max(1 - share, 1e-12)) / (area / (1 - area))


def _of_shares(
    case: Case, kind: str, measure: Callable[[Tensor], float], most: float, name: str, message: str, advice: str
) -> Check:
    limit, unfit = f"{name} above {most:g}", _unfit(case)
    if unfit:
        return Check(kind, limit=limit, left_out=unfit)
    share = measure(case.drawn)
    measured = {name: share}
    if not share > most:
        return Check(kind, measured, limit)
    where = beginning(case, _on_maps(case, functools.partial(_where_it_can, measure=measure)), most)
    return _beginning_at(case, kind, measured, limit, where, message.format(share=share), advice)


def _where_it_can(drawn: Tensor, measure: Callable[[Tensor], float]) -> float | None:
    return measure(drawn) if min(drawn.shape) >= _LEAST and bool((drawn != 0).any()) else None


def sign(case: Case) -> Check:
    """Whether the map speaks against its class alone."""
    kind, limit = "negative", f"more than {NEGATIVE} of the absolute relevance is negative"
    if not bool((case.drawn != 0).any()):
        return Check(kind, limit=limit, left_out="the map is blank")
    share, logit = measures.negative_share(case.drawn), float(case.logits[case.target % len(case.logits)])
    measured = {"negative share": share, "logit": logit}
    if not share > NEGATIVE:
        return Check(kind, measured, limit)
    rank = int((case.logits > logit).sum()) + 1
    if case.stream != RELEVANCE and case.reaches_input and case.method.name in _SLOPES:
        message = (
            f"nearly all of the map is negative (the class's logit is {logit:.3g}, rank {rank}): more of these pixels "
            "makes it smaller. That is a slope, which says nothing of what they speak for."
        )
        advice = 'for that take method="gradient-x-input", or one of relevance.'
        return found(kind, measured, limit, None, message, advice, severity="note")
    message = f"nearly all of the map speaks against the class: its logit is {logit:.3g}, rank {rank}"
    message += ", so that is what the network says." if logit < 0 else ", though it is positive: look at the biases."
    advice = "explain a class that the network sees, with top_k=3."
    return found(kind, measured, limit, None, message, advice, severity="note")


def _unfit(case: Case) -> str:
    """Why a map is no picture whose pixels can be compared."""
    if case.drawn.dim() != 2 or min(case.drawn.shape) < _LEAST:
        form = " x ".join(map(str, case.drawn.shape))
        return f"the map has the form {form}, and is no picture of at least {_LEAST} x {_LEAST} pixels"
    return "" if bool((case.drawn != case.drawn[0, 0]).any()) else "the map is blank"


def _on_maps(case: Case, measure: Callable[[Tensor], float | None]) -> Callable[[fx.Node, Tensor], float | None]:
    """A measure of pictures as one of messages."""

    def measured(node: fx.Node, message: Tensor) -> float | None:
        spatial = _summed(case, node, message[:1])
        fit = spatial is not None and spatial.dim() == 3 and bool(spatial.isfinite().all())
        return measure(spatial[0]) if fit else None

    return measured


def _summed(case: Case, node: fx.Node, message: Tensor) -> Tensor | None:
    """A message (K, 1, ...) over channels; at the images, over those that maps sum over."""
    return over_channels(node, message, case.method.channels_of(case.canonical))


def _beginning_at(
    case: Case, kind: str, measured: dict[str, float], limit: str, where: Place | None, message: str, advice: str
) -> Check:
    """A finding of which a layer is to blame, or the read-out."""
    if where is None and not case.no_place:
        message += " No layer hands it back like that: it begins in the read-out."
    return found(kind, measured, limit, where, message, advice, no_walk=case.no_place)
