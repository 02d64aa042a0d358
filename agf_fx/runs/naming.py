"""File names for the outputs: readable, and never the same for two images or two targets."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

_MAX_BYTES = 120  # of a stem; leaves room for class and ending within the 255 bytes of most file systems
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')


def unique_stems(paths: Sequence[Path]) -> dict[Path, str]:
    """A stem for each image: its own, made longer only where two images would share it.

    What is tried, in this order: the file's stem; with its ending (``cat-jpg``); with the folder's name
    (``train-cat``); with both; with a hash of the whole path. Names that differ only in upper and lower case
    count as the same, for file systems that do not tell them apart. The result depends only on ``paths``.
    """
    stems: dict[Path, str] = {}
    taken: set[str] = set()
    remaining = list(paths)
    for candidate in _CANDIDATES:
        proposed = {path: clean(candidate(path)) for path in remaining}
        counts = Counter(_key(stem) for stem in proposed.values())
        free = {path: stem for path, stem in proposed.items() if counts[_key(stem)] == 1 and _key(stem) not in taken}
        stems |= free
        taken |= {_key(stem) for stem in free.values()}
        remaining = [path for path in remaining if path not in stems]
    for path in remaining:
        stems[path] = clean(_digest(path, 64))
    return stems


def output_stem(stem: str, index: int, name: str) -> str:
    """Name of the files of one map, without ending: ``scene.class-281-tabby``, or ``scene.class-3``.

    The class part holds no dot, so image and class can be told apart again.
    """
    slug = re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-")[:40]
    return f"{stem}.class-{index}" if slug in ("", str(index)) else f"{stem}.class-{index}-{slug}"


def clean(text: str) -> str:
    """``text`` as a part of a file name that every usual file system takes."""
    text = "".join(map(_visible, _FORBIDDEN.sub("_", text.encode("utf-8", "replace").decode())))
    text = text.lstrip(".").strip() or "image"
    return text.encode()[:_MAX_BYTES].decode(errors="ignore")


def _visible(character: str) -> str:
    """A character as it is, or "_" for one that controls, turns or hides text, as U+202E does."""
    category = unicodedata.category(character)
    return "_" if category in ("Cc", "Cf", "Cs", "Zl", "Zp") else character


def _key(stem: str) -> str:
    return unicodedata.normalize("NFC", stem).casefold()


def _digest(path: Path, length: int) -> str:
    digest = hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()
    return f"{digest[:length]}-{path.stem}"


def _folder(path: Path) -> str:
    return Path(os.path.abspath(path)).parent.name


_CANDIDATES: tuple[Callable[[Path], str], ...] = (
    lambda path: path.stem,
    lambda path: f"{path.stem}-{path.suffix[1:]}",
    lambda path: f"{_folder(path)}-{path.stem}",
    lambda path: f"{_folder(path)}-{path.stem}-{path.suffix[1:]}",
    lambda path: _digest(path, 8),
)
