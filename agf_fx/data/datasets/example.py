"""One example of a dataset, and what every dataset can do."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from dataclasses import dataclass

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
