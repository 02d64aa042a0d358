"""``agf-fx explain``: heat maps of image files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from agf_fx.cli import options
from agf_fx.cli.console import FAILED, INTERRUPTED, error_console, expected_errors
from agf_fx.imaging.find import find_images
from agf_fx.runs.console import say
from agf_fx.runs.folder import writable_folder

if TYPE_CHECKING:
    from agf_fx.runs.report import Summary


def explain(
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE_OR_FOLDER...", help="Image files; folders are searched recursively."),
    ],
    model: Annotated[
        str,
        typer.Option("--model", "-m", help=options.MODEL_NAMES),
    ],
    target: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", help="Class to explain, by name or index (a name wins); repeat for several."),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(min=1, help="Explain the strongest classes of each image (besides --target). [default: 1]"),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files; made when missing.")] = Path("out"),
    weights: options.Weights = None,
    checkpoint: options.Checkpoint = None,
    num_classes: options.NumClasses = None,
    channels: options.Channels = None,
    class_names: options.ClassNames = None,
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Image size in pixels; default: the weights' own, 224 for a factory."),
    ] = None,
    mean: Annotated[
        tuple[float, float, float] | None,
        typer.Option(metavar="R G B", help="Channel means on 0..1; default: the weights' own, else ImageNet's."),
    ] = None,
    std: Annotated[
        tuple[float, float, float] | None,
        typer.Option(metavar="R G B", help="Channel deviations on 0..1; default: the weights' own, else ImageNet's."),
    ] = None,
    multi_label: Annotated[
        bool,
        typer.Option("--multi-label", help="Classes do not exclude each other (bundled models know it)."),
    ] = False,
    output: options.Output = None,
    unknown_ops: options.UnknownOps = "refuse",
    method: options.Method = "agf",
    option: options.MethodOptions = None,
    backend: Annotated[
        str, typer.Option(help="eager, inductor (compiles first; for many images), cudagraphs, or auto.")
    ] = "auto",
    precision: options.Precision = None,
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda, cuda:1, ...")] = "cpu",
    batch_size: Annotated[int, typer.Option(min=1, help="Images explained at a time.")] = 8,
    contact_sheet: Annotated[
        bool, typer.Option("--contact-sheet", help="Also write all pictures and maps on one sheet.")
    ] = False,
    smooth: Annotated[
        float,
        typer.Option(min=0, help="Blur maps in pictures by so many pixels (deviation of a Gaussian); .npy stay raw."),
    ] = 0.0,
    clip: options.Clip = 1.0,
    check: Annotated[
        bool, typer.Option("--check", help="Also compute each map in float64, and warn of those that rounding changed.")
    ] = False,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Refuse larger images. [default: 100 million]")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print a machine-readable summary on stdout.")] = False,
) -> None:
    """Explain images: for each class a signed heat map of what speaks for it (red) and against it (blue).

    Each map is written as a PNG file, the picture beside it, and as a .npy file (float32, height x width).
    An image that cannot be read is named on stderr; the others are explained and the exit status is 1.
    """
    console = error_console()
    _check_out(out, images)
    found = find_images(images, skip=out)
    for problem in found.problems:
        say(console, f"error: {problem}")
    if not found.paths and not json:
        raise typer.Exit(FAILED)
    with expected_errors(console), writable_folder(out):
        chosen = options.of_method(console, method, option)
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
            mean=mean,
            std=std,
            multi_label=multi_label,
        )
        from agf_fx.runs.report import print_table, to_json
        from agf_fx.runs.run import Execution, Request, run

        request = Request(
            found=found,
            targets=tuple(target or ()),
            top_k=top_k,
            out=out,
            method=method,
            options=chosen,
            execution=Execution(device, backend, precision),
            unknown_ops=unknown_ops,
            batch_size=batch_size,
            max_pixels=max_pixels,
            contact_sheet=contact_sheet,
            smooth=smooth,
            clip=clip,
            check=check,
        )
        summary = run(request, loaded, console)
    if json:
        typer.echo(to_json(summary))
    else:
        print_table(Console(highlight=False), summary)
    _exit(console, summary)


def _check_out(out: Path, images: list[Path]) -> None:
    if out.exists() and not out.is_dir():
        raise typer.BadParameter(f"{out} is a file; name a folder", param_hint="--out")
    if any(os.path.realpath(out) == os.path.realpath(path) for path in images):
        raise typer.BadParameter(f"{out} holds the images; name another folder", param_hint="--out")


def _exit(console: Console, summary: Summary) -> None:
    if summary.interrupted:
        say(console, f"interrupted: the {len(summary.images)} images explained so far are in {summary.folder}")
        raise typer.Exit(INTERRUPTED)
    if summary.errors:
        raise typer.Exit(FAILED)
