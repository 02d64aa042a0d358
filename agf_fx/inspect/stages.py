"""A model on its way to an explanation graph: the graph at every stage, and what every step changes."""

from __future__ import annotations

import difflib
import functools
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

from agf_fx.errors import OptionsError
from agf_fx.ir import text
from agf_fx.ir.facts import Facts, facts
from agf_fx.ir.graph import CanonicalGraph, ExplanationGraph
from agf_fx.methods.method import Method
from agf_fx.options import require_one_of
from agf_fx.pipeline import Graph, Step, lower

STAGES = ("captured", "canonical", "annotated", "emitted", "optimised")


@dataclass(frozen=True)
class StepChange:
    """What one step of the compiler did.

    Attributes:
        step: its name.
        before, after: nodes of the graph, what is prepared included.
        changes: operation -> how many more calls of it there are, fewer where negative.
    """

    step: str
    before: int
    after: int
    changes: Mapping[str, int]

    @property
    def fired(self) -> bool:
        """Whether it changed anything that can be counted."""
        return bool(self.changes) or self.before != self.after

    def in_words(self, most: int = 4) -> str:
        """The largest changes, as in ``-40 batch_norm, +80 mul.Tensor``."""
        largest = sorted(self.changes.items(), key=lambda change: (-abs(change[1]), change[0]))
        words = [f"{count:+d} {name}" for name, count in largest[:most]]
        return ", ".join([*words, "…"] if len(largest) > most else words)


class Stages:
    """The graphs of one compilation; those that are not at hand are made when they are asked for.

    Attributes:
        optimised: the graph as it runs.
    """

    def __init__(
        self,
        optimised: ExplanationGraph,
        method: Method,
        steps: Sequence[Step],
        captured: Callable[[], CanonicalGraph],
        canonical: Callable[[], CanonicalGraph],
    ) -> None:
        self.optimised = optimised
        self._method = method
        self._steps = tuple(steps)
        self._makers = {"captured": captured, "canonical": canonical}

    def __getitem__(self, stage: str) -> Graph:
        """The graph at a stage: one of `STAGES`.

        Raises:
            OptionsError: there is no such stage.
        """
        require_one_of("stage", stage, STAGES)
        if stage == "optimised":
            return self.optimised
        if stage == "annotated":
            return self.optimised.canonical
        return self._emitted if stage == "emitted" else self._makers[stage]()

    def after(self, step: str) -> ExplanationGraph:
        """The explanation graph behind a step of the compiler; ``"name#2"`` is the second of that name.

        Raises:
            OptionsError: there is no such step behind emission.
        """
        return self._with_steps(self._place(step) + 1)

    def before(self, step: str) -> ExplanationGraph:
        """The explanation graph in front of a step; see `after`."""
        return self._with_steps(self._place(step))

    @property
    def steps(self) -> list[str]:
        """Names of the steps behind emission, in order; one that comes again has its number behind it."""
        counted: Counter[str] = Counter()
        found = []
        for step in self._steps:
            name = getattr(step, "func", step).__name__
            counted[name] += 1
            found.append(name if counted[name] == 1 else f"{name}#{counted[name]}")
        return found

    def _place(self, step: str) -> int:
        require_one_of("step", step, self.steps)
        return self.steps.index(step)

    def _with_steps(self, count: int) -> ExplanationGraph:
        return lower(self.optimised.canonical, self._method, _ignored, optimisations=self._steps[:count])

    @functools.cached_property
    def _emitted(self) -> ExplanationGraph:
        return lower(self.optimised.canonical, self._method, _ignored, optimisations=())

    @functools.cached_property
    def changes(self) -> list[StepChange]:
        """What emission and every step behind it changed."""
        taken: list[tuple[str, int, Counter[str]]] = []

        def take(name: str, graph: Graph) -> None:
            counts = Counter(_operations(graph))
            taken.append((name, sum(counts.values()), counts))

        lower(self.optimised.canonical, self._method, take, optimisations=self._steps)
        names = [name for name, _, _ in taken]
        taken = taken[max(0, names.index("emit") - 1) :] if "emit" in names else taken
        return [
            StepChange(name, before, after, {} if name == "emit" else _difference(old, new))
            for (_, before, old), (name, after, new) in itertools.pairwise(taken)
        ]

    def facts(self) -> Counter[str]:
        """How often the analyses found each role."""
        named = [field.name for field in fields(Facts) if field.name not in ("depth", "channel_dim", "taken_off")]
        calls = self.optimised.canonical.calls
        found = Counter(name.replace("_", " ") for node in calls for name in named if getattr(facts(node), name))
        return found

    def difference(self, before: str, after: str) -> Iterator[str]:
        """The unified diff of the texts of two stages, columns narrowed.

        Raises:
            OptionsError: there is no such stage, or both are the same.
        """
        if before == after:
            raise OptionsError(f"both stages are {before!r}; choose two of {', '.join(STAGES)}.")
        old, new = (re.sub(r" {2,}", "  ", str(self[stage])).splitlines() for stage in (before, after))
        return difflib.unified_diff(old, new, before, after, lineterm="")


def _ignored(name: str, graph: Graph) -> None:
    return None


def _operations(graph: Graph) -> Iterator[str]:
    """Operations of a graph, one for every call; inputs and outputs by their kind."""
    graphs = [graph.graph, *([graph.prepare.graph] if isinstance(graph, ExplanationGraph) and graph.prepare else [])]
    for nodes in graphs:
        for node in nodes.nodes:
            yield text.op_name(node.target) if node.op == "call_function" else f"({node.op})"


def _difference(old: Counter[str], new: Counter[str]) -> dict[str, int]:
    return {name: new[name] - old[name] for name in sorted({*old, *new}) if new[name] != old[name]}
