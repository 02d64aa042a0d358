"""Explanation methods as data, and the registry of those that agf-fx knows.

    agf_fx.methods.REGISTRY["lrp-epsilon"]        # its entry: title, citation, options, properties
    sorted(agf_fx.methods.REGISTRY)               # all names
    agf_fx.compile(model, method="lrp-epsilon", options={"epsilon": 0.1})

A method is streams that run from the logits to the images, each with a table of rules, and a read-out; see
`agf_fx.methods.method`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agf_fx.methods.catalogue import REGISTRY

__all__ = ["REGISTRY"]


def __getattr__(name: str) -> Any:
    if name != "REGISTRY":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from agf_fx.methods.catalogue import REGISTRY

    return REGISTRY
