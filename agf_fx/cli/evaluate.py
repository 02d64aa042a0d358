"""``agf-fx evaluate``: an experiment on a model, methods and a dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from agf_fx.cli import options
from agf_fx.cli.console import FAILED, WRONG_USAGE, error_console, expected_errors
from agf_fx.errors import OptionsError

DEFAULT_METHODS = "agf,gradcam,lrp-alphabeta,clrp,sglrp,rap,fullgrad,integrated-gradients"


def evaluate(
    experiment: Annotated[str, typer.Argument(help="What is measured: agf-fx evaluate list names all.")],
    model: Annotated[str, typer.Option("--model", "-m", help=options.MODEL_NAMES)] = "",
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            "-d",
            metavar="KIND:PATH",
            help="imagenet, imagenet-segmentation, voc2012, coco, folder or table with a path; digits:N; photographs.",
        ),
    ] = "photographs",
    dataset_option: Annotated[
        list[str] | None,
        typer.Option(
            "--dataset-option", metavar="NAME=VALUE", help="An option of the dataset, such as split=train; repeatable."
        ),
    ] = None,
    methods: Annotated[
        str, typer.Option("--methods", help="Methods, with commas between them, or LABEL=METHOD; see agf-fx methods.")
    ] = DEFAULT_METHODS,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="METHOD.NAME=VALUE", help="An option of a method, or of a label; repeatable."),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of the experiment, such as cells=3; repeatable."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="All files; a run that was stopped goes on there.")
    ] = Path("evaluation"),
    limit: Annotated[int | None, typer.Option(min=1, help="The most examples, or mosaics.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples explained at a time.")] = 16,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read.")] = 0,
    weights: options.Weights = None,
    checkpoint: options.Checkpoint = None,
    num_classes: options.NumClasses = None,
    class_names: options.ClassNames = None,
    output: options.Output = None,
    multi_label: Annotated[
        bool,
        typer.Option("--multi-label", help="Classes do not exclude each other (bundled models know it)."),
    ] = False,
    combine: Annotated[
        str | None,
        typer.Option(
            help="Of a network trained without labels: difference, sum or none, how Alg. 2 finds the class of an image."
        ),
    ] = None,
    neighbours: Annotated[
        str | None,
        typer.Option(metavar="KIND:PATH", help="With --combine: images among which the nearest one is looked for."),
    ] = None,
    unknown_ops: options.UnknownOps = "refuse",
    precision: options.Precision = None,
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda, cuda:1, ...")] = "cpu",
) -> None:
    """Measure how good the maps of several methods are, on a dataset.

    Rows are kept as they are found, and the same command goes on where it was stopped. The folder has rows.csv and
    rows.parquet (one row for each method, image and class), summary.csv (means with 95 % bootstrap intervals over
    images), figure.png, and report.html with the best and the worst cases. An image or a method that fails is named
    on stderr; the exit status is then 1.
    """
    from agf_fx.evaluate.experiments import EXPERIMENTS

    console = error_console()
    if experiment == "list":
        for each in EXPERIMENTS.values():
            typer.echo(f"{each.name}: {each.title} ({each.citation})")
        return
    with expected_errors(console, status=WRONG_USAGE):
        if experiment not in EXPERIMENTS:
            raise OptionsError(f"unknown experiment {experiment!r}; choose from {', '.join(EXPERIMENTS)}")
        if not model:
            raise OptionsError("--model is missing; name one, such as efficientnet-lite0")
        chosen = options.of_methods(methods, option or [])
        settings = dict(map(_setting, setting or []))
    loaded = options.load(
        console,
        model,
        weights=weights,
        checkpoint=checkpoint,
        num_classes=num_classes,
        class_names=class_names,
        output=output,
        multi_label=multi_label,
    )
    from agf_fx.data.datasets import open_dataset, parse_dataset, parse_options
    from agf_fx.runs.evaluation import Request, run
    from agf_fx.runs.own_task import OwnTask
    from agf_fx.runs.run import Execution

    with expected_errors(console, status=WRONG_USAGE):
        kind, path = parse_dataset(dataset)
        chosen_options = parse_options(kind, dataset_option or [])
        opened = open_dataset(kind, path, **chosen_options)
        own_task = None
        if combine is None and neighbours is not None:
            raise OptionsError("--neighbours is for --combine difference or sum.")
        if combine is not None:
            others = None if neighbours is None else open_dataset(*parse_dataset(neighbours))
            own_task = OwnTask(others, neighbours or "", combine)
    with expected_errors(console):
        request = Request(
            experiment=experiment,
            methods=chosen,
            dataset=opened,
            source=", ".join([dataset, *(f"{name}={value}" for name, value in sorted(chosen_options.items()))]),
            out=out,
            settings=settings,
            limit=limit,
            batch_size=batch_size,
            workers=workers,
            execution=Execution(device, "eager", precision),
            unknown_ops=unknown_ops,
            output=output,
            own_task=own_task,
        )
        complete = run(request, loaded, console)
    typer.echo(str(out))
    if not complete:
        raise typer.Exit(FAILED)


def _setting(text: str) -> tuple[str, Any]:
    """A name and a value: a number, true or false, or a word.

    Raises:
        OptionsError: it is not of the form NAME=VALUE.
    """
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise OptionsError(f"--set {text} is no setting; write NAME=VALUE, such as cells=3.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
