"""Class names: reading them from a file, and finding the class that a user means."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agf_fx.errors import ModelLoadError, TargetError
from agf_fx.regular import read_regular

_LONGEST = 64 * 2**20  # bytes of a file of class names


def read_class_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Read class names, in the order of the network's outputs.

    Args:
        path: a ``.json`` file with a list of names or an object from index to name
            (``{"0": "cat", "1": "dog"}``), or a text file with one name per line.

    Returns:
        The names.

    Raises:
        ModelLoadError: the file is missing, cannot be read or has another form.
    """
    path = Path(path)
    try:
        text = read_regular(path, _LONGEST).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path}: class names cannot be read ({error}); give a UTF-8 text or JSON file") from error
    names = _from_json(path, text) if path.suffix.lower() == ".json" else _from_lines(text)
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise ModelLoadError(f"{path}: class names must be non-empty texts, one per class; fill in the file")
    return tuple(name.strip() for name in names)


def class_index(text: str, class_names: Sequence[str]) -> int:
    """The class that ``text`` means: a class name first, else an index.

    An exact name wins over one that differs in upper and lower case, and a name wins over an index, so for a
    class called ``"7"`` that is not class 7 the name counts.

    Args:
        text: a class name, or an index written in decimal digits.
        class_names: the name of each class.

    Returns:
        The index of the class, from 0.

    Raises:
        TargetError: no class is called so, several are, or the index is out of range.
    """
    text = text.strip()
    folded = text.casefold()
    exact = [index for index, name in enumerate(class_names) if name == text]
    matches = exact or [index for index, name in enumerate(class_names) if name.casefold() == folded]
    if len(matches) > 1:
        raise TargetError(f"several classes are called {text!r}; give one of the indices {_list(matches)}")
    if matches:
        return matches[0]
    if text.isascii() and text.isdecimal() and len(text) <= 12 and int(text) < len(class_names):
        return int(text)
    raise TargetError(f"unknown class {text!r}; {_advice(text, class_names)}")


def _advice(text: str, class_names: Sequence[str]) -> str:
    last = len(class_names) - 1
    close = difflib.get_close_matches(text.casefold(), {name.casefold(): None for name in class_names}, n=3)
    if close:
        return f"did you mean {_list(close, 'or')}? (indices go from 0 to {last})"
    some = f", names like {_list(class_names[:3])}" if [*class_names] != [*map(str, range(last + 1))] else ""
    return f"give an index from 0 to {last}{some}"


def _from_lines(text: str) -> list[str]:
    return text.rstrip().splitlines()


def _from_json(path: Path, text: str) -> list[Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelLoadError(f"{path}: is not valid JSON ({error}); correct it") from error
    if isinstance(value, dict):
        indices = [str(index) for index in range(len(value))]
        if set(value) != set(indices):
            raise ModelLoadError(f'{path}: keys must be the class indices "0" to "{len(value) - 1}"; correct them')
        return [value[index] for index in indices]
    if isinstance(value, list):
        return value
    raise ModelLoadError(f"{path}: must hold a list of names or an object from index to name; correct it")


def _list(items: Sequence[Any], word: str = "and") -> str:
    texts = [str(item) for item in items]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} {word} {texts[-1]}"
