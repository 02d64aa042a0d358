"""Command line options that say which model is meant, shared by the commands."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console

from agf_fx.cli.console import WRONG_USAGE, expected_errors
from agf_fx.errors import OptionsError
from agf_fx.runs.console import say, stdout_kept_clean

if TYPE_CHECKING:
    from agf_fx.models import LoadedModel

MODEL_NAMES = "efficientnet-lite0, digits-vgg, a torchvision name, or package.module:factory; see agf-fx models."

Weights = Annotated[
    str | None,
    typer.Option(help="Torchvision's weights: DEFAULT or an entry's name; downloaded when needed."),
]
Checkpoint = Annotated[Path | None, typer.Option(metavar="FILE", help="Weights as a .safetensors file.")]
NumClasses = Annotated[int | None, typer.Option(min=1, help="Number of outputs to build the model with.")]
Output = Annotated[
    str | None,
    typer.Option(help="Where the model returns more than logits: the key, attribute, index or dotted path of them."),
]
Channels = Annotated[
    int | None,
    typer.Option(help="Channels of the network's images, 3 or 1 (grey). [default: as its first layer has them]"),
]
UnknownOps = Annotated[
    str, typer.Option("--unknown-ops", help="Operations without a rule: refuse, or explain them by their gradient.")
]
ClassNames = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Class names: one per line, or JSON list or object.")
]
Precision = Annotated[
    str | None, typer.Option(help="float64, float32, tf32, bfloat16 or float16. [default: the model's]")
]
InputSize = Annotated[
    tuple[int, int] | None,
    typer.Option(metavar="HEIGHT WIDTH", min=1, help="Image size; default: the model's own."),
]
Clip = Annotated[
    float,
    typer.Option(
        help="Share of a map's pixels that its colours reach: 0.99 shows maps whose relevance is at a few pixels."
    ),
]
Method = Annotated[str, typer.Option(help="Explanation method; see agf-fx methods.")]
MethodOptions = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="NAME=VALUE", help="An option of the method, such as epsilon=0.1; repeatable."),
]


def of_method(console: Console, method: str, assignments: list[str] | None) -> Any:
    """The options of a method from words such as ``epsilon=0.1``, or exit with 2 when no such can be meant."""
    from agf_fx.methods import REGISTRY

    with expected_errors(console, status=WRONG_USAGE):
        return REGISTRY[method].parsed(assignments or [])


def with_any_patterns(console: Console, loaded: LoadedModel, example: Any, chosen: Any) -> Any:
    """The options; where a method needs patterns and none are given, with some of noise: its graph is the same."""
    from agf_fx.methods.patterns import PatternOptions

    if not isinstance(chosen, PatternOptions) or chosen.patterns is not None:
        return chosen
    import torch

    import agf_fx

    say(console, "no patterns are given; the graph, which is the same for all, is shown with those of noise")
    noise = torch.randn(4, *example.shape[1:], generator=torch.Generator().manual_seed(0)).to(example)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of neurons that noise says nothing of
        return PatternOptions(agf_fx.fit_patterns(loaded.model, [noise], output=loaded.select))


def of_methods(names: str, assignments: list[str]) -> dict[str, Any]:
    """Methods with their options, by label, from words such as ``agf,gradcam`` and ``gradcam.layer=layer4``.

    The label is the method's name, or what stands before "=": ``agf,paper=agf`` with ``paper.dialect=paper`` are two
    AGFs. Two of one name without labels are one.

    Raises:
        OptionsError: a method or an option is unknown, a method is not among those named, or two have one label.
    """
    from agf_fx.methods import REGISTRY

    methods: dict[str, str] = {}
    for word in filter(None, map(str.strip, names.split(","))):
        label, sign, name = (part.strip() for part in word.rpartition("="))
        method = REGISTRY[name].name
        label = label if sign else method
        if not label or "=" in label or "." in label:
            raise OptionsError(f"{word} has no label without a point or =; write LABEL=METHOD, such as paper=agf.")
        if methods.setdefault(label, method) != method:
            raise OptionsError(f"{label} stands for {methods[label]} and for {method}; give each a label of its own.")
    if not methods:
        raise OptionsError("--methods names none; give some, such as agf,gradcam.")
    given: dict[str, list[str]] = {label: [] for label in methods}
    for assignment in assignments:
        label, point, rest = assignment.partition(".")
        if label not in given and point and "=" in rest and "=" not in label:
            label = REGISTRY[label].name  # by another of its names
        if label not in given or "=" not in rest:
            named = ", ".join(given)
            if "=" in label:
                problem, example = f"does not say which of {named} it is for", f"{[*given][-1]}.{assignment}"
            else:
                problem, example = f"belongs to none of {named}", "gradcam.layer=layer4"
            raise OptionsError(f"--option {assignment} {problem}; write METHOD.NAME=VALUE, such as {example}.")
        given[label].append(rest)
    return {label: (method, REGISTRY[method].parsed(given[label])) for label, method in methods.items()}


class Seen(NamedTuple):
    """What a command is to look at.

    Attributes:
        image: (1, C, H, W), as the model takes it; None where no image is given.
        target: a class; None for the top one.
        pixels: (H, W, 3) uint8, to show.
    """

    image: Any = None
    target: int | None = None
    pixels: Any = None


def seen(loaded: LoadedModel, image: Path | None, target: str | None) -> Seen:
    """An image from a file, and a class by name or index.

    Raises:
        InputError, TargetError, OptionsError: the file is no image, or there is no such class.
    """
    if image is None:
        return Seen()
    from agf_fx.imaging.read import read_image
    from agf_fx.models import class_index

    prepared, pixels = loaded.preprocessing.prepare(read_image(image))
    return Seen(prepared[None], None if target is None else class_index(target, loaded.class_names), pixels)


def load(
    console: Console,
    name: str,
    *,
    weights: str | None,
    checkpoint: Path | None,
    num_classes: int | None,
    untrained: bool = False,
    class_names: Path | None = None,
    output: str | None = None,
    **options: object,
) -> LoadedModel:
    """Load a model, or exit: 2 when no such model can be meant, 1 when it cannot be loaded."""
    from agf_fx.models import check_model, load_model, read_class_names

    source = {
        "weights": weights,
        "checkpoint": checkpoint,
        "num_classes": num_classes,
        "untrained": untrained,
    }
    with stdout_kept_clean():
        with expected_errors(console, status=WRONG_USAGE):
            check_model(name, **source)
        with expected_errors(console):
            names = None if class_names is None else read_class_names(class_names)
            return load_model(name, **source, class_names=names, select=_select(name, output), **options)


def _select(name: str, output: str | None) -> Callable[[Any], Any] | None:
    """The function that takes the logits from what the model called ``name`` returns."""
    from agf_fx.frontend.outputs import chosen

    return None if output is None else lambda returned: chosen(returned, output, name)
