"""``agf-fx inspect``: print the graph that the compiler makes of a model."""

from __future__ import annotations

from typing import Annotated

import typer

from agf_fx.cli import options
from agf_fx.cli.console import error_console, expected_errors
from agf_fx.runs.console import stdout_kept_clean


def inspect(
    model: Annotated[str, typer.Argument(help=options.MODEL_NAMES)],
    canonical: Annotated[
        bool, typer.Option("--canonical", help="Print the captured model instead of its explanation graph.")
    ] = False,
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
    """Print the explanation graph of a model as text. Only its structure matters: no weights are needed."""
    console = error_console()
    chosen = options.of_method(console, method, option)
    loaded = options.load(
        console,
        model,
        weights=weights,
        checkpoint=checkpoint,
        num_classes=num_classes,
        channels=channels,
        output=output,
        untrained=True,
    )
    import torch

    import agf_fx

    example = torch.zeros(1, loaded.preprocessing.channels, *(input_size or loaded.preprocessing.crop))
    with stdout_kept_clean(), expected_errors(console):
        explanation = agf_fx.compile(
            loaded.model, example, method=method, options=chosen, output=loaded.select, unknown_ops=unknown_ops
        ).graph
        text = str(explanation.canonical if canonical else explanation)
    typer.echo(text)
