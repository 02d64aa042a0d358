"""COCO: polygons, runs, compressed runs and crowds."""

from __future__ import annotations

import json
import pickle
import sys

import numpy as np
import pytest
from dataset_files import write_coco, write_jpeg
from pycocotools import mask as codec

from agf_fx.data.datasets import open_dataset
from agf_fx.errors import DatasetError, ExampleError, MissingDependencyError

CATEGORIES = [(90, "toothbrush"), (1, "person"), (13, "stop sign")]  # not sorted, with gaps
IMAGES = {42: ("000000000042.jpg", 10, 14), 7: ("000000000007.jpg", 8, 8), 9: ("000000000009.jpg", 8, 6)}


def rectangle(height, width, top, left, bottom, right):
    mask = np.zeros((height, width), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def polygon(top, left, bottom, right):
    return [left, top, right, top, right, bottom, left, bottom]


def runs(mask):
    """Uncompressed runs, counted down the columns and beginning with zeros."""
    flat = mask.T.reshape(-1).astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, len(flat)]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def compressed_runs(mask):
    encoded = codec.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def row(number, image, category, segmentation, **more):
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation, **more}


COMPRESSED = compressed_runs(rectangle(8, 8, 2, 1, 5, 6))
ANNOTATIONS = [
    row(1, 42, 90, [polygon(1, 2, 4, 6), polygon(6, 8, 9, 12)]),  # one object in two parts
    row(2, 42, 1, runs(rectangle(10, 14, 0, 0, 5, 3)), iscrowd=1),
    row(3, 42, 1, compressed_runs(rectangle(10, 14, 4, 2, 10, 5))),
    row(4, 7, 13, runs(rectangle(8, 8, 2, 3, 5, 8))),
]


def test_every_kind_of_segmentation(tmp_path):
    images = write_coco(tmp_path, IMAGES, ANNOTATIONS, CATEGORIES)
    json_file = tmp_path / "annotations" / "instances_val2017.json"
    (tmp_path / "elsewhere").mkdir()
    for name in (entry[0] for entry in IMAGES.values()):
        (tmp_path / "elsewhere" / name).hardlink_to(tmp_path / "val2017" / name)
    for dataset in (
        open_dataset("coco", tmp_path),
        open_dataset("coco", json_file),
        open_dataset("coco", json_file, images=tmp_path / "elsewhere"),
        pickle.loads(pickle.dumps(open_dataset("coco", tmp_path))),
    ):
        assert dataset.name == "coco-val2017"
        assert dataset.class_names == ("person", "stop sign", "toothbrush")
        assert [example.name for example in dataset] == [IMAGES[number][0] for number in (7, 9, 42)]
        one, none, several = dataset
        assert one.classes == (1,)
        np.testing.assert_array_equal(one.masks, [rectangle(8, 8, 2, 3, 5, 8)])
        assert none.classes == ()
        assert none.masks.shape == (0, 8, 6)
        assert several.classes == (0, 2)
        np.testing.assert_array_equal(several.masks[0], rectangle(10, 14, 0, 0, 5, 3) | rectangle(10, 14, 4, 2, 10, 5))
        np.testing.assert_array_equal(several.masks[1], rectangle(10, 14, 1, 2, 4, 6) | rectangle(10, 14, 6, 8, 9, 12))
        assert several.masks.dtype == none.masks.dtype == bool
        for number, example in zip((7, 9, 42), dataset, strict=True):
            np.testing.assert_array_equal(np.asarray(example.image), images[number])


@pytest.mark.parametrize(
    "segmentation",
    [
        [],
        [[1, 2, 3, 4]],  # pycocotools would take it for a box
        [[1, 2, 3, 4, 5, 6, 7]],
        [["a"] * 6],
        "text",
        None,
        {"counts": [1, 2]},
        {"size": [8, 9], "counts": [72]},
        {"size": [8, 8], "counts": [60]},
        {"size": [8, 8], "counts": [70, -6]},
        {"size": [8, 8], "counts": [65]},
        {"size": [8, 8], "counts": "zzzzzzzz"},
        {"size": [8, 8], "counts": 5},
        {"size": [8, 8], "counts": [60.5, 3.5]},
        {"size": [8, 8], "counts": []},
        {"size": [8, 8], "counts": ""},
        {"size": [8, 8], "counts": "zzz~~"},
        {"size": [8, 8], "counts": "ZZZ"},  # each number goes on
        *({"size": [8, 8], "counts": COMPRESSED["counts"][:cut]} for cut in range(len(COMPRESSED["counts"]))),
        [[float("nan"), 1, 5, 1, 5, 5, 1, 5]],
        [[1, 1, float("inf"), 1, 5, 5, 1, 5]],
        [polygon(1, 2, 4, 6), [1, 1, 1e300, 1, 5, 5, 1, 5]],
        [[1, None, 5, 1, 5, 5, 1, 5]],
    ],
)
def test_a_damaged_segmentation_costs_its_image(tmp_path, segmentation):
    write_coco(tmp_path, IMAGES, [*ANNOTATIONS, row(55, 7, 1, segmentation)], CATEGORIES)
    dataset = open_dataset("coco", tmp_path)
    with pytest.raises(ExampleError, match=r"instances_val2017\.json: the segmentation of annotation 55") as caught:
        dataset[0]
    assert caught.value.name == "000000000007.jpg"
    assert dataset[2].classes == (0, 2)


def test_compressed_runs_are_what_pycocotools_makes_of_masks(tmp_path):
    rng = np.random.default_rng(0)
    masks = [rng.random((120, 97)) < share for share in (0, 0.02, 0.3, 0.7, 1)]
    masks += [rectangle(120, 97, 0, 0, 120, 60), rectangle(120, 97, 3, 2, 118, 90) & (rng.random((120, 97)) < 0.995)]
    images = {number: (f"{number}.jpg", 120, 97) for number in range(len(masks))}
    rows = [row(number, number, 1, compressed_runs(mask)) for number, mask in enumerate(masks)]
    write_coco(tmp_path, images, rows, CATEGORIES)
    for mask, example in zip(masks, open_dataset("coco", tmp_path), strict=True):
        np.testing.assert_array_equal(example.masks, [mask])


def test_an_image_of_another_size_or_missing_costs_itself(tmp_path):
    write_coco(tmp_path, IMAGES, ANNOTATIONS, CATEGORIES)
    write_jpeg(tmp_path / "val2017" / IMAGES[7][0], 8, 9)
    (tmp_path / "val2017" / IMAGES[9][0]).unlink()
    dataset = open_dataset("coco", tmp_path)
    with pytest.raises(ExampleError, match=r"000000000007.jpg: the mask has 8x8 pixels, its upright image 9x8"):
        dataset[0]
    with pytest.raises(ExampleError, match=r"000000000009.jpg: no such file"):
        dataset[1]


def test_files_that_are_refused(tmp_path, monkeypatch):
    def refused(match, path=tmp_path, **options):
        with pytest.raises(DatasetError, match=match):
            open_dataset("coco", path, **options)

    refused(r"no annotations/instances_val2017.json here; it holds no folders")
    refused(r"it is not there|is not there", tmp_path / "none")
    write_coco(tmp_path, IMAGES, ANNOTATIONS, CATEGORIES)
    refused("instances_train2017.json", split="train2017")
    path = tmp_path / "annotations" / "instances_val2017.json"
    table = json.loads(path.read_text())
    for name in ("images", "categories", "annotations"):
        path.write_text(json.dumps({**table, name: [{"id": 1}]}))
        refused(f"no list {name} with id, ")
    path.write_text(json.dumps({**table, "annotations": [row(3, 5, 90, [])]}))
    refused("annotation 3 is of image 5 and category 90")
    path.write_text("{")
    refused("not valid JSON")
    path.write_text("[]")
    refused("no list images")
    (tmp_path / "val2017").rename(tmp_path / "test")
    refused("no folder val2017 of images")
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.delitem(sys.modules, "pycocotools.mask")
    with pytest.raises(MissingDependencyError, match=r"pycocotools: pip install 'agf-fx\[datasets\]'"):
        open_dataset("coco", tmp_path)
