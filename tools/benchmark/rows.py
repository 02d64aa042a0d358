"""Measurements as rows: what the JSON holds and the tables show."""

from __future__ import annotations

from typing import Any

import torch
from benchmark.measurement import (
    CHANNELS_LAST,
    FORWARD,
    Measurement,
    bare_name,
    explanation,
    explanation_name,
    forward_name,
    peer_name,
)
from benchmark.memory import peak_memory
from benchmark.products import work
from benchmark.subjects import OWN, Variant, kept_alive_bytes

Row = dict[str, Any]


def forward_row(measured: Measurement) -> Row:
    """The forward passes, and the raw times of everything."""
    seconds = measured.rounds_s[FORWARD]
    row = _key(measured) | {
        "forward_s": measured.seconds(FORWARD),
        "forward_spread": (max(seconds) - min(seconds)) / 2 / measured.seconds(FORWARD),
        "channels_last": measured.multiple(CHANNELS_LAST),
        "products": len(measured.forward_products),
        "flops": work(measured.forward_products),
        "rounds_s": measured.rounds_s,
    }
    if measured.subject.settings.memory:
        row["memory"] = peak_memory(measured.runs[FORWARD], measured.subject.settings.device)
    return row


def explanation_rows(measured: Measurement) -> list[Row]:
    """What every variant costs; by number of targets where that matters."""
    return [
        _key(measured)
        | {"backend": variant.backend, "precision": variant.precision}
        | _time(measured, variant)
        | _products(measured, variant)
        | _memory(measured, variant)
        | {"difference": difference(measured, variant)}
        for variant in measured.subject.settings.variants
    ]


def peer_rows(measured: Measurement) -> list[Row]:
    """What the peers cost, or why they do not run."""
    names = [name.removeprefix(peer_name("")) for name in measured.runs if name.startswith(peer_name(""))]
    rows = []
    for name in names:
        row = _key(measured) | {"peer": name, "multiple": measured.multiple(peer_name(name))}
        if measured.subject.settings.memory:
            row["memory"] = peak_memory(measured.runs[peer_name(name)], measured.subject.settings.device)
        rows.append(row)
    return rows + [_key(measured) | {"peer": name, "refused": why} for name, why in measured.refused.items()]


def _key(measured: Measurement) -> Row:
    return {"network": measured.subject.name, "batch": len(measured.images)}


def _time(measured: Measurement, variant: Variant) -> Row:
    """Multiples of the forward pass; compilation is what the first call takes beyond later ones."""
    counts = measured.subject.settings.targets
    names = {k: explanation_name(variant, k) for k in counts}
    multiples = {k: measured.multiple(name) for k, name in names.items()}
    products = {k: measured.multiple(bare_name(variant.precision, k)) for k in counts}
    return {
        "forward_in_precision": measured.multiple(forward_name(variant.precision)),
        "explanation": _by_count(multiples),
        "further_target": _each_further(multiples),
        "bare_products": _by_count(products),
        "bare_further_target": _each_further(products),
        "over_bare_products": _by_count({k: multiples[k] / products[k] for k in counts}),
        "make_s": measured.subject.make_s[variant],
        "first_call_s": _by_count({k: measured.first_s[name] for k, name in names.items()}),
        "later_call_s": _by_count({k: measured.seconds(name) for k, name in names.items()}),
    }


def _products(measured: Measurement, variant: Variant) -> Row:
    """Calls of products, per layer of the network, and their operations over those of the forward pass."""
    counts = measured.subject.settings.targets
    products = {k: measured.products[variant.precision, k] for k in counts}
    layers, flops = len(measured.forward_products), work(measured.forward_products)
    operations = {k: work(products[k]) / flops for k in counts}
    return {
        "products": _by_count({k: len(products[k]) for k in counts}),
        "products_per_layer": _by_count({k: len(products[k]) / layers for k in counts}),
        "product_work": _by_count(operations),
        "work_further_target": _each_further(operations),
    }


def _by_count(values: dict[int, float]) -> dict[str, float]:
    """Values by number of targets, as JSON has it."""
    return {str(k): value for k, value in values.items()}


def _each_further(values: dict[int, float]) -> dict[str, float]:
    """What each target beyond the fewest adds."""
    fewest, *more = values
    return {str(k): (values[k] - values[fewest]) / (k - fewest) for k in more}


def _memory(measured: Measurement, variant: Variant) -> Row:
    settings, subject, batch = measured.subject.settings, measured.subject, len(measured.images)
    if not settings.memory:
        return {}
    explainer = subject.explainer(variant)
    return {
        "memory": {
            str(k): peak_memory(measured.runs[explanation_name(variant, k)], settings.device, explainer.backend)
            | {"kept_alive": kept_alive_bytes(explainer.graph.canonical, batch, k)}
            for k in settings.targets
        }
    }


def difference(measured: Measurement, variant: Variant) -> float | None:
    """The largest difference from the maps of the eager backend in the model's precision, over their largest entry.

    None for those maps themselves.
    """
    reference, k = Variant("eager", OWN), measured.subject.settings.targets[0]
    if variant == reference:
        return None
    expected = explanation(measured.subject, reference, measured.images, k)().double()
    maps = explanation(measured.subject, variant, measured.images, k)().double()
    largest = expected.abs().amax((2, 3)).clamp_min(torch.finfo(torch.float64).tiny)
    return float(((maps - expected).abs().amax((2, 3)) / largest).max())
