"""The graph of an explainer: an explanation graph that also knows its method, and how it is run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from agf_fx.inspect.difference import GraphDifference
from agf_fx.inspect.layer_maps import LayerMaps
from agf_fx.ir.cost_model import Cost
from agf_fx.ir.graph import ExplanationGraph
from agf_fx.methods.method import Method
from agf_fx.runtime.program import Program


@dataclass(frozen=True, repr=False)
class CompiledGraph(ExplanationGraph):
    """An explanation graph with what an explainer knows besides, which its page and its costs take.

    Attributes:
        program: as it is run.
        made_by: the method, with its options.
    """

    program: Program = field(kw_only=True, compare=False)
    made_by: Method = field(kw_only=True, compare=False)

    @staticmethod
    def of(program: Program, method: Method) -> CompiledGraph:
        """The graph of a program."""
        own = {each.name: getattr(program.explanation, each.name) for each in fields(ExplanationGraph)}
        return CompiledGraph(**own, program=program, made_by=method)

    def to_html(
        self,
        path: str | os.PathLike[str],
        maps: LayerMaps | None = None,
        *,
        pixels: Any = None,
        class_names: Sequence[str] | None = None,
        title: str | None = None,
        difference: GraphDifference | None = None,
        others: LayerMaps | None = None,
    ) -> None:
        """Write it as a page for browsers: one file, which needs no other and no network.

        Args:
            path: the file, which appears whole or not at all.
            maps: what an image looks like at every layer; `Explainer.to_html` takes images and makes them.
            pixels: (H, W, 3) uint8, of that image.
            class_names: of the model, to name the target.
            title: of the page; by default the class of the model and the method.
            difference: from another graph to this one, to mark.
            others: what the image looks like by that other graph.

        Raises:
            MissingDependencyError: Jinja2 is not installed.
        """
        from agf_fx.inspect.page import write

        write(self, path, maps, pixels, class_names, title, self.made_by, difference, others)

    def cost(
        self, N: int | None = None, K: int | None = None, S: int | None = None, *, depth: int | None = None
    ) -> Cost:
        """What an explanation by it costs; see `agf_fx.runtime.explainer.Explainer.cost`."""
        from agf_fx.runtime.costing import cost  # which needs sympy's functions, and few ask for

        return cost(self.program, self.made_by, depth)(N, K, S)
