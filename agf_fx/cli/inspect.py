"""``agf-fx inspect``: show the graph that the compiler makes of a model."""

from __future__ import annotations

import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from agf_fx.cli import options
from agf_fx.cli.console import error_console, expected_errors
from agf_fx.errors import OptionsError
from agf_fx.runs.console import say, stdout_kept_clean

if TYPE_CHECKING:
    from agf_fx.models import LoadedModel
    from agf_fx.runtime.explainer import Explainer

_WIDTH = 150  # of tables that go to a file or another program
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
    full: Annotated[bool, typer.Option("--full", help="Print the explanation graph with all its operations.")] = False,
    canonical: Annotated[bool, typer.Option("--canonical", help="The same as --stage annotated.")] = False,
    images: Annotated[int, typer.Option("--images", "-n", min=1, help="Images of which the costs are.")] = 1,
    targets: Annotated[int, typer.Option("--targets", "-k", min=1, help="Targets of each image.")] = 1,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say how many images fit in --memory at once, and how long they take.")
    ] = False,
    memory: Annotated[str, typer.Option(metavar="SIZE", help="What --plan may use, such as 16GB or 16GiB.")] = "16GB",
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
        Path | None, typer.Option(metavar="FILE", help="An image whose relevance --html shows at every layer.")
    ] = None,
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
    """Show a model's explanation graph: its layers, rules and costs. Only its structure matters: no weights needed."""
    console, terminal = error_console(), sys.stdout.isatty()
    asked = {"--layer": layer, "--stage": stage, "--diff": diff, "--full": full, "--canonical": canonical}
    asked |= {"--plan": plan, "--write": write, "--html": html}
    given = [name for name, value in asked.items() if value]
    with expected_errors(console):
        if len(given) > 1:
            raise OptionsError(f"{' and '.join(given)} show different things; give one of them.")
        if image is not None and html is None:
            raise OptionsError("--image is shown by a page; add --html FILE.")
        if target is not None and image is None:
            raise OptionsError("--target is of an image; add --image FILE.")
    chosen = options.of_method(console, method, option)
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
    )
    import torch

    import agf_fx

    example = torch.zeros(1, loaded.preprocessing.channels, *(input_size or loaded.preprocessing.crop))
    with stdout_kept_clean(), expected_errors(console):
        explainer = agf_fx.compile(
            loaded.model, example, method=method, options=chosen, output=loaded.select, unknown_ops=unknown_ops
        )
        if html is not None:
            _page(explainer, loaded, html, image, target)
            say(console, f"written to {html}")
            return
        if write is not None:
            from agf_fx.inspect.formats import save

            save(explainer.graph, write, format, depth)
            say(console, f"written to {write}")
            return
        stage = "annotated" if canonical else stage
        if full:
            shown: Any = str(explainer.graph)
        elif stage is not None:
            shown = str(explainer.stages()[stage])
        elif diff is not None:
            shown = "\n".join(explainer.stages().difference(*diff))
        elif plan:
            shown = str(explainer.plan(memory, targets))
        elif layer is not None:
            shown = _layer(explainer, layer, images, targets)
        else:
            shown = _overview(explainer, depth, images, targets, terminal)
    if isinstance(shown, str):
        _print_text(shown, terminal)
    else:
        _print_table(shown, terminal, paged=layer is not None)


def _page(explainer: Explainer, loaded: LoadedModel, html: Path, image: Path | None, target: str | None) -> None:
    """The page for browsers, with an image where one is given."""
    if image is None:
        explainer.to_html(html, title=loaded.name)
        return
    from agf_fx.imaging.read import read_image
    from agf_fx.models import class_index

    seen, pixels = loaded.preprocessing.prepare(read_image(image))
    index = None if target is None else class_index(target, loaded.class_names)
    explainer.to_html(html, seen[None], index, pixels=pixels, class_names=loaded.class_names, title=loaded.name)


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

    views = of_layer(explainer.graph, layer)
    return operations_table(views, explainer.cost(images, targets), f"{layer}: {len(views)} operations")


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
