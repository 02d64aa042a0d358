"""``agf-fx inspect --compare A B``: what A and B stand for, and what is printed of their difference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from agf_fx.cli import options
from agf_fx.cli.console import WRONG_USAGE, expected_errors
from agf_fx.errors import OptionsError

if TYPE_CHECKING:
    from agf_fx.inspect.difference import GraphDifference
    from agf_fx.models import LoadedModel
    from agf_fx.runtime.explainer import Explainer

HELP = (
    "Say how two graphs differ: methods, as in agf paper=agf with --option paper.dialect=paper; stages or steps, as in "
    "emitted optimised or before:fold_batch_norms after:fold_batch_norms; or files of --write FILE.json."
)


@dataclass(frozen=True)
class Sides:
    """What is compared.

    Attributes:
        names: as they were given.
        methods: label -> method and its options, of those that are methods.
        files: name -> file, of those that are files.
        method: of stages.
        chosen: its options.
    """

    names: tuple[str, str]
    methods: Mapping[str, tuple[str, Any]]
    files: Mapping[str, Path]
    method: str
    chosen: Any

    @property
    def staged(self) -> bool:
        """Whether both are stages of one graph."""
        return not self.methods and not self.files


def sides(console: Console, names: tuple[str, str], method: str, assignments: list[str] | None) -> Sides:
    """What A and B stand for, or exit with 2 when that cannot be told."""
    with expected_errors(console, status=WRONG_USAGE):
        files = {name: Path(name) for name in names if name.endswith(".json")}
        stages = [name for name in names if name not in files and _is_stage(name)]
        if stages and len(stages) < 2:
            raise OptionsError(f"{stages[0]} is a stage, and is compared with a stage; see agf-fx inspect --help.")
        if stages:
            return Sides(names, {}, {}, method, options.of_method(console, method, assignments))
        words = [name for name in names if name not in files]
        methods = options.of_methods(",".join(words), assignments or []) if words else {}
        labels = dict(zip(words, methods, strict=False))
        if len(methods) < len(words) or len({*names}) < 2:
            raise OptionsError(f"{names[0]} and {names[1]} are the same; give one of them a label, such as other=agf.")
        first, second = (labels.get(name, name) for name in names)
        return Sides((first, second), methods, files, method, None)


def _is_stage(name: str) -> bool:
    return name in ("emitted", "optimised") or name.startswith(("before:", "after:"))


def found(
    given: Sides, compiled: Callable[..., Explainer], loaded: LoadedModel, seen: options.Seen, html: Path | None
) -> GraphDifference:
    """The difference, and, where a file is given for it, the page that shows it.

    Args:
        given: what is compared.
        compiled: makes an explainer of a method, its options, and a precision.
        loaded: the model.
        seen: what the relevances are compared of.
        html: where the page goes.

    Raises:
        OptionsError: a file, which has no weights, is compared by an image, or is to be shown by a page.
    """
    from agf_fx.inspect.difference import compared, difference, read_compared
    from agf_fx.runtime import differences

    precision = None if seen.image is None else "float64"  # in which rounding is no difference
    explainers = {label: compiled(*made, precision) for label, made in given.methods.items()}
    if given.staged:
        explainer = compiled(given.method, given.chosen, precision)
        if html is not None:
            differences.write_stages(explainer, *given.names, html, loaded.name)
        return differences.between_stages(explainer, *given.names, seen.image, seen.target)
    if given.files:
        file = next(iter(given.files))
        if seen.image is not None:
            raise OptionsError(f"{file} is a file, which has no weights to explain an image with; leave the image out.")
        if html is not None:
            raise OptionsError(f"a page is of graphs of this version, and {file} is a file; leave --html out.")
        one, other = (
            read_compared(given.files[name]) if name in given.files else compared(explainers[name].graph)
            for name in given.names
        )
        return difference(one, other)
    one, other = (explainers[name] for name in given.names)
    if html is not None:
        named = {"pixels": seen.pixels, "class_names": loaded.class_names, "title": loaded.name}
        other.to_html(html, seen.image, seen.target, **named, against=one)
    return one.difference(other, seen.image, seen.target)


def shown(found: GraphDifference, depth: int | None, layer: str | None, full: bool, rows: int) -> Any:
    """A table of the layers that differ, or text of all operations that do, of one layer or of all.

    Raises:
        OptionsError: there is no such layer.
    """
    from agf_fx.inspect.tables import difference_table

    if layer is not None:
        return str(found.of(layer))
    return str(found) if full else difference_table(found.grouped(depth) if depth else found.fitting(rows))
