"""Masks that are kept as pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from agf_fx.data.datasets.files import few
from agf_fx.errors import ExampleError
from agf_fx.regular import open_regular

VOID, WIDE_VOID = 255, 65535
_FORMATS = ("PNG", "BMP", "DIB", "GIF", "TIFF", "PPM")  # those that keep values as they are
_STEPS = {"L;2": 85, "L;4": 17}  # by which Pillow spreads grey levels of few bits over 0..255


def read_values(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Read a picture of class numbers: of a palette picture the palette's indices, of a grey one its levels.

    Args:
        path: the file.
        size: (width, height) of the image it belongs to.

    Returns:
        Integer or bool (H, W).

    Raises:
        ExampleError: it cannot be read, has colours without a palette, or another size.
    """
    try:
        Image.init()
        with open_regular(path) as file, Image.open(file, formats=_FORMATS) as picture:
            if picture.size != size:
                raise ExampleError(wrong_size(path, picture.size, size))
            if picture.mode not in ("P", "L", "1", "I", "I;16"):
                raise ExampleError(
                    f"{path}: has colours (mode {picture.mode}) in place of class numbers; save it with one channel"
                )
            step = _STEPS.get(picture.tile[0][3]) if picture.tile else None  # known until the pixels are read
            values = np.array(picture)
            return values // step if step else values
    except ExampleError:
        raise
    except FileNotFoundError as error:
        raise ExampleError(f"{path}: no such mask; add it, or leave the image out") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ValueError, ...
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ExampleError(f"{path}: is no mask that can be read ({reason}); save it as PNG") from error


def read_object(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Read a mask of one object, bool (H, W): the pixels of its one value that is not zero.

    Raises:
        ExampleError: as for `read_values`, and where it has several values besides zero.
    """
    values = read_values(path, size)
    present = [value for value in np.unique(values).tolist() if value]
    if len(present) > 1:
        raise ExampleError(
            f"{path}: holds the values {few(present)}, where the mask of an object has one besides 0; "
            "list what they mean in classes.txt, or make it black and white"
        )
    return values != 0


def wrong_size(place: object, found: tuple[int, int], wanted: tuple[int, int]) -> str:
    """The message about a mask of another size than its image; sizes are (width, height)."""
    turned = "; is the image turned by its EXIF orientation, and the mask not?" if found == wanted[::-1] else ""
    return (
        f"{place}: the mask has {found[0]}x{found[1]} pixels, its upright image {wanted[0]}x{wanted[1]}; "
        f"make them equal{turned}"
    )


def read_by_class(path: Path, size: tuple[int, int], count: int) -> tuple[tuple[int, ...], np.ndarray, np.ndarray]:
    """Read a picture of class numbers: 0 is the background, ``1 + c`` class c, `VOID` pixels that are to be ignored.

    With 255 classes or more, `WIDE_VOID` takes the place of `VOID`.

    Args:
        path: the file.
        size: (width, height) of the image it belongs to.
        count: how many classes there are.

    Returns:
        The K classes present, ascending; bool (K, H, W), their pixels; and bool (H, W), the void pixels.

    Raises:
        ExampleError: as for `read_values`, and where another number occurs.
    """
    values = read_values(path, size)
    void = VOID if count < VOID else WIDE_VOID
    present = np.setdiff1d(values, (0, void)).tolist()
    unknown = [value for value in present if not 1 <= value <= count]
    if unknown:
        raise ExampleError(
            f"{path}: holds the values {few(unknown)}; classes have 1 to {count}, the background 0 and void {void}"
        )
    masks = np.stack([values == value for value in present]) if present else np.zeros((0, *values.shape), dtype=bool)
    return tuple(value - 1 for value in present), masks, values == void
