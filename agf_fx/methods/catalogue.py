"""All methods: one line a file of them."""

from __future__ import annotations

from agf_fx.methods import (
    agf,
    attnlrp,
    cam,
    composites,
    contrast,
    deeplift,
    extract,
    extremal_perturbation,
    fullgrad,
    gradient,
    lrp,
    meaningful_perturbation,
    meta,
    noise,
    path,
    patterns,
    perturbation,
    rap,
)
from agf_fx.methods.registry import Registry

REGISTRY = Registry(
    [
        *agf.ENTRIES,
        *gradient.ENTRIES,
        *lrp.ENTRIES,
        *composites.ENTRIES,
        *attnlrp.ENTRIES,
        *contrast.ENTRIES,
        *rap.ENTRIES,
        *cam.ENTRIES,
        *extract.ENTRIES,
        *fullgrad.ENTRIES,
        *path.ENTRIES,
        *patterns.ENTRIES,
        *noise.ENTRIES,
        *deeplift.ENTRIES,
        *perturbation.ENTRIES,
        *meaningful_perturbation.ENTRIES,
        *extremal_perturbation.ENTRIES,
        *meta.ENTRIES,
    ]
)
"""Entries by name."""
