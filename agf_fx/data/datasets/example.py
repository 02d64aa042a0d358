"""One example of a dataset, and what every dataset can do."""

from __future__ import annotations

import hashlib
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from agf_fx.errors import ExampleError, ImageError


@dataclass(frozen=True, eq=False)
class Example:
    """An image with what is known of it.

    Attributes:
        name: unique in the dataset.
        image: Pillow image in mode ``"RGB"``, upright, of H by W pixels.
        classes: indices of the classes shown, each once; empty where the format says none.
        masks: bool (K, H, W), the pixels of each of ``classes`` in their order; (1, H, W) where the format marks an
            object without saying its class; None where it marks none.
        ignored: bool (H, W), pixels that count neither as object nor as background; None where there are none.
    """

    name: str
    image: Image.Image
    classes: tuple[int, ...] = ()
    masks: np.ndarray | None = None
    ignored: np.ndarray | None = None


class Dataset(ABC):
    """Examples in a fixed order, read one at a time when they are asked for; it can be pickled.

    Either all examples of a dataset have masks, or none.

    Attributes:
        name: the kind of dataset, and its part where there are several, as ``voc2012-val``.
        class_names: the name of each class, in the order of the indices; None where they are unknown.
    """

    name: str
    class_names: tuple[str, ...] | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def example_name(self, index: int) -> str:
        """The name of example ``index``, 0 or more, without reading it."""

    @abstractmethod
    def _read(self, index: int) -> Example:
        """Read example ``index``, 0 or more, which exists.

        Raises:
            ImageError, ExampleError: it cannot be read.
        """

    def known(self, index: int) -> str:
        """What is known of example ``index`` besides its name, without reading pictures: its classes and annotations.

        Where it is another text, something else is known of an example of the same name. By default nothing is.
        """
        return ""

    def _shared(self) -> Iterable[object]:
        """What all examples depend on: parameters, and files that hold all of them; things with a ``repr``.

        Raises:
            DatasetError: a file cannot be read.
        """
        return ()

    @cached_property
    def parameters(self) -> str:
        """A digest of what all examples depend on, such as a file that holds them; the same wherever it lies.

        Raises:
            DatasetError: a file cannot be read.
        """
        return _digest(self._shared())

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the data as far as it is known without reading pictures; where it lies does not matter.

        Other names or classes of examples give another one, and so do other lists and annotations.

        Raises:
            DatasetError: a list cannot be read.
        """
        each = ((self.example_name(index), self.known(index)) for index in range(len(self)))
        return _digest([self.class_names, self.parameters, *each])

    def __getitem__(self, index: int) -> Example:
        """Read an example.

        Args:
            index: its position; negative ones count from the end.

        Raises:
            ExampleError: it cannot be read; the message names the file, ``name`` the example.
            IndexError: there is none at ``index``.
        """
        index = range(len(self))[operator.index(index)]
        try:
            return self._read(index)
        except (ImageError, ExampleError) as error:
            raise ExampleError(str(error), name=self.example_name(index)) from error


def _digest(parts: Iterable[object]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(repr(part).encode() + b"\n")
    return found.hexdigest()[:16]
