"""Read any image file as an upright 8-bit RGB picture."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from agf_fx.errors import ImageError
from agf_fx.regular import open_regular

DEFAULT_MAX_PIXELS = 100_000_000
"""Largest image that is decoded unless the caller says otherwise: 100 megapixels, which take 400 MB as RGB and up to
twice that while they are converted. Pixels of more than three bytes count twice: transparency, 16 bits, floats."""

FORMATS = (
    *("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM"),
    *("JPEG2000", "AVIF", "QOI", "ICO", "PCX", "TGA"),
)
"""What is tried, by Pillow's names. No other decoder is: some of them start programs, as Ghostscript for EPS."""

_STRIP = 2**20  # pixels that are converted at once

_TIFF_BITS_PER_SAMPLE = 258
_TIFF_PHOTOMETRIC = 262


def read_image(path: str | os.PathLike[str], *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Read an image file as an 8-bit RGB picture, turned upright.

    The first frame of an animation is taken. Transparent pixels are composited on white. Integer images of
    more than 8 bits are scaled by the range of their format (65535 for 16 bits, 4095 for 12), never clipped.
    Floating-point images are read on the range 0..1, 0..255 or 0..65535: the smallest one that holds all
    their values. An EXIF orientation is applied; colour profiles are not, as in torchvision.

    Args:
        path: the image file, in one of `FORMATS`.
        max_pixels: refuse larger images before decoding them; pixels of more than three bytes count twice.

    Returns:
        A Pillow image in mode ``"RGB"``.

    Raises:
        ImageError: the file is missing, not readable, a folder, empty, truncated, not an image, has more than
            ``max_pixels`` pixels, or holds values that have no defined meaning as a picture. The message is
            one line that starts with the path.
    """
    path = Path(path)
    _check_file(path)
    with warnings.catch_warnings():
        # Pillow warns about size (checked below) and about broken metadata (ignored: the pixels are there).
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return _decode(path, max_pixels)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a decoded Pillow image of any mode to 8-bit RGB, transparency composited on white.

    Raises:
        ImageError: the mode or its values have no defined meaning as a picture.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return _by_strips(image, _grey_levels(image))
    if image.has_transparency_data:
        return _by_strips(image, _on_white)
    return image.convert("RGB")


def _by_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert some rows at a time, so that what lies between does not take a multiple of the picture's memory."""
    whole = Image.new("RGB", image.size)
    for rows in _strips(image):
        whole.paste(convert(image.crop(rows)), rows)
    return whole


def _strips(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    width, height = image.size
    step = max(1, _STRIP // max(1, width))
    for top in range(0, height, step):
        yield 0, top, width, min(height, top + step)


def _on_white(image: Image.Image) -> Image.Image:
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layer).convert("RGB")


def _check_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise ImageError(f"{path}: is a folder; name an image file, or let find_images list the folder")
        if not path.exists():
            raise ImageError(f"{path}: no such file; check the path")
        if not path.is_file():
            raise ImageError(f"{path}: is not an ordinary file; save the image to a file first")
        if path.stat().st_size == 0:
            raise ImageError(f"{path}: the file is empty (0 bytes); copy or download it again")
    except (OSError, ValueError) as error:
        raise ImageError(f"{path!s}: cannot be looked up ({_reason(error)}); check the path") from error


def _decode(path: Path, max_pixels: int) -> Image.Image:
    try:
        # By file, not by name: Pillow maps files it opens by name into memory, and in that path it mixes up width
        # and height of an uncompressed TIFF whose orientation swaps them.
        with open_regular(path) as file, Image.open(file, formats=_formats()) as image:
            width, height = image.size
            counted = width * height * (2 if _is_wide(image) else 1)
            if counted > max_pixels:
                twice = ", which count twice" if counted > width * height else ""
                raise ImageError(_too_large(path, f"{width}x{height} pixels{twice}", max_pixels))
            image.load()
            ImageOps.exif_transpose(image, in_place=True)  # in place: keeps the TIFF tags that to_rgb reads
            return to_rgb(image)
    except ImageError as error:
        text = str(error)
        raise ImageError(text if text.startswith(str(path)) else f"{path}: {text}") from error
    except Image.DecompressionBombError as error:
        limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
        raise ImageError(_too_large(path, "over the limit", limit)) from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{path}: is not an image that can be read; convert it to PNG or JPEG") from error
    except PermissionError as error:
        raise ImageError(f"{path}: permission denied; make the file readable") from error
    except MemoryError as error:
        raise ImageError(f"{path}: not enough memory to decode it; make the image smaller") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ValueError, ...
        reason = _reason(error)[:300]
        raise ImageError(f"{path}: is damaged or truncated ({reason}); copy or download it again") from error


def _formats() -> list[str]:
    """Those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _too_large(path: Path, size: str, limit: int) -> str:
    return f"{path}: is too large ({size}, the limit is {limit:,}); make it smaller or raise max_pixels"


def _is_wide(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F" or image.has_transparency_data


def _grey_levels(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """The conversion of a one-channel image of more than 8 bits to grey levels, rounded to nearest."""
    full, inverted = _value_range(image), _white_is_zero(image)

    def convert(strip: Image.Image) -> Image.Image:
        values = np.asarray(strip).astype(np.float64)
        if inverted:
            values = full - values
        return Image.fromarray(np.rint(values * (255.0 / full)).astype(np.uint8)).convert("RGB")

    return convert


def _value_range(image: Image.Image) -> float:
    """Value that stands for white: known for integer formats, the smallest usual one for floats."""
    ends = [(values.min(), values.max()) for values in (np.asarray(image.crop(rows)) for rows in _strips(image))]
    low, high = float(np.min(ends)), float(np.max(ends))
    if not np.isfinite([low, high]).all():
        raise ImageError("has NaN or infinite pixels; replace them and save it again")
    ranges = (1.0, 255.0, 65535.0) if image.mode == "F" else (_integer_range(image),)
    fitting = [full for full in ranges if high <= full]
    if low < 0 or not fitting:
        raise ImageError(
            f"has values from {low:g} to {high:g}, outside 0..{ranges[-1]:g}; convert it to 8 or 16 bits first"
        )
    return fitting[0]


def _integer_range(image: Image.Image) -> float:
    bits = _tiff_tag(image, _TIFF_BITS_PER_SAMPLE, default=(16,))[0]
    return float(2**bits - 1) if bits < 16 else 65535.0


def _white_is_zero(image: Image.Image) -> bool:
    # Pillow inverts such TIFF files itself up to 8 bits only.
    return _tiff_tag(image, _TIFF_PHOTOMETRIC, default=1) == 0


def _tiff_tag(image: Image.Image, tag: int, *, default: object) -> object:
    return getattr(image, "tag_v2", {}).get(tag, default)


def _reason(error: BaseException) -> str:
    """Text of a foreign error on one line."""
    return " ".join(str(error).split()) or type(error).__name__
