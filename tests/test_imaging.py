"""Reading image files of every kind, preprocessing, and drawing maps."""

import json
import struct
import subprocess
import sys
import warnings
import zlib

import matplotlib
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from agf_fx.atomic import atomic_write, save_array, save_image, save_json
from agf_fx.errors import ImageError, InputError, NonFiniteInputError, OptionsError
from agf_fx.imaging import figure as figures
from agf_fx.imaging.find import find_images
from agf_fx.imaging.pixels import display_pixels
from agf_fx.imaging.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from agf_fx.imaging.read import DEFAULT_MAX_PIXELS, read_image
from agf_fx.imaging.render import (
    Panel,
    colorize,
    contact_sheet,
    diverging_colormap,
    map_panel,
    overlay,
    picture_panel,
)
from agf_fx.runtime.explanation import Explanation

RAMP = np.linspace(0, 1, 64).reshape(8, 8)
GREY = np.rint(RAMP * 255).astype(np.uint8)


def colours() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)


def read(path) -> np.ndarray:
    image = read_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def grey_of(pixels: np.ndarray) -> np.ndarray:
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def png(path, mode_bits: tuple[int, int], size: tuple[int, int], data: bytes) -> None:
    """A PNG written by hand, for headers that Pillow does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    bits, colour = mode_bits
    header = struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


# --- what is read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "bmp", "tiff", "webp", "ppm"])
def test_rgb_is_read_exactly(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    Image.fromarray(colours()).save(path, lossless=True)
    np.testing.assert_array_equal(read(path), colours())


def test_grey_becomes_three_equal_channels(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "x.png")
    np.testing.assert_array_equal(grey_of(read(tmp_path / "x.png")), GREY)


def test_one_bit_becomes_black_and_white(tmp_path):
    bits = np.arange(64).reshape(8, 8) % 3 == 0
    Image.fromarray(bits).save(tmp_path / "x.png")
    np.testing.assert_array_equal(grey_of(read(tmp_path / "x.png")), bits * 255)


def test_grey_with_alpha_is_composited_on_white(tmp_path):
    layers = np.stack([np.full((2, 3), 100, np.uint8), np.array([[0, 255, 128]] * 2, np.uint8)], axis=-1)
    Image.fromarray(layers, "LA").save(tmp_path / "x.png")
    expected = [255, 100, round((100 * 128 + 255 * 127) / 255)]
    np.testing.assert_allclose(grey_of(read(tmp_path / "x.png"))[0], expected, atol=1)


def test_rgba_is_composited_on_white(tmp_path):
    pixels = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [0, 0, 0, 51]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    np.testing.assert_allclose(read(tmp_path / "x.png")[0], [[255] * 3, [10, 20, 30], [204] * 3], atol=1)


@pytest.mark.parametrize("ending", ["png", "gif"])
def test_palette_with_transparent_entry(tmp_path, ending):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    path = tmp_path / f"x.{ending}"
    image.save(path, transparency=1)
    np.testing.assert_array_equal(read(path)[0], [[255, 0, 0], [255, 255, 255], [0, 0, 255]])


def test_palette_without_transparency(tmp_path):
    image = Image.fromarray(np.array([[1, 0]], np.uint8), "P")
    image.putpalette([9, 8, 7, 200, 100, 50])
    image.save(tmp_path / "x.png")
    np.testing.assert_array_equal(read(tmp_path / "x.png")[0], [[200, 100, 50], [9, 8, 7]])


def test_transparent_colour_of_rgb_png(tmp_path):
    Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)).save(tmp_path / "x.png", transparency=(1, 2, 3))
    np.testing.assert_array_equal(read(tmp_path / "x.png")[0], [[255] * 3, [4, 5, 6]])


@pytest.mark.parametrize("ending", ["jpg", "tiff"])
def test_cmyk(tmp_path, ending):
    inks = [((255, 0, 0, 0), (0, 255, 255)), ((0, 0, 0, 255), (0, 0, 0)), ((0, 0, 0, 0), (255, 255, 255))]
    for ink, light in inks:
        path = tmp_path / f"x.{ending}"
        Image.new("CMYK", (16, 16), ink).save(path)
        np.testing.assert_allclose(read(path)[8, 8], light, atol=3)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("x.png", "<u2"), ("x.tiff", "<u2"), ("x.tiff", ">u2"), ("x.tiff", "<i4"), ("x.pgm", "<u2"), ("x.jp2", "<u2")],
)
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, name, dtype):
    values = np.rint(np.linspace(0, 65535, 64 * 64)).reshape(64, 64).astype(dtype)
    path = tmp_path / name
    Image.fromarray(values).save(path)
    np.testing.assert_array_equal(grey_of(read(path)), np.rint(values / 257.0))


def test_dark_sixteen_bit_picture_stays_dark(tmp_path):
    Image.fromarray(np.full((4, 4), 300, np.uint16)).save(tmp_path / "x.png")
    assert (read(tmp_path / "x.png") == 1).all()


def test_sixteen_bit_rgb(tmp_path):
    row = struct.pack(">6H", 0, 32896, 65535, 257, 514, 771)
    png(tmp_path / "x.png", (16, 2), (2, 1), b"\0" + row)
    np.testing.assert_array_equal(read(tmp_path / "x.png")[0], [[0, 128, 255], [1, 2, 3]])


def tiff(path, bits: int, photometric: int, width: int, data: bytes) -> None:
    """A one-row TIFF written by hand."""
    entries = [(256, width), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, 1)]
    entries.append((279, len(data)))
    start = 8 + len(data) + len(data) % 2
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", t, 4, 1, v) for t, v in entries)
    path.write_bytes(b"II*\0" + struct.pack("<I", start) + data.ljust(start - 8, b"\0") + directory + bytes(4))


def test_sixteen_bit_tiff_with_white_as_zero(tmp_path):
    tiff(tmp_path / "x.tiff", 16, 0, 3, struct.pack("<3H", 0, 65535, 257 * 55))
    np.testing.assert_array_equal(grey_of(read(tmp_path / "x.tiff"))[0], [255, 0, 200])


def test_twelve_bit_tiff(tmp_path):
    tiff(tmp_path / "x.tiff", 12, 1, 2, bytes([0x00, 0x0F, 0xFF]))
    np.testing.assert_array_equal(grey_of(read(tmp_path / "x.tiff"))[0], [0, 255])


@pytest.mark.parametrize("full", [1.0, 255.0, 65535.0])
def test_float_images_by_their_range(tmp_path, full):
    Image.fromarray((RAMP * full).astype(np.float32)).save(tmp_path / "x.tiff")
    np.testing.assert_array_equal(grey_of(read(tmp_path / "x.tiff")), GREY)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.5, 70000.0])
def test_float_values_without_meaning_are_refused(tmp_path, bad):
    values = RAMP.astype(np.float32)
    values[3, 3] = bad
    Image.fromarray(values).save(tmp_path / "x.tiff")
    refused(tmp_path / "x.tiff", "NaN or infinite" if not np.isfinite(bad) else "values from")


def test_integers_beyond_sixteen_bits_are_refused(tmp_path):
    Image.fromarray(np.array([[0, 65536]], np.int32)).save(tmp_path / "x.tiff")
    refused(tmp_path / "x.tiff", "values from 0 to 65536")


ORIENTATIONS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("ending", ["png", "webp", "tiff"])
def test_exif_orientation(tmp_path, ending, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(colours()).save(tmp_path / f"x.{ending}", exif=exif, lossless=True)
    np.testing.assert_array_equal(read(tmp_path / f"x.{ending}"), ORIENTATIONS[orientation](colours()))


def test_exif_orientation_of_a_photograph(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    photo = Image.new("RGB", (32, 16), "red")
    photo.paste("blue", (0, 0, 16, 16))
    photo.save(tmp_path / "x.jpg", exif=exif, quality=95)
    pixels = read(tmp_path / "x.jpg").astype(int)
    assert pixels.shape == (32, 16, 3)
    np.testing.assert_allclose([pixels[4, 8], pixels[28, 8]], [[0, 0, 255], [255, 0, 0]], atol=8)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_sixteen_bit_with_orientation(tmp_path, compression):
    values = np.arange(6, dtype=np.uint16).reshape(2, 3) * 257 * 20
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(values).save(tmp_path / "x.tiff", exif=exif, compression=compression)
    np.testing.assert_array_equal(grey_of(read(tmp_path / "x.tiff")), np.rot90(values // 257, -1))


def test_damaged_exif_does_not_cost_the_image(tmp_path):
    Image.fromarray(colours()).save(tmp_path / "x.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read(tmp_path / "x.png"), colours())


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "tiff"])
def test_first_frame_of_an_animation(tmp_path, ending):
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "lime", "blue")]
    path = tmp_path / f"x.{ending}"
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    assert (read(path) == (255, 0, 0)).all()


# --- what is refused ----------------------------------------------------------------------------------------


def refused(path, *words: str, **options) -> None:
    with pytest.raises(ImageError) as caught:
        read_image(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_missing_empty_folder_and_text(tmp_path):
    refused(tmp_path / "gone.png", "no such file")
    refused(tmp_path, "is a folder")
    (tmp_path / "empty.png").touch()
    refused(tmp_path / "empty.png", "empty (0 bytes)")
    (tmp_path / "text.jpg").write_text("this is not an image")
    refused(tmp_path / "text.jpg", "is not an image")
    refused(tmp_path / ("n" * 300), "cannot be looked up")
    refused("a\0b.png")


def test_pipes_are_refused_without_waiting(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.png")
    refused(tmp_path / "pipe.png", "not an ordinary file")


def noise(size: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (size, size, 3), dtype=np.uint8))


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "tiff", "webp", "ppm"])
@pytest.mark.parametrize("share", [0.4, 0.9])
def test_truncated_files(tmp_path, ending, share):
    path = tmp_path / f"x.{ending}"
    noise().save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(path, "copy or download it again")


def image_or_our_error(path) -> None:
    try:
        image = read_image(path, max_pixels=10**6)
    except ImageError:
        refused(path, max_pixels=10**6)
    else:
        assert image.mode == "RGB"


def test_every_cut_of_a_file_gives_an_image_or_our_error(tmp_path):
    for ending in ("png", "gif", "jpg", "tiff", "webp", "ico"):
        whole, cut = tmp_path / f"whole.{ending}", tmp_path / f"cut.{ending}"
        noise(16).save(whole)
        data = whole.read_bytes()
        for length in range(1, len(data), max(1, len(data) // 40)):
            cut.write_bytes(data[:length])
            image_or_our_error(cut)


def test_flipped_bytes_give_an_image_or_our_error(tmp_path):
    rng = np.random.default_rng(3)
    for ending in ("png", "jpg", "tiff", "webp", "bmp"):
        path = tmp_path / f"x.{ending}"
        noise(16).save(path)
        data = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(25):
            damaged = data.copy()
            damaged[rng.integers(0, min(len(data), 200), 3)] = rng.integers(0, 256, 3)
            path.write_bytes(damaged.tobytes())
            image_or_our_error(path)


@pytest.mark.parametrize("side", [30_000, 12_000, 10_100])
def test_absurdly_large_images_are_refused_before_decoding(tmp_path, side):
    """The header alone says the size: there are no pixels in the file to decode."""
    png(tmp_path / "x.png", (8, 2), (side, side), b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(tmp_path / "x.png", "too large", f"{DEFAULT_MAX_PIXELS:,}", "max_pixels")


def test_max_pixels_is_a_bound_that_can_be_reached(tmp_path):
    Image.new("RGB", (20, 10)).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png", max_pixels=200).size == (20, 10)
    refused(tmp_path / "x.png", "20x10", "199", max_pixels=199)


# --- finding files ------------------------------------------------------------------------------------------


def test_find_images(tmp_path):
    for name in ("b/2.PNG", "b/10.jpg", "a.png", "b/c/3.webp", "b/.hidden.png", "b/.git/x.png", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "void").mkdir()
    (tmp_path / "b" / "loop").symlink_to(tmp_path / "b")
    named = [tmp_path / "a.png", tmp_path / "b", tmp_path / "gone", tmp_path / "void", tmp_path / "b" / "notes.txt"]
    found = find_images([*named, tmp_path / "b" / "c"])
    names = [str(path.relative_to(tmp_path)) for path in found.paths]
    assert names == ["a.png", "b/10.jpg", "b/2.PNG", "b/c/3.webp", "b/notes.txt"]
    assert [str(error).removeprefix(str(tmp_path)) for error in found.problems] == [
        "/gone: no such file or folder; check the path",
        "/void: no images in this folder; look for files like *.png, *.jpg",
    ]


def test_find_images_leaves_out_the_output_folder(tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("x.png", "out/x.png"):
        (tmp_path / name).touch()
    assert find_images([tmp_path], skip=tmp_path / "out").paths == [tmp_path / "x.png"]
    assert find_images([tmp_path / "out"], skip=tmp_path / "out").paths == [tmp_path / "out" / "x.png"]


# --- preprocessing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(300, 200), (224, 224), (97, 333)])
@pytest.mark.parametrize("name", ["ResNet50_Weights.IMAGENET1K_V2", "ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1"])
def test_preprocessing_equals_torchvisions(name, size):
    transforms = torchvision.models.get_weight(name).transforms()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    tensor, shown = Preprocessing.from_transforms(transforms).prepare(image)
    assert torch.equal(tensor, transforms(image))
    mean, std = np.array(transforms.mean), np.array(transforms.std)
    np.testing.assert_allclose(tensor.permute(1, 2, 0).numpy(), (shown / 255 - mean) / std, atol=1e-5)
    assert shown.dtype == np.uint8
    assert tensor.dtype == torch.float32


def test_every_classifier_of_torchvision_has_a_known_preset():
    models = torchvision.models
    for name in models.list_models(module=models):
        for entry in models.get_model_weights(name):
            transforms = entry.transforms()
            assert [Preprocessing.from_transforms(transforms).crop[0]] == transforms.crop_size


def test_describe_names_every_step():
    text = Preprocessing.square(64, mean=(0.5, 0.25, 0), std=(1, 1, 2)).describe()
    assert text == (
        "resize the shorter side to 64 (bilinear), crop the centre 64x64, scale to 0..1, "
        "subtract mean (0.5, 0.25, 0), divide by std (1, 1, 2)"
    )


def test_preprocessing_refuses_impossible_values():
    for bad in (
        {"resize": 0},
        {"crop": (0, 4)},
        {"std": (1, 0, 1)},
        {"std": (1, -1, 1)},
        {"mean": (0, 0)},
        {"mean": (0, float("nan"), 0)},
        {"interpolation": "magic"},
    ):
        with pytest.raises(OptionsError):
            Preprocessing(**bad)
    with pytest.raises(OptionsError, match="ImageClassification"):
        Preprocessing.from_transforms(torchvision.transforms.ToTensor())


def test_extremely_thin_images_do_not_exhaust_memory():
    preprocessing = Preprocessing.square(224, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    with pytest.raises(ImageError, match="too long and thin"):
        preprocessing.prepare(Image.new("RGB", (1, 60_000)))
    tensor, _ = preprocessing.prepare(Image.new("RGB", (1, 1)))
    assert tensor.shape == (3, 224, 224)


def test_preprocessing_without_resize_or_crop_keeps_the_size():
    tensor, shown = Preprocessing(resize=None, crop=None).prepare(Image.new("RGB", (7, 5)))
    assert tensor.shape == (3, 5, 7)
    assert shown.shape == (5, 7, 3)


# --- drawing ------------------------------------------------------------------------------------------------


def test_colours_are_symmetric_and_neutral_at_zero():
    pixels = colorize(np.array([[-2.0, -1.0, 0.0, 1.0, 2.0]]))[0].astype(int)
    red, blue = pixels[4], pixels[0]
    assert red[0] > red[2]
    assert blue[2] > blue[0]
    assert np.ptp(pixels[2]) == 0
    assert pixels[2].min() >= 245
    np.testing.assert_array_equal(colorize(np.array([[5e-9, -5e-9, 0]])), colorize(np.array([[3e9, -3e9, 0]])))


def test_one_sided_map_keeps_zero_neutral():
    assert np.ptp(colorize(np.array([[0.0, 3.0]]))[0, 0].astype(int)) == 0


def test_map_of_zeros_is_neutral():
    assert len(np.unique(colorize(np.zeros((4, 4))))) == 1


def test_limit_can_be_shared():
    np.testing.assert_array_equal(colorize(np.array([[1.0]]), limit=2.0)[0, 0], colorize(np.array([[1.0, 2.0]]))[0, 0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_maps_that_are_not_finite_are_refused(bad):
    with pytest.raises(NonFiniteInputError):
        colorize(np.array([[0.0, bad]]))


def test_unknown_colormap():
    with pytest.raises(OptionsError, match="RdBu_r"):
        diverging_colormap("no such map")


@pytest.mark.parametrize(("side", "scale"), [(64, 4), (224, 2), (300, 1), (1, 256)])
def test_overlay_shows_picture_and_map_side_by_side(side, scale):
    rng = np.random.default_rng(0)
    shown = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    relevance = rng.normal(size=(side, side))
    picture = overlay(shown, relevance)
    assert picture.mode == "RGB"
    assert picture.size == (2 * side * scale + 8, side * scale)
    left = picture.crop((0, 0, side * scale, side * scale))
    assert left == picture_panel(shown)
    plain = np.asarray(map_panel(shown, relevance, backdrop=0.0))
    np.testing.assert_array_equal(plain[::scale, ::scale], colorize(relevance))


def test_overlay_refuses_what_does_not_fit():
    shown = np.zeros((4, 4, 3), np.uint8)
    for pixels, relevance in ((shown, np.zeros((4, 5))), (shown, np.zeros((2, 4, 4))), (shown / 1.0, np.zeros((4, 4)))):
        with pytest.raises(InputError):
            overlay(pixels, relevance)


def test_contact_sheet():
    panel = Panel("a caption that is far too long for so small a picture, Ünïcödé", Image.new("RGB", (60, 40), "red"))
    sheet = contact_sheet([[panel, panel], [panel]])
    assert sheet.width == 12 + 60 + 8 + 60 + 12
    assert (np.asarray(sheet) == (255, 0, 0)).all(axis=-1).sum() == 3 * 60 * 40
    with pytest.raises(InputError):
        contact_sheet([])


# --- figures ------------------------------------------------------------------------------------------------


def explanation(n: int = 2, k: int = 3, classes: int = 5) -> Explanation:
    generator = torch.Generator().manual_seed(0)
    return Explanation(
        maps=torch.randn(n, k, 8, 8, generator=generator),
        target=torch.arange(k).expand(n, k),
        logits=torch.randn(n, classes, generator=generator),
        images=torch.randn(n, 3, 8, 8, generator=generator),
    )


def test_figure_has_images_maps_and_one_bar_centred_at_zero():
    result = explanation()
    drawn = figures.figure(result, class_names=["cat", "dog", "cow", "hen", "pig"])
    axes = [axis for axis in drawn.axes if axis.images]
    bar = next(axis for axis in drawn.axes if not axis.images)
    assert len(drawn.axes) == 2 * (1 + 3) + 1
    assert [axis.get_title() for axis in axes[1:3]] == [
        f"cat (logit {result.logits[0, 0]:.2f})",
        f"dog (logit {result.logits[0, 1]:.2f})",
    ]
    for axis in axes:
        assert axis.images[0].get_clim() == (-1, 1)
    assert bar.get_ylim() == (-1, 1)
    assert [text.get_text() for text in bar.get_yticklabels()] == ["-max", "0", "+max"]
    assert np.abs(axes[1].images[0].get_array()).max() == 1


def test_figure_says_when_it_leaves_images_out():
    drawn = figures.figure(explanation(5), max_rows=2)
    assert "first 2 of 5 images" in drawn.get_supxlabel()
    drawn = figures.figure(explanation(5), indices=[4, 0])
    assert [axis.get_title() for axis in drawn.axes if axis.get_title().startswith("image")] == ["image 4", "image 0"]
    assert drawn.get_supxlabel() == ""


def test_figure_refuses_what_does_not_fit():
    for error, options in (
        (InputError, {"indices": [7]}),
        (InputError, {"indices": []}),
        (InputError, {"images": np.zeros((2, 9, 9, 3), np.uint8)}),
        (OptionsError, {"class_names": ["one"]}),
        (OptionsError, {"max_rows": 0}),
    ):
        with pytest.raises(error):
            figures.figure(explanation(), **options)


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_save_writes_the_figure_whole(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    explanation(1, 1).save(path, class_names=["a name that is so long that it must be broken into lines", *"bcde"])
    assert path.stat().st_size > 1000
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_save_refuses_an_unknown_ending(tmp_path):
    for name in ("x.xyz", "x"):
        with pytest.raises(OptionsError, match=r"\.png"):
            figures.save(explanation(1, 1), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_saving_does_not_import_pyplot(tmp_path):
    code = (
        "import sys, types, torch; from agf_fx.imaging import figure\n"
        "r = types.SimpleNamespace(maps=torch.zeros(1,1,4,4), target=torch.zeros(1,1,dtype=torch.long),"
        " logits=torch.zeros(1,2), images=torch.zeros(1,3,4,4))\n"
        "figure.save(r, sys.argv[1])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "x.png"], check=True)
    assert (tmp_path / "x.png").exists()


def test_show_draws_through_pyplot_and_leaves_nothing_open(monkeypatch):
    from matplotlib import pyplot as plt

    shown = []
    monkeypatch.setattr(matplotlib, "get_backend", lambda: "module://matplotlib_inline.backend_inline")
    monkeypatch.setattr(plt, "show", lambda: shown.append(len(plt.gcf().axes)))
    assert figures.show(explanation(), indices=[1]) is None
    assert shown == [1 * (1 + 3) + 1]
    assert not plt.get_fignums()


def test_show_without_a_display_says_what_to_do():
    matplotlib.use("agg")
    with pytest.warns(UserWarning, match="save") as caught:
        explanation(1, 1).show()
    assert caught[0].filename == __file__


def test_display_pixels():
    batch = torch.stack([torch.arange(48.0).reshape(3, 4, 4) - 7, torch.full((3, 4, 4), 3.0)])
    stretched = display_pixels(batch)
    assert stretched.shape == (2, 4, 4, 3)
    assert stretched.dtype == np.uint8
    assert (stretched[0].min(), stretched[0].max()) == (0, 255)
    assert (stretched[1] == 128).all()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    unit = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    for form in (pixels, list(pixels), [Image.fromarray(one) for one in pixels], unit, unit.half() * 0 + unit):
        np.testing.assert_array_equal(display_pixels(batch, form), pixels)
    for bad in (unit * 2, unit - 1, pixels[:1], pixels.astype(int), [pixels[0], pixels[1][:2]]):
        with pytest.raises(InputError):
            display_pixels(batch, bad)


def test_display_pixels_of_other_channels():
    assert (display_pixels(torch.arange(4.0).reshape(1, 1, 2, 2))[0, 1, 1] == 255).all()
    with pytest.raises(InputError, match="5 channels"):
        display_pixels(torch.zeros(1, 5, 2, 2))


def test_display_pixels_of_a_batch_three_pixels_wide():
    batch = torch.zeros(1, 3, 2, 3)
    batch[0, 0] = 1
    assert (display_pixels(batch)[0] == (255, 0, 0)).all()


# --- whole files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, stop):
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")

    def write() -> None:
        with atomic_write(path) as file:
            file.write(b"half of the ne")
            raise stop

    with pytest.raises(stop):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_write_replaces_and_keeps_permissions(tmp_path):
    path, link = tmp_path / "x.bin", tmp_path / "link"
    path.write_bytes(b"old")
    path.chmod(0o640)
    link.symlink_to(path)
    with atomic_write(link) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert link.is_symlink()


def test_new_files_are_readable_as_the_umask_says(tmp_path):
    with atomic_write(tmp_path / "a"):
        pass
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_atomic_write_does_not_replace_folders_or_devices(tmp_path):
    for path in (tmp_path, "/dev/null"):
        with pytest.raises(OSError, match="not an ordinary file"), atomic_write(path):
            pass
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "none" / "x"):
        pass


def test_save_helpers(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    save_array(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array)
    save_image(tmp_path / "a.png", Image.fromarray(colours()))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), colours())
    save_json(tmp_path / "a.json", {"ä": 1})
    assert json.loads((tmp_path / "a.json").read_text()) == {"ä": 1}
    with pytest.raises(ValueError, match="JSON"):
        save_json(tmp_path / "b.json", float("nan"))
    assert not (tmp_path / "b.json").exists()
