"""``agf-fx export``: an explainer as a file that runs without agf-fx."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from agf_fx.cli import options
from agf_fx.cli.console import WRONG_USAGE, error_console, expected_errors
from agf_fx.runs.console import stdout_kept_clean
from agf_fx.runs.folder import check_writable


def export(
    model: Annotated[str, typer.Argument(help=options.MODEL_NAMES)],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The file to write.")],
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            help="torchscript (Python, C++), export (torch.export), aoti (compiled for this kind of machine; Python, "
            "C++) or onnx. [default: by the file's name: .pt torchscript, .pt2 export, .onnx onnx]",
        ),
    ] = None,
    input_size: options.InputSize = None,
    weights: options.Weights = None,
    checkpoint: options.Checkpoint = None,
    num_classes: options.NumClasses = None,
    channels: options.Channels = None,
    class_names: options.ClassNames = None,
    output: options.Output = None,
    unknown_ops: options.UnknownOps = "refuse",
    method: options.Method = "agf",
    option: options.MethodOptions = None,
    precision: options.Precision = None,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="Allow a torchvision model with random weights, to try the export.")
    ] = False,
) -> None:
    """Write an explainer to a file: images and targets in, heat maps and logits out.

    The file holds the weights, and runs where agf-fx is not installed, for any number of images and targets.
    Class names and preprocessing are kept in its metadata. agf_fx.load reads it back.
    """
    from agf_fx.exports.formats import format_of

    console = error_console()
    with expected_errors(console, status=WRONG_USAGE):
        format = format_of(out, format)
    chosen = options.of_method(console, method, option)
    with expected_errors(console):
        check_writable(out.parent)
    loaded = options.load(
        console,
        model,
        weights=weights,
        checkpoint=checkpoint,
        num_classes=num_classes,
        channels=channels,
        class_names=class_names,
        output=output,
        untrained=untrained,
        size=input_size,
    )
    import torch

    import agf_fx

    example = torch.zeros(1, loaded.preprocessing.channels, *loaded.preprocessing.crop)
    with stdout_kept_clean(), expected_errors(console):
        explainer = agf_fx.compile(
            loaded.model,
            example,
            method=method,
            options=chosen,
            precision=precision,
            output=loaded.select,
            unknown_ops=unknown_ops,
        )
        explainer.export(out, format, class_names=loaded.class_names, preprocessing=loaded.preprocessing)
    size = "x".join(map(str, example.shape[1:]))
    typer.echo(f"{out}: {format}, {decimal(out.stat().st_size)}, images {size}")
