"""Several methods side by side: the same images and the same classes, explained by each."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from agf_fx.errors import AgfFxError, OptionsError
from agf_fx.methods import REGISTRY
from agf_fx.methods.meta import META, MetaOptions
from agf_fx.methods.method import Method
from agf_fx.runtime.explainer import Explainer, compile
from agf_fx.runtime.explanation import Explanation

Chosen = str | Method | MetaOptions | tuple[str, Any]
"""A method by name, a `Method`, ``agf_fx.meta(...)``, or a name with its options."""

_LABEL = 40  # characters of an option's value

STRONGEST = 2
"""Classes of each image that are compared unless others are named."""


@dataclass(frozen=True, repr=False)
class Comparison:
    """Heat maps of N images for K targets each, by several methods.

    Attributes:
        explanations: what each method that could says, by its label, in the order asked for.
        failed: why the other methods could not, by label.
        titles: what the methods are, in words, by label; "" for methods of the user's own.
    """

    explanations: Mapping[str, Explanation]
    failed: Mapping[str, Exception] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)

    @property
    def target(self) -> Tensor:
        """(N, K) int64, the classes that are explained, the same by all methods."""
        return next(iter(self.explanations.values())).target

    @property
    def logits(self) -> Tensor:
        """(N, classes), the model's output."""
        return next(iter(self.explanations.values())).logits

    @property
    def images(self) -> Tensor:
        """(N, C, H, W), the batch that was explained."""
        return next(iter(self.explanations.values())).images

    def __repr__(self) -> str:
        count, each = self.target.shape
        failed = f"; failed: {', '.join(self.failed)}" if self.failed else ""
        return f"Comparison({', '.join(self.explanations)}; {count} images, {each} targets each{failed})"

    def _repr_png_(self) -> bytes:
        """A picture for notebooks."""
        import io

        from agf_fx.imaging import comparison

        file = io.BytesIO()
        comparison.figure(self, max_rows=4).savefig(file, format="png", dpi=80)
        return file.getvalue()

    def show(self, **options: Any) -> None:
        """Draw the sheet in the notebook or in a window; see `agf_fx.imaging.comparison.figure` for the options."""
        from agf_fx.imaging import comparison

        comparison.show(self, **options)

    def save(self, path: str | os.PathLike[str], **options: Any) -> None:
        """Write the sheet: ``.html`` as one page that needs nothing else, ``.png``, ``.pdf``, … as a figure.

        Args:
            path: the file; its ending chooses the format.
            **options: see `agf_fx.imaging.comparison.save`.
        """
        from agf_fx.imaging import comparison

        comparison.save(self, path, **options)


def compare(
    model: nn.Module,
    images: Tensor,
    methods: Sequence[Chosen] | Mapping[str, Chosen],
    target: int | Tensor | Sequence[int] | Sequence[Sequence[int]] | None = None,
    *,
    top_k: int | None = None,
    progress: Callable[[str], object] | None = None,
    **settings: Any,
) -> Comparison:
    """Explain the same classes of the same images by several methods.

        agf_fx.compare(model, images, ["agf", ("lrp-epsilon", {"epsilon": 0.1}), "gradcam"]).save("sheet.html")

    Args:
        model: a classifier in eval mode.
        images: (N, C, H, W) or another form, as the model takes them.
        methods: names, `Method` objects, ``agf_fx.meta(...)``, or (name, options), in order; or such by labels of your
            own.
        target: the classes to explain, as `Explainer.explain` takes them.
        top_k: the strongest classes of each image, instead of ``target``; 2 where neither is given.
        progress: called with the label of each method before it begins.
        **settings: of `agf_fx.compile`, the same for all methods, such as ``precision`` or ``output``.

    Returns:
        The maps. A method that cannot explain the model, such as Grad-CAM where there is no feature map, is among
        those that ``failed``, and the others go on.

    Raises:
        OptionsError: a method or an option is unknown, no method is named, or one twice by the same label.
        TargetError: no such class; or as the methods raise it, where all of them failed.
    """
    chosen = _labelled(methods)
    explainers = {label: _compiled(model, one, settings) for label, one in chosen.items()}
    wanted: dict[str, Any] = {"top_k": top_k} if top_k is not None else {}
    wanted |= {"target": target} if target is not None else {}
    wanted = wanted or {"top_k": STRONGEST}
    found: dict[str, Explanation] = {}
    failed: dict[str, Exception] = {}
    for label in chosen:
        if progress is not None:
            progress(label)
        try:
            result = explainers.pop(label).explain(images, **wanted)
        except AgfFxError as error:
            failed[label] = error
            continue
        wanted = {"target": result.target}
        if _lies_on(result.maps, images):
            found[label] = result
        else:
            size = "x".join(map(str, result.maps.shape[2:]))
            failed[label] = OptionsError(f"its maps have {size} positions, not those of the images; leave out resize.")
    if not found:
        raise next(iter(failed.values()))
    return Comparison(found, failed, {label: _title(one) for label, one in chosen.items()})


def _labelled(methods: Sequence[Chosen] | Mapping[str, Chosen]) -> dict[str, Chosen]:
    if isinstance(methods, str | Method | MetaOptions):
        raise OptionsError(f"methods is {methods!r}; give a list, such as ['agf', 'gradcam'].")
    labelled = [*methods.items()] if isinstance(methods, Mapping) else [(_label(one), one) for one in methods]
    if not labelled:
        raise OptionsError("methods is empty; name one or more, such as ['agf', 'gradcam'].")
    labels = [label for label, _ in labelled]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise OptionsError(f"{twice} is asked for twice; give labels: {{'one': {twice!r}, 'two': ({twice!r}, ...)}}.")
    return dict(labelled)


def _label(one: Chosen) -> str:
    if isinstance(one, Method):
        return one.name
    if isinstance(one, MetaOptions):
        return f"{META} of {one.made.name}"
    if isinstance(one, str):
        return one
    if not isinstance(one, tuple) or len(one) != 2:
        raise OptionsError(f"{one!r} is no method; give a name, a Method, or (name, options).")
    name, options = one
    given = (
        ", ".join(f"{key}={_short(value)}" for key, value in options.items()) if isinstance(options, Mapping) else ""
    )
    return f"{name} ({given})" if given else str(name)


def _short(value: Any) -> str:
    """A value in few words: of a tensor or an array its shape."""
    shape, text = getattr(value, "shape", None), str(value)
    if shape is not None:
        return f"{type(value).__name__} {tuple(shape)}"
    return text if len(text) <= _LABEL and text.isprintable() else f"{text[:_LABEL].splitlines()[0]}…"


def _lies_on(maps: Tensor, images: Tensor) -> bool:
    """Whether maps (N, K, *spatial) have the images' dimensions, but for one at most."""
    sizes, whole = tuple(maps.shape[2:]), tuple(images.shape[1:])
    return sizes in [whole, *(whole[:dim] + whole[dim + 1 :] for dim in range(len(whole)))]


def _compiled(model: nn.Module, one: Chosen, settings: Mapping[str, Any]) -> Explainer:
    name, options = one if isinstance(one, tuple) else (one, None)
    return compile(model, method=name, options=options, **settings)


def _title(one: Chosen) -> str:
    name = META if isinstance(one, MetaOptions) else one[0] if isinstance(one, tuple) else one
    return REGISTRY[name].title if isinstance(name, str) else ""
