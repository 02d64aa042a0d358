"""The methods that agf-fx knows, by name: one entry a method."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from agf_fx.errors import OptionsError
from agf_fx.methods.method import Method


class Properties(NamedTuple):
    """What a method is, in the columns of Tab. 1 of Gur, Ali and Wolf (2021).

    Attributes:
        gradients: whether it reads gradients.
        attribution: whether it propagates relevance.
        class_specific: whether it is made to tell classes apart.
        reaches_input: whether its maps are of the images' pixels, not of an inner layer resized.
    """

    gradients: bool
    attribution: bool
    class_specific: bool
    reaches_input: bool


@dataclass(frozen=True)
class NoOptions:
    """For methods without options."""


@dataclass(frozen=True)
class Entry:
    """A method in the registry.

    Attributes:
        name: what users call it, with hyphens.
        title: one line.
        citation: whose it is, and where it was published.
        properties: see `Properties`.
        make: options -> the method.
        options: a frozen dataclass; its fields are the options.
    """

    name: str
    title: str
    citation: str
    properties: Properties
    make: Callable[[Any], Method]
    options: type = NoOptions

    def chosen(self, options: object) -> Any:
        """Options as the method's own dataclass.

        Args:
            options: an instance of it; a mapping, option -> value; or None for the defaults.

        Raises:
            OptionsError: it is something else, an option is unknown, or a value has no meaning.
        """
        if options is None:
            return self.options()
        if type(options) is self.options:
            return options
        if isinstance(options, Mapping):
            for name in options:
                self._check_option(name)
            return self.options(**options)
        wanted = "none" if self.options is NoOptions else self.options.__name__
        raise OptionsError(
            f"options is a {type(options).__name__}; {self.name!r} takes {wanted}, or a mapping with {self._listed()}."
        )

    def parsed(self, assignments: Iterable[str]) -> Any:
        """Options from words such as ``"epsilon=0.1"``.

        Raises:
            OptionsError: as for `chosen`, or a value cannot be read.
        """
        hints, found = typing.get_type_hints(self.options), {}
        for assignment in assignments:
            name, sign, text = assignment.partition("=")
            name = name.strip().replace("-", "_")
            if not sign:
                raise OptionsError(f"option {assignment!r} has no value; write {assignment}=VALUE.")
            self._check_option(name)
            found[name] = _value(name, text.strip(), hints[name])
        return self.options(**found)

    def _check_option(self, name: object) -> None:
        known = [field.name for field in fields(self.options)]
        if name not in known:
            raise OptionsError(f"{self.name!r} has no option {name!r}{_nearest(name, known)}; it has {self._listed()}.")

    def _listed(self) -> str:
        return ", ".join(field.name for field in fields(self.options)) or "no options"


def _value(name: str, text: str, hint: Any) -> Any:
    """A value of the type of an option from its text."""
    if text == "none" and hint is not str:
        return None
    refused: OptionsError | None = None
    kinds = [kind for kind in typing.get_args(hint) if kind is not types.NoneType] if _is_union(hint) else [hint]
    for kind in kinds:
        if typing.get_origin(kind) is tuple:
            inner = typing.get_args(kind)[0]
            return tuple(_value(name, part.strip(), inner) for part in text.split(","))
        try:
            return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
        except OptionsError as error:  # says more than a type does
            refused = error
        except (ValueError, KeyError):
            continue
    if refused is not None:
        raise refused
    words = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
    raise OptionsError(f"option {name} is {text!r}; give a value of type {words}.")


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _nearest(name: object, known: Iterable[str]) -> str:
    names = [*known]
    longer = [one for one in names if one.startswith(f"{name}-")]
    close = longer or difflib.get_close_matches(str(name), names, 1, 0.5)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""


def plain(options: object) -> dict[str, Any]:
    """Options as plain values, by name; tensors, and what is fitted to data, by a digest."""
    known = bool | int | float | str | tuple | list | dict | None
    given = vars(options).items()
    return {name: value if isinstance(value, known) else getattr(value, "digest", str(value)) for name, value in given}


class Registry(Mapping[str, Entry]):
    """Entries by name. Underscores in a name are read as hyphens."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = {entry.name: entry for entry in entries}

    def __getitem__(self, name: str) -> Entry:
        """The entry of a method.

        Raises:
            OptionsError: there is none; which there are.
        """
        if not isinstance(name, str):
            raise OptionsError(f"method is {name!r}; give a name, or a Method of your own. {self._listed()}")
        hyphenated = name.replace("_", "-")
        if hyphenated not in self._entries:
            raise OptionsError(f"no method {name!r}{_nearest(hyphenated, self._entries)}. {self._listed()}")
        return self._entries[hyphenated]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.replace("_", "-") in self._entries

    def __iter__(self) -> typing.Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def _listed(self) -> str:
        return f"There are {', '.join(map(repr, self._entries))}."


def documented(options: type) -> dict[str, str]:
    """What the docstring of a class of options says of each, on one line."""
    found: dict[str, str] = {}
    name = ""
    for line in (options.__doc__ or "").partition("Attributes:")[2].splitlines():
        text = line.strip()
        if text.startswith("Raises:"):
            break
        head, colon, rest = text.partition(": ")
        if colon and head.isidentifier() and len(line) - len(line.lstrip()) == 8:
            name, found[head] = head, rest
        elif name and text:
            found[name] += f" {text}"
    return found
