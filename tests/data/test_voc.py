"""PASCAL VOC 2012: palette pictures of class numbers, 255 being void."""

from __future__ import annotations

import numpy as np
import pytest
from dataset_files import write_jpeg, write_voc
from PIL import Image

from agf_fx.data.datasets import open_dataset
from agf_fx.errors import DatasetError, ExampleError

VALUES = np.zeros((6, 9), dtype=np.uint8)
VALUES[:3, :4], VALUES[3:, 5:], VALUES[2, :] = 15, 1, 255


def test_classes_masks_and_void(tmp_path):
    masks = {"2008_000002": VALUES, "2007_000033": np.full((4, 5), 20), "2007_000042": np.zeros((5, 4))}
    images = write_voc(tmp_path, masks)
    for path in (tmp_path, tmp_path / "VOCdevkit", tmp_path / "VOCdevkit" / "VOC2012"):
        dataset = open_dataset("voc2012", path)
        assert [example.name for example in dataset] == [*masks]  # the order of the list
    assert dataset.name == "voc2012-val"
    assert len(dataset.class_names) == 20
    first, second, third = dataset
    assert [dataset.class_names[c] for c in first.classes] == ["aeroplane", "person"]
    np.testing.assert_array_equal(first.masks, [VALUES == 1, VALUES == 15])
    np.testing.assert_array_equal(first.ignored, VALUES == 255)
    assert first.masks.dtype == first.ignored.dtype == bool
    assert [dataset.class_names[c] for c in second.classes] == ["tvmonitor"]
    assert second.masks.all()
    assert not second.ignored.any()
    assert third.classes == ()
    assert third.masks.shape == (0, 5, 4)
    for example in dataset:
        np.testing.assert_array_equal(np.asarray(example.image), images[example.name])


def test_splits(tmp_path):
    write_voc(tmp_path, {"a": VALUES}, split="train")
    assert len(open_dataset("voc2012", tmp_path, split="train")) == 1
    with pytest.raises(DatasetError, match=r"no list val.txt; it holds no folders and 1 file \(train.txt\)"):
        open_dataset("voc2012", tmp_path)


def test_a_wrong_mask_or_image_costs_itself(tmp_path):
    names = ["number", "size", "colours", "missing", "image", "turned", "fine"]
    write_voc(tmp_path, dict.fromkeys(names, VALUES))
    root = tmp_path / "VOCdevkit" / "VOC2012"
    masks = root / "SegmentationClass"
    Image.fromarray(np.full((6, 9), 21, np.uint8)).save(masks / "number.png")
    Image.fromarray(np.zeros((5, 9), np.uint8)).save(masks / "size.png")
    Image.fromarray(np.zeros((6, 9, 3), np.uint8)).save(masks / "colours.png")
    (masks / "missing.png").unlink()
    (root / "JPEGImages" / "image.jpg").write_bytes(b"")
    write_jpeg(root / "JPEGImages" / "turned.jpg", 6, 9, orientation=6)
    dataset = open_dataset("voc2012", tmp_path)
    reasons = {
        "number": r"number\.png: holds the values 21; classes have 1 to 20",
        "size": r"size\.png: the mask has 9x5 pixels, its upright image 9x6; make them equal$",
        "colours": r"colours\.png: has colours \(mode RGB\)",
        "missing": r"missing\.png: no such mask",
        "image": r"image\.jpg: the file is empty",
        "turned": r"turned\.png: the mask has 9x6 pixels, its upright image 6x9.*EXIF orientation",
    }
    for index, (name, reason) in enumerate(reasons.items()):
        with pytest.raises(ExampleError, match=reason) as caught:
            dataset[index]
        assert caught.value.name == name
    assert dataset[6].classes == (0, 14)
    (masks / "fine.png").write_bytes((masks / "fine.png").read_bytes()[:60])
    with pytest.raises(ExampleError, match=r"fine\.png: is no mask that can be read"):
        dataset[6]


def test_folders_that_are_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"no ImageSets/Segmentation here, nor in VOC2012 .* it holds no folders"):
        open_dataset("voc2012", tmp_path)
    write_voc(tmp_path, {"a": VALUES})
    (tmp_path / "VOCdevkit" / "VOC2012" / "SegmentationClass").rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="has no folder SegmentationClass; it holds 2 folders"):
        open_dataset("voc2012", tmp_path)
