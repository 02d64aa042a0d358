"""WordNet ids of ImageNet's classes, and the files that say which class has which index."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agf_fx.data.datasets.files import few, needed, read_lines, read_text
from agf_fx.errors import DatasetError

ILSVRC_CLASSES = 1000
WORDNET_ID = re.compile(r"n\d{8}")
MAPPINGS = ("LOC_synset_mapping.txt", "imagenet_class_index.json")


@dataclass(frozen=True)
class Synsets:
    """The classes: class c has the c-th of the sorted WordNet ids.

    Attributes:
        ids: WordNet ids, sorted.
        names: of each class.
    """

    ids: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def from_names(cls, names: dict[str, str]) -> Synsets:
        """From the name of each WordNet id."""
        ids = tuple(sorted(names))
        return cls(ids, tuple(names[wordnet_id] for wordnet_id in ids))

    def indices(self) -> dict[str, int]:
        """The index of each WordNet id."""
        return {wordnet_id: index for index, wordnet_id in enumerate(self.ids)}


def synsets_of(found: Collection[str], where: Path, mapping: Path | None) -> Synsets:
    """The classes of a dataset in which these WordNet ids occur.

    Args:
        found: the ids.
        where: what they were found in, for messages.
        mapping: a file that lists all classes; without one, the ids must be all 1000 of ILSVRC.

    Raises:
        DatasetError: there is no mapping and there are not 1000 ids; or it lacks some of them, or cannot be read.
    """
    if mapping is None:
        if len(found) != ILSVRC_CLASSES:
            raise DatasetError(
                f"{where}: {len(found)} classes, of which the indices among ImageNet's {ILSVRC_CLASSES} cannot be "
                f"told; put {' or '.join(MAPPINGS)} beside it, or give one as mapping"
            )
        return Synsets.from_names({wordnet_id: wordnet_id for wordnet_id in found})
    synsets = read_mapping(mapping)
    if unknown := sorted(set(found) - set(synsets.ids)):
        raise DatasetError(
            f"{where}: {few(unknown)} not among the {len(synsets.ids)} classes of {mapping}; give another mapping"
        )
    return synsets


def read_mapping(path: Path) -> Synsets:
    """Read ``LOC_synset_mapping.txt`` (``n01440764 tench, Tinca tinca``) or ``imagenet_class_index.json``
    (``{"0": ["n01440764", "tench"], ...}``).

    Raises:
        DatasetError: the file cannot be read, has another form, or indices that are not those of sorted ids.
    """
    if path.suffix.lower() != ".json":
        return _checked(path, [line.partition(" ")[::2] for line in read_lines(path)])
    try:
        table = json.loads(read_text(path))
        rows = [tuple(map(str, table[str(index)])) for index in range(len(table))]
        pairs = [(wordnet_id, name) for wordnet_id, name in rows]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise DatasetError(
            f'{path}: is not of the form {{"0": ["n01440764", "tench"], ...}} ({error!r}); download it again'
        ) from error
    synsets = _checked(path, pairs)
    if [wordnet_id for wordnet_id, _ in pairs] != [*synsets.ids]:
        raise DatasetError(f"{path}: its indices are not the order of the WordNet ids; use {MAPPINGS[0]}")
    return synsets


def read_meta(path: Path) -> tuple[Synsets, dict[int, str]]:
    """Read ``meta.mat`` of the development kit: the classes, and the WordNet id of each ``ILSVRC2012_ID``.

    Only the classes without children are classes of the challenge. Their ILSVRC2012_ID, from 1, has another order.

    Raises:
        DatasetError: the file cannot be read or has another form.
        MissingDependencyError: scipy is not installed.
    """
    loadmat = needed("scipy.io", "the labels of ImageNet's development kit").loadmat
    try:
        synsets = np.atleast_1d(loadmat(str(path), squeeze_me=True)["synsets"])
        leaves = synsets[synsets["num_children"].astype(int) == 0]
        numbers = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in leaves}
        found = _checked(path, [(str(row["WNID"]), str(row["words"])) for row in leaves])
    except DatasetError:
        raise
    except Exception as error:  # scipy raises OSError, ValueError, TypeError, KeyError, MatReadError, zlib.error, ...
        raise DatasetError(
            f"{path}: is not meta.mat of ILSVRC2012_devkit_t12, with ILSVRC2012_ID, WNID, words and num_children of "
            f"synsets ({error!r}); unpack the development kit again"
        ) from error
    return found, numbers


def _checked(path: Path, pairs: list[tuple[str, str]]) -> Synsets:
    wrong = [wordnet_id for wordnet_id, _ in pairs if not WORDNET_ID.fullmatch(wordnet_id)]
    if wrong or not pairs or len(dict(pairs)) < len(pairs):
        what = f"{wrong[0]!r} is no WordNet id" if wrong else "it has no classes, or one of them twice"
        raise DatasetError(f"{path}: {what}, such as n01440764; download it again")
    return Synsets.from_names(dict(pairs))
