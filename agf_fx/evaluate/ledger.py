"""What an evaluation has found, on disk as it goes: a run that was stopped goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agf_fx.atomic import save_json
from agf_fx.errors import OptionsError

Row = dict[str, Any]


class Ledger:
    """Rows of methods and images in a folder.

    ``experiment.json`` says what is measured of what, from the first rows on; ``rows.jsonl`` has one line for each
    batch and method, which is written as a whole: a line that was cut off is not there.
    """

    def __init__(
        self,
        folder: Path,
        experiment: Mapping[str, Any],
        methods: Mapping[str, str] | None = None,
        images: Mapping[str, str] | None = None,
    ) -> None:
        """Open a folder, or make it.

        Args:
            folder: where to keep rows.
            experiment: what makes rows comparable: experiment, options, model, data; as JSON has it.
            methods: what each method's label stands for, in words; others than those that are there may be added.
            images: name -> what is known of it, such as its classes, of all images that are asked for. Rows of others
                do not count, nor do those of images of which something else was known: these are measured again. None:
                all count.

        Raises:
            OptionsError: the folder holds rows of something else, one label stands for two methods, or a file is
                damaged.
        """
        self.path = folder / "rows.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        about, said = folder / "experiment.json", json.loads(json.dumps(experiment))
        if not about.exists() and self.path.exists():
            if any(line["images"] for line in self._read()):
                raise OptionsError(
                    f"{self.path} has rows, and {about.name} beside it, which says what they are of, is missing. Put "
                    "it back, or name another folder."
                )
            self.path.unlink()  # failures alone, of what nobody remembers
        there = _read_json(about) if about.exists() else {**said, "methods": {}}
        self.methods: dict[str, str] = there.pop("methods", {})
        _same(folder, there, said)
        self._about, self._said, self._told = about, said, dict(methods or {})
        shared = self.methods.keys() & self._told.keys()
        _same(
            folder,
            {label: self.methods[label] for label in shared},
            {label: self._told[label] for label in shared},
        )
        self._images = images
        self._lines = list(self._read())
        self._done = {
            (line["method"], name) for line in self._lines for name in line["images"] if self._counts(line, name)
        }
        failures = {
            (line["method"], name): why
            for line in self._lines
            for name, why in line["failures"].items()
            if self._counts(line, name)
        }
        self.failures = {key: why for key, why in failures.items() if key not in self._done}

    def has(self, method: str, image: str) -> bool:
        """Whether the rows of a method and an image are there."""
        return (method, image) in self._done

    def add(self, method: str, images: Iterable[str], rows: Iterable[Row], failures: Mapping[str, str]) -> None:
        """Keep the rows of some images, and why others have none; those are tried again by a later run."""
        line: Row = {"method": method, "images": [*images], "rows": [*rows], "failures": dict(failures)}
        if self._images is not None:
            line["known"] = {
                name: self._images[name] for name in (*line["images"], *failures) if self._images.get(name)
            }
        if line["images"] and (not self._about.exists() or self._told.get(method) != self.methods.get(method)):
            if method in self._told:
                self.methods[method] = self._told[method]
            save_json(self._about, {**self._said, "methods": self.methods})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._lines.append(line)
        self._done |= {(method, name) for name in line["images"]}
        for name in line["images"]:
            self.failures.pop((method, name), None)
        self.failures |= {(method, name): why for name, why in failures.items()}

    @property
    def rows(self) -> list[Row]:
        """All rows that count, each with its ``method``."""
        return [
            {"method": line["method"], **row}
            for line in self._lines
            for row in line["rows"]
            if self._counts(line, row["image"])
        ]

    def _counts(self, line: Row, name: str) -> bool:
        """Whether an image is asked for, and what was known of it is what is known now."""
        if self._images is None:
            return True
        return name in self._images and line.get("known", {}).get(name, "") == self._images[name]

    def _read(self) -> Iterator[Row]:
        """The lines that are whole; a part of one at the end is taken off the file."""
        if not self.path.exists():
            return
        text = self.path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                yield _line(json.loads(line))
            except ValueError as error:
                raise OptionsError(
                    f"{self.path}: line {number} is damaged ({error}). Take it out of the file; what it had is "
                    "measured again."
                ) from error


def _line(read: Any) -> Row:
    """A line of the file, if it is one.

    Raises:
        ValueError: it is something else.
    """
    kinds = {"method": str, "images": list, "rows": list, "failures": dict}
    if not isinstance(read, dict) or any(not isinstance(read.get(name), kind) for name, kind in kinds.items()):
        raise ValueError(f"it has not {', '.join(kinds)}")
    return read


def _read_json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(read, dict) or not isinstance(read.get("methods", {}), dict):
            raise ValueError("it says nothing of an experiment")
        return read
    except ValueError as error:
        raise OptionsError(
            f"{path} is damaged ({error}). Name another folder; the rows beside it belong to what it said."
        ) from error


def _same(folder: Path, there: Mapping[str, Any], said: Mapping[str, Any]) -> None:
    differs = sorted(key for key in {*there, *said} if there.get(key) != said.get(key))
    if differs:
        told = "; ".join(f"{key}: {there.get(key)!r} there, {said.get(key)!r} now" for key in differs)
        raise OptionsError(f"{folder} holds an evaluation of something else ({told}). Name another folder.")
