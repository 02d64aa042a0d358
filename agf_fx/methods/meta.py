"""Meta-saliency: any method, with weights that a step of gradient descent towards the target has moved.

Rebuffi, Fong, Ji and Vedaldi (CVPR 2020, sec. 4): what one step of learning the target at this image would change is
what the network looks at. θ' = θ - lr · ∇_θ CE(f_θ(x), t), for each image and target alone; the map is that of f_θ'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from agf_fx import methods
from agf_fx.errors import OptionsError
from agf_fx.methods.method import Method, Step
from agf_fx.methods.needs import several_classes
from agf_fx.methods.registry import Entry, Properties
from agf_fx.options import require_number, require_one_of

META = "meta"


@dataclass(frozen=True)
class MetaOptions:
    """Options of meta-saliency.

    Attributes:
        method: the method that explains: a name, or a `agf_fx.methods.method.Method` of your own.
        lr: the length of the step.
        sign: 1 for a step towards the target, as published; -1 for one away from it, the adversarial direction.
        options: of the method that explains, as `agf_fx.compile` takes them; or words, ``("epsilon=0.1", ...)``.

    Raises:
        OptionsError: a value has no meaning, or the method is meta-saliency itself.
    """

    method: str | Method = "normgrad"
    lr: float = 0.001
    sign: int = 1
    options: tuple[str, ...] | Any = None

    def __post_init__(self) -> None:
        require_number("lr", self.lr, above=0)
        require_one_of("sign", self.sign, (1, -1))
        if isinstance(self.method, Method):
            self._check_own(self.method)
            return
        entry = methods.REGISTRY[self.method]
        if entry.name == META:
            raise OptionsError(_ONE_STEP)
        object.__setattr__(self, "method", entry.name)
        if isinstance(self.options, list | tuple):
            object.__setattr__(self, "options", entry.parsed(_assignments(self.options)))
        elif self.options is not None:
            object.__setattr__(self, "options", entry.chosen(self.options))

    def _check_own(self, method: Method) -> None:
        if method.step is not None:
            raise OptionsError(_ONE_STEP)
        if self.options is not None:
            raise OptionsError("a Method of your own has no options; leave options=None.")

    @property
    def made(self) -> Method:
        """The method that explains."""
        if isinstance(self.method, Method):
            return self.method
        entry = methods.REGISTRY[self.method]
        return entry.make(entry.chosen(self.options))


_ONE_STEP = "meta takes one step, and the method inside is meta, too; name the method that explains, as 'normgrad'."


def _assignments(words: list[str] | tuple[str, ...]) -> list[str]:
    """Words of options, put together again where a comma inside a value has cut them: ("layers=a", "b")."""
    found: list[str] = []
    for word in words:
        if not isinstance(word, str):
            raise OptionsError(f"options is {words!r}; give a mapping, or words such as 'epsilon=0.1'.")
        if "=" in word or not found:
            found.append(word)
        else:
            found[-1] += f",{word}"
    return found


def meta(
    method: str | Method = "normgrad", lr: float = 0.001, sign: int = 1, *, options: Mapping[str, Any] | Any = None
) -> MetaOptions:
    """Meta-saliency of a method: ``agf_fx.compile(model, method=agf_fx.meta("normgrad", lr=0.01))``.

    For every image x and target t alone, all parameters move by one step of gradient descent,
    θ' = θ - lr · sign · ∇_θ CE(f_θ(x), t), and the method explains t with θ' (Rebuffi et al., CVPR 2020, sec. 4).
    Buffers, as the statistics of batch norms, stay; the model is not touched. Logits, and the classes that ranks stand
    for, are those of θ.

    Args:
        method: a name in ``agf_fx.methods.REGISTRY``, or a `agf_fx.methods.method.Method` of your own.
        lr: the length of the step, above 0.
        sign: 1 towards the target, -1 away from it.
        options: of the method, as `agf_fx.compile` takes them.

    Returns:
        What `agf_fx.compile` takes as ``method``; the same as ``method="meta"`` with these options.

    Raises:
        OptionsError: an unknown method or option, a value without meaning, or meta inside of meta.
    """
    return MetaOptions(method, lr, sign, options)


def stepped(options: MetaOptions) -> Method:
    """The method that explains, with a step in front.

    Raises:
        OptionsError: it was fitted to the weights that the step moves.
    """
    inside = options.made
    if inside.accepts is not None:
        raise OptionsError(
            f"{inside.name} was fitted to the weights of the model, which a step moves; choose another method for meta."
        )
    needs = (several_classes(META), *inside.needs)
    return replace(inside, name=META, needs=needs, step=Step(options.lr, options.sign))


ENTRIES = (
    Entry(
        name=META,
        title="meta-saliency: another method, behind a step of gradient descent towards the target",
        citation="Rebuffi, Fong, Ji and Vedaldi, CVPR 2020",
        properties=Properties(gradients=True, attribution=False, class_specific=True, reaches_input=False),
        make=stepped,
        options=MetaOptions,
    ),
)
