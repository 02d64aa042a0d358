"""``agf-fx inspect``: show the graph that the compiler makes of a model."""

from __future__ import annotations

import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from agf_fx.cli import differences, options
from agf_fx.cli.console import error_console, expected_errors
from agf_fx.errors import OptionsError
from agf_fx.runs.console import say, stdout_kept_clean

if TYPE_CHECKING:
    from agf_fx.models import LoadedModel
    from agf_fx.runtime.explainer import Explainer

_WIDTH = 150  # of tables that go to a file or another program
_MEMORY = "16GB"
_ROWS, _FEWEST_ROWS = 30, 12  # of layers, by default
_BESIDE, _BESIDE_BRIEF = 24, 14  # lines of the screen that are not rows of layers


def inspect(
    model: Annotated[str, typer.Argument(help=options.MODEL_NAMES)],
    depth: Annotated[
        int | None, typer.Option(min=1, help="Modules so deep are a row each. [default: as many as fit a screen]")
    ] = None,
    layer: Annotated[
        str | None, typer.Option(metavar="PATH", help="Open one layer, such as layer3.0, down to its operations.")
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option(help="Print the graph as it is captured, canonical, annotated, emitted or optimised."),
    ] = None,
    diff: Annotated[
        tuple[str, str] | None, typer.Option(metavar="STAGE STAGE", help="Print how two stages differ.")
    ] = None,
    compare: Annotated[tuple[str, str] | None, typer.Option(metavar="A B", help=differences.HELP)] = None,
    full: Annotated[bool, typer.Option("--full", help="Print the explanation graph with all its operations.")] = False,
    canonical: Annotated[bool, typer.Option("--canonical", help="The same as --stage annotated.")] = False,
    images: Annotated[int, typer.Option("--images", "-n", min=1, help="Images of which the costs are.")] = 1,
    targets: Annotated[int, typer.Option("--targets", "-k", min=1, help="Targets of each image.")] = 1,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say how many images fit in --memory at once, and how long they take.")
    ] = False,
    memory: Annotated[str, typer.Option(metavar="SIZE", help="What --plan may use, such as 16GB or 16GiB.")] = _MEMORY,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the costs by layer and as they grow: .png, .svg, .pdf, ..."),
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the graph: .json (node-link), .graphml, .dot or .svg."),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(help="Of --write: node-link, graphml, dot, svg or model-explorer. [default: by the ending]"),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page for browsers: the graph, and --image in it.")
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="An image that --html, --compare and --diagnose look at."),
    ] = None,
    diagnose: Annotated[
        bool,
        typer.Option("--diagnose", help="Say why the map of --image is blank, noisy, a grid, ..., and from where on."),
    ] = False,
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="Class of --image, by name or index. [default: the top one]")
    ] = None,
    class_names: options.ClassNames = None,
    input_size: options.InputSize = None,
    weights: options.Weights = None,
    checkpoint: options.Checkpoint = None,
    num_classes: options.NumClasses = None,
    channels: options.Channels = None,
    output: options.Output = None,
    unknown_ops: options.UnknownOps = "refuse",
    method: options.Method = "agf",
    option: options.MethodOptions = None,
) -> None:
    """Show a model's explanation graph: its layers, rules and costs, or with --image how one map comes about.

    Without an image only the model's structure matters: no weights needed.
    """
    console, terminal = error_console(), sys.stdout.isatty()
    shows: dict[str, Any] = {"--layer": layer, "--full": full, "--html": html}
    asked = {} if compare else shows  # which say how to show what is compared
    asked |= {"--stage": stage, "--diff": diff, "--canonical": canonical}
    asked |= {"--plan": plan, "--plot": plot, "--write": write, "--compare": compare, "--diagnose": diagnose}
    given = [name for name, value in asked.items() if value]
    with expected_errors(console):
        if len(given) > 1:
            raise OptionsError(f"{' and '.join(given)} show different things; give one of them.")
        if memory != _MEMORY and not plan:
            raise OptionsError("--memory is what --plan may use; add --plan.")
        if plan and images != 1:
            raise OptionsError("--plan says how many images fit; leave --images out.")
        if image is not None and html is None and compare is None and not diagnose:
            raise OptionsError("--image is shown by a page, compared or diagnosed; add --html FILE or --diagnose.")
        if html is not None and (layer is not None or full):
            raise OptionsError("a page has all layers and operations; leave --layer and --full out.")
        if diagnose and image is None:
            raise OptionsError("--diagnose is of an image; add --image FILE.")
        if target is not None and image is None:
            raise OptionsError("--target is of an image; add --image FILE.")
    sides = None if compare is None else differences.sides(console, compare, method, option)
    chosen = None if compare is not None else options.of_method(console, method, option)
    loaded = options.load(
        console,
        model,
        weights=weights,
        checkpoint=checkpoint,
        num_classes=num_classes,
        channels=channels,
        output=output,
        class_names=class_names,
        untrained=image is None,
        size=input_size,
    )
    import torch

    import agf_fx

    example = torch.zeros(1, loaded.preprocessing.channels, *loaded.preprocessing.crop)
    with stdout_kept_clean(), expected_errors(console):

        def compiled(name: str, settings: Any, precision: str | None = None) -> Explainer:
            return agf_fx.compile(
                loaded.model,
                example,
                method=name,
                options=settings if image else options.with_any_patterns(console, loaded, example, settings),
                precision=precision,
                output=loaded.select,
                unknown_ops=unknown_ops,
            )

        if sides is not None:
            looked_at = options.seen(loaded, image, target)
            found = differences.found(sides, compiled, loaded, looked_at, html)
            if html is not None:
                say(console, f"written to {html}")
                return
            shown: Any = differences.shown(found, depth, layer, full, _room(terminal))
        else:
            explainer = compiled(method, chosen)
            if html is not None:
                _page(explainer, loaded, html, image, target)
                say(console, f"written to {html}")
                return
            if plot is not None:
                from agf_fx.inspect.cost_figure import save as save_costs

                save_costs(explainer.cost(depth=depth or 2), plot, images, targets)
                say(console, f"written to {plot}")
                return
            if write is not None:
                from agf_fx.inspect.formats import save

                save(explainer.graph, write, format, depth)
                say(console, f"written to {write}")
                return
            stage = "annotated" if canonical else stage
            if full:
                shown = str(explainer.graph)
            elif stage is not None:
                shown = str(explainer.stages()[stage])
            elif diagnose:
                shown = _diagnosis(explainer, loaded, image, target)
            elif diff is not None:
                shown = "\n".join(explainer.stages().difference(*diff))
            elif plan:
                shown = str(explainer.plan(memory, targets))
            elif layer is not None:
                shown = _layer(explainer, layer, images, targets)
            else:
                shown = _overview(explainer, depth, images, targets, terminal)
    _show(shown, terminal, paged=layer is not None)


def _page(explainer: Explainer, loaded: LoadedModel, html: Path, image: Path | None, target: str | None) -> None:
    """The page for browsers, with an image where one is given."""
    seen = options.seen(loaded, image, target)
    explainer.to_html(
        html, seen.image, seen.target, pixels=seen.pixels, class_names=loaded.class_names, title=loaded.name
    )


def _diagnosis(explainer: Explainer, loaded: LoadedModel, image: Path | None, target: str | None) -> str:
    """What is found about the map of an image, in words."""
    seen = options.seen(loaded, image, target)
    return explainer.diagnose(seen.image, seen.target).in_words(loaded.class_names)


def _overview(explainer: Explainer, depth: int | None, images: int, targets: int, terminal: bool) -> Any:
    """The layers with their rules and costs, the totals, and what every step changed."""
    from agf_fx.inspect.tables import overview
    from agf_fx.ir.views import screen_depth

    lines = shutil.get_terminal_size().lines if terminal else _ROWS + _BESIDE
    brief = lines < _FEWEST_ROWS + _BESIDE
    room = lines - (_BESIDE_BRIEF if brief else _BESIDE)
    deep = depth or screen_depth(explainer.graph, max(room, _FEWEST_ROWS))
    return overview(explainer.cost(images, targets, depth=deep), explainer.stages(), brief)


def _layer(explainer: Explainer, layer: str, images: int, targets: int) -> Any:
    """One layer down to its operations."""
    from agf_fx.inspect.tables import operations_table
    from agf_fx.ir.views import of_layer

    inside, cost = {view.name for view in of_layer(explainer.graph, layer)}, explainer.cost(images, targets)
    views = [view for view in cost.nodes if view.name in inside]
    return operations_table(views, cost, f"{layer}: {len(views)} operations")


def _room(terminal: bool) -> int:
    """Rows of layers that fit a screen."""
    return max(shutil.get_terminal_size().lines - _BESIDE, _FEWEST_ROWS) if terminal else _ROWS


def _show(shown: Any, terminal: bool, paged: bool) -> None:
    if isinstance(shown, str):
        _print_text(shown, terminal)
    else:
        _print_table(shown, terminal, paged)


def _print_text(text: str, terminal: bool) -> None:
    """Text as it is; by the pager where it is longer than the terminal."""
    if terminal and text.count("\n") >= shutil.get_terminal_size().lines:
        typer.echo_via_pager(text)
    else:
        typer.echo(text)


def _print_table(table: Any, terminal: bool, paged: bool) -> None:
    console = Console(width=None if terminal else _WIDTH)
    with console.pager(styles=True) if paged and terminal else nullcontext():
        console.print(table)
