"""All methods: one line a file of them."""

from __future__ import annotations

from agf_fx.methods import agf, cam, composites, contrast, deeplift, extract, fullgrad, gradient, lrp, noise, path, rap
from agf_fx.methods.registry import Registry

REGISTRY = Registry(
    [
        *agf.ENTRIES,
        *gradient.ENTRIES,
        *lrp.ENTRIES,
        *composites.ENTRIES,
        *contrast.ENTRIES,
        *rap.ENTRIES,
        *cam.ENTRIES,
        *extract.ENTRIES,
        *fullgrad.ENTRIES,
        *path.ENTRIES,
        *noise.ENTRIES,
        *deeplift.ENTRIES,
    ]
)
"""Entries by name."""
