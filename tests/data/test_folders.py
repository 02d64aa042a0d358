"""Folders of images, with masks or as classes."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from dataset_files import write_grey, write_jpeg, write_palette
from PIL import Image

from agf_fx.data.datasets import open_dataset
from agf_fx.errors import DatasetError, ExampleError

NUMBERS = np.zeros((6, 8), dtype=np.uint8)
NUMBERS[:2], NUMBERS[4:, 3:], NUMBERS[3] = 3, 1, 255


def test_masks_of_class_numbers(tmp_path):
    images = {name: write_jpeg(tmp_path / "images" / name) for name in ("b.jpg", "deep/a.JPEG")}
    write_palette(tmp_path / "masks" / "b.png", NUMBERS)
    write_grey(tmp_path / "masks" / "deep" / "a.png", np.full((6, 8), 2))
    write_grey(tmp_path / "masks" / "left_over.png", NUMBERS)
    for text in ("cat\ndog\nfar away\n", "background\ncat\n\ndog\nfar away"):
        (tmp_path / "classes.txt").write_text(text)
        dataset = open_dataset("folder", tmp_path)
        assert dataset.class_names == ("cat", "dog", "far away")
        assert dataset.name == f"folder-{tmp_path.name}"
        first, second = dataset
        assert (first.name, second.name) == ("b.jpg", "deep/a.JPEG")
        assert first.classes == (0, 2)
        np.testing.assert_array_equal(first.masks, [NUMBERS == 1, NUMBERS == 3])
        np.testing.assert_array_equal(first.ignored, NUMBERS == 255)
        assert second.classes == (1,)
        assert second.masks.all()
        for example in dataset:
            np.testing.assert_array_equal(np.asarray(example.image), images[example.name])


def test_more_classes_than_a_byte_counts(tmp_path):
    (tmp_path / "classes.txt").write_text("".join(f"class {number}\n" for number in range(300)))
    write_jpeg(tmp_path / "images" / "a.jpg")
    (tmp_path / "masks").mkdir()
    values = np.zeros((6, 8), dtype=np.uint16)
    values[0], values[1], values[2] = 255, 300, 65535
    Image.fromarray(values).save(tmp_path / "masks" / "a.png")
    (example,) = open_dataset("folder", tmp_path)
    assert example.classes == (254, 299)
    np.testing.assert_array_equal(example.masks, [values == 255, values == 300])
    np.testing.assert_array_equal(example.ignored, values == 65535)


@pytest.mark.parametrize("mode", ["L", "1", "P"])
@pytest.mark.parametrize("on", [1, 255])
def test_masks_of_one_object(tmp_path, mode, on):
    object_ = NUMBERS == 3
    write_jpeg(tmp_path / "images" / "a.jpg")
    (tmp_path / "masks").mkdir()
    mask = Image.fromarray(object_ if mode == "1" else object_.astype(np.uint8) * on)
    if mode == "P":
        mask.putpalette([0, 0, 0] * 256)
    mask.save(tmp_path / "masks" / "a.png")
    (example,) = open_dataset("folder", tmp_path)
    assert example.classes == ()
    np.testing.assert_array_equal(example.masks, [object_])
    assert example.ignored is None
    assert open_dataset("folder", tmp_path).class_names is None


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_levels_of_few_bits_are_the_numbers_that_are_stored(tmp_path, bits):
    values = np.arange(48).reshape(6, 8) % 2**bits
    digits = (values[:, :, None] >> np.arange(bits)[::-1] & 1).reshape(6, -1).astype(np.uint8)
    rows = b"".join(b"\0" + line.tobytes() for line in np.packbits(digits, axis=1))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 8, 6, bits, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    write_jpeg(tmp_path / "images" / "a.jpg")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a.png").write_bytes(png)
    (tmp_path / "classes.txt").write_text("".join(f"class {number}\n" for number in range(15)))
    (example,) = open_dataset("folder", tmp_path)
    assert example.classes == tuple(range(2**bits - 1))
    np.testing.assert_array_equal(example.masks, [values == value for value in range(1, 2**bits)])


def test_a_mask_of_several_values_needs_a_class_list(tmp_path):
    write_jpeg(tmp_path / "images" / "a.jpg")
    write_grey(tmp_path / "masks" / "a.png", NUMBERS)
    with pytest.raises(ExampleError, match=r"a\.png: holds the values 1, 3, 255, .* classes\.txt"):
        open_dataset("folder", tmp_path)[0]


def test_an_image_is_turned_upright_and_its_mask_is_upright(tmp_path):
    stored = write_jpeg(tmp_path / "images" / "a.jpg", 6, 8, orientation=6)
    upright = np.rot90(stored, -1)
    mask = np.zeros((8, 6), dtype=np.uint8)
    mask[1:3] = 255
    write_grey(tmp_path / "masks" / "a.png", mask)
    (example,) = open_dataset("folder", tmp_path)
    np.testing.assert_array_equal(np.asarray(example.image), upright)
    np.testing.assert_array_equal(example.masks, [mask == 255])


def test_folders_as_classes(tmp_path):
    images = {name: write_jpeg(tmp_path / name) for name in ("dog/x.jpg", "cat/z.jpg", "cat/deep/y.jpg")}
    dataset = open_dataset("folder", tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert [(example.name, example.classes) for example in dataset] == [
        ("cat/deep/y.jpg", (0,)),
        ("cat/z.jpg", (0,)),
        ("dog/x.jpg", (1,)),
    ]
    for example in dataset:
        np.testing.assert_array_equal(np.asarray(example.image), images[example.name])
        assert example.masks is None
    (tmp_path.parent / "list.txt").write_text("horse\ndog\ncat\n")
    dataset = open_dataset("folder", tmp_path, classes=tmp_path.parent / "list.txt")
    assert dataset.class_names == ("horse", "dog", "cat")
    assert [example.classes for example in dataset] == [(2,), (2,), (1,)]


@pytest.mark.parametrize("ids", [("cat", "dog", "owl"), ("n01440764", "n01443537", "n01484850")])
def test_an_empty_folder_of_a_class_keeps_its_index(tmp_path, ids):
    (tmp_path / "data" / ids[0]).mkdir(parents=True)
    (tmp_path / "data" / ids[1] / "deep").mkdir(parents=True)
    kind, options = "folder", {}
    if ids[0] != "cat":
        (tmp_path / "m.txt").write_text("".join(f"{name} a name\n" for name in ids))
        kind, options = "imagenet", {"mapping": tmp_path / "m.txt"}
        (tmp_path / "data" / ids[2]).mkdir()
    with pytest.raises(DatasetError, match=f"{ids[0]}: no images in this folder"):
        open_dataset(kind, tmp_path / "data", **options)
    write_jpeg(tmp_path / "data" / ids[2] / "a.jpg")
    (example,) = dataset = open_dataset(kind, tmp_path / "data", **options)
    assert example.classes == (2,)
    assert len(dataset.class_names) == 3


def test_a_missing_or_damaged_mask_costs_its_image(tmp_path):
    for name in ("a.jpg", "b.jpg", "deep/c.jpg"):
        write_jpeg(tmp_path / "images" / name)
    write_grey(tmp_path / "masks" / "a.png", NUMBERS == 1)
    (tmp_path / "masks" / "b.png").write_bytes(b"")
    dataset = open_dataset("folder", tmp_path)
    assert dataset[0].masks.any()
    for index, match in ((1, r"b\.png: is no mask that can be read"), (2, r"masks/deep/c\.png: no such mask; add it")):
        with pytest.raises(ExampleError, match=match) as caught:
            dataset[index]
        assert caught.value.name == dataset.example_name(index) == ("b.jpg", "deep/c.jpg")[index - 1]


def test_folders_that_are_refused(tmp_path):
    def refused(match, **options):
        with pytest.raises(DatasetError, match=match):
            open_dataset("folder", tmp_path, **options)

    refused("neither images and masks, nor folders named by classes; it holds no folders and no files")
    write_jpeg(tmp_path / "images" / "a.jpg")
    refused(r"neither images and masks.*1 folder \(images\)")
    write_grey(tmp_path / "masks" / "b.png", NUMBERS)
    refused("has no mask of a; add them")
    write_grey(tmp_path / "masks" / "a.png", NUMBERS)
    write_grey(tmp_path / "masks" / "a.bmp", NUMBERS)
    refused("a.bmp and a.png have one name")
    refused("none.txt: cannot be read", classes=tmp_path / "none.txt")
    for text, match in (("\n\n", "is empty"), ("a\nb\na\n", "has a more than once")):
        (tmp_path / "classes.txt").write_text(text)
        refused(match)
    with pytest.raises(DatasetError, match="cannot be listed"):
        open_dataset("folder", tmp_path / "none")
    write_jpeg(tmp_path / "named" / "cat" / "a.jpg")
    (tmp_path / "named" / "classes.txt").write_text("dog\n")
    with pytest.raises(DatasetError, match="folders cat are not in the list of 1 classes"):
        open_dataset("folder", tmp_path / "named")
