"""``agf-fx compare``: several methods side by side on one sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agf_fx.cli import options
from agf_fx.cli.console import FAILED, WRONG_USAGE, error_console, expected_errors
from agf_fx.imaging.find import find_images
from agf_fx.runs.console import say

DEFAULT_METHODS = "agf,gradcam,lrp-alphabeta,clrp,fullgrad,integrated-gradients"


def compare(
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE_OR_FOLDER...", help="Image files; folders are searched recursively."),
    ],
    model: Annotated[str, typer.Option("--model", "-m", help=options.MODEL_NAMES)],
    methods: Annotated[
        str, typer.Option("--methods", help="Methods, with commas between them; see agf-fx methods.")
    ] = DEFAULT_METHODS,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", metavar="METHOD.NAME=VALUE", help="An option, such as gradcam.layer=layer4; repeatable."
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", help="Class to explain, by name or index (a name wins); repeat for several."),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(min=1, help="The strongest classes of each image (besides --target). [default: 2]"),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The sheet: .html, .png, .pdf, .svg, ...")
    ] = Path("comparison.png"),
    weights: options.Weights = None,
    checkpoint: options.Checkpoint = None,
    num_classes: options.NumClasses = None,
    channels: options.Channels = None,
    class_names: options.ClassNames = None,
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Image size in pixels; default: the weights' own, 224 for a factory."),
    ] = None,
    output: options.Output = None,
    unknown_ops: options.UnknownOps = "refuse",
    precision: options.Precision = None,
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda, cuda:1, ...")] = "cpu",
    smooth: Annotated[float, typer.Option(min=0, help="Blur maps by so many pixels (deviation of a Gaussian).")] = 0.0,
    clip: options.Clip = 1.0,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Refuse larger images. [default: 100 million]")] = None,
) -> None:
    """Compare methods: one sheet with a row for each class of an image and a column for each method.

    A method that cannot explain the model, and an image that cannot be read, are named on stderr; the sheet has the
    others, and the exit status is 1.
    """
    console = error_console()
    with expected_errors(console, status=WRONG_USAGE):
        chosen = options.of_methods(methods, option or [])
    found = find_images(images)
    for problem in found.problems:
        say(console, f"error: {problem}")
    if not found.paths:
        raise typer.Exit(FAILED)
    loaded = options.load(
        console,
        model,
        weights=weights,
        checkpoint=checkpoint,
        num_classes=num_classes,
        channels=channels,
        class_names=class_names,
        output=output,
        size=size,
    )
    from agf_fx.runs.comparison import Request, run

    with expected_errors(console):
        request = Request(
            paths=tuple(found.paths),
            methods=chosen,
            targets=tuple(target or ()),
            top_k=top_k,
            out=out,
            device=device,
            precision=precision,
            unknown_ops=unknown_ops,
            smooth=smooth,
            clip=clip,
            max_pixels=max_pixels,
        )
        complete = run(request, loaded, console)
    typer.echo(str(out))
    if found.problems or not complete:
        raise typer.Exit(FAILED)
