"""Fingerprints: the same of the same data wherever it lies, another of other names, classes, lists or annotations."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time

import numpy as np
import pytest
from dataset_files import pixels, write_coco, write_grey, write_jpeg, write_matlab, write_voc

from agf_fx.data.datasets import Dataset, files, open_dataset
from agf_fx.errors import DatasetError

OBJECT = np.eye(6, 8, dtype=np.uint8)
POLYGON = [[1, 1, 5, 1, 5, 5]]


def replaced(path, *words):
    path.write_text(path.read_text().replace(*words))


def write_table(folder):
    (folder / "list.csv").write_text("image,label,mask\na.jpg,cat,a.png\nb.jpg,dog,b.png\n")


def write_classes(folder):
    for name in ("cat/a.jpg", "dog/b.jpg"):
        write_jpeg(folder / name)


def write_masks(folder):
    write_jpeg(folder / "images" / "a.jpg")
    write_grey(folder / "masks" / "a.png", OBJECT)


def write_imagenet(folder):
    for name in ("n01440764/a.JPEG", "n01443537/b.JPEG"):
        write_jpeg(folder / name)
    (folder / "LOC_synset_mapping.txt").write_text("n01440764 tench\nn01443537 goldfish\n")


def write_annotations(folder):
    row = {"id": 1, "image_id": 7, "category_id": 1, "segmentation": POLYGON}
    write_coco(folder, {7: ("a.jpg", 8, 8)}, [row], [(1, "cat")])


def write_cells(folder):
    write_matlab(folder / "gtsegs_ijcv.mat", [pixels(6, 8)], [OBJECT])


CHANGES = {
    "label": ("table", "list.csv", write_table, lambda at: replaced(at / "list.csv", "b.jpg,dog", "b.jpg,cat")),
    "mask": ("table", "list.csv", write_table, lambda at: replaced(at / "list.csv", "b.png", "c.png")),
    "class list": ("table", "list.csv", write_table, lambda at: (at / "classes.txt").write_text("dog\ncat\n")),
    "moved": ("folder", "", write_classes, lambda at: (at / "cat" / "a.jpg").rename(at / "dog" / "a.jpg")),
    "added": ("folder", "", write_classes, lambda at: write_jpeg(at / "cat" / "c.jpg")),
    "named": ("folder", "", write_masks, lambda at: (at / "classes.txt").write_text("cat\n")),
    "synsets": ("imagenet", "", write_imagenet, lambda at: replaced(at / "LOC_synset_mapping.txt", "tench", "fish")),
    "voc": (
        "voc2012",
        "",
        lambda at: write_voc(at, {"a": OBJECT, "b": OBJECT}),
        lambda at: replaced(at / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt", "b\n", ""),
    ),
    "polygon": (
        "coco",
        "",
        write_annotations,
        lambda at: replaced(at / "annotations" / "instances_val2017.json", json.dumps(POLYGON), "[[0, 0, 5, 1, 5, 5]]"),
    ),
    "cells": ("imagenet-segmentation", "", write_cells, write_cells),
}


@pytest.mark.parametrize(("kind", "inside", "write", "change"), CHANGES.values(), ids=CHANGES)
def test_a_change_shows_and_a_copy_does_not(tmp_path, kind, inside, write, change):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data")
    dataset = open_dataset(kind, tmp_path / "data" / inside)
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    other = open_dataset(kind, tmp_path / "copy" / inside)
    assert dataset.fingerprint == other.fingerprint == pickle.loads(pickle.dumps(dataset)).fingerprint
    assert len(dataset.fingerprint) == 16
    change(tmp_path / "copy")
    assert open_dataset(kind, tmp_path / "copy" / inside).fingerprint != dataset.fingerprint
    assert open_dataset(kind, tmp_path / "data" / inside).fingerprint == dataset.fingerprint


def test_a_mask_that_is_added_changes_what_is_known_of_its_image_alone(tmp_path):
    write_masks(tmp_path)
    write_jpeg(tmp_path / "images" / "b.jpg")
    before = open_dataset("folder", tmp_path)
    known = [before.known(index) for index in range(2)]
    write_grey(tmp_path / "masks" / "b.png", OBJECT)
    after = open_dataset("folder", tmp_path)
    assert after.known(0) == known[0]
    assert after.known(1) != known[1]
    assert after.parameters == before.parameters


@pytest.mark.parametrize(
    ("change", "index"), [("label", 1), ("mask", 1), ("polygon", 0), ("synsets", None), ("cells", None)]
)
def test_what_changed_is_known_of_its_example(tmp_path, change, index):
    kind, inside, write, edit = CHANGES[change]
    write(tmp_path)
    before = open_dataset(kind, tmp_path / inside)
    known, shared = [before.known(place) for place in range(len(before))], before.parameters
    if change == "cells":
        write_matlab(tmp_path / "gtsegs_ijcv.mat", [pixels(6, 8)], [1 - OBJECT])
    else:
        edit(tmp_path)
    after = open_dataset(kind, tmp_path / inside)
    differ = [place for place in range(len(after)) if after.known(place) != known[place]]
    assert differ == ([] if index is None else [index])
    assert (after.parameters != shared) == (change == "cells")


def test_of_a_large_file_size_and_time_count(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_LONGEST", 3)
    path = tmp_path / "x.mat"
    path.write_bytes(b"1234")
    os.utime(path, ns=(0, 0))
    first = files.file_digest(path)
    path.write_bytes(b"1235")
    os.utime(path, ns=(0, 0))
    assert files.file_digest(path) == first
    os.utime(path, ns=(0, 1000))
    later = files.file_digest(path)
    path.write_bytes(b"12355")
    os.utime(path, ns=(0, 0))
    assert len({first, later, files.file_digest(path)}) == 3
    for wrong in (tmp_path / "none.mat", tmp_path):
        with pytest.raises(DatasetError, match="cannot be read"):
            files.file_digest(wrong)


def test_bundled_data_is_known_by_its_parameters():
    digits = [("3", {}), ("4", {}), ("3", {"seed": 3}), ("3", {"split": "train"})]
    views = [("", {}), ("2", {}), ("", {"seed": 1})]
    found = [
        open_dataset(kind, path, **options).fingerprint
        for kind, given in (("digits", digits), ("photographs", views), ("digits", digits))
        for path, options in given
    ]
    assert found[:4] == found[7:]
    assert len({*found}) == 7


def test_of_a_dataset_of_ones_own_the_names_are_known_and_it_takes_no_time():
    class Mine(Dataset):
        name = "mine"

        def __init__(self, first):
            self.first = first

        def __len__(self):
            return 50_000

        def example_name(self, index):
            return f"{index + self.first:07}.jpg"

        def _read(self, index):
            raise AssertionError("no picture is read")

    started = time.perf_counter()
    assert Mine(0).fingerprint == Mine(0).fingerprint != Mine(1).fingerprint
    assert time.perf_counter() - started < 5
