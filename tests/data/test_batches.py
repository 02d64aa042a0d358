"""Datasets by kind, and batches of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_files import pixels, write_jpeg, write_matlab, write_voc
from test_architecture import imports

from agf_fx.data.datasets import KINDS, Dataset, batches, open_dataset, parse_dataset, parse_options
from agf_fx.errors import ExampleError, OptionsError
from agf_fx.imaging.preprocess import Preprocessing

PREPARED = Preprocessing(resize=8, crop=(8, 10))


def numbers(*rows):
    return np.repeat(np.array(rows, dtype=np.uint8)[:, None], 9, axis=1)


@pytest.fixture
def voc(tmp_path):
    masks = {"a": numbers(3, 3, 0, 0, 0, 0), "b": numbers(0, 255, 4, 4, 1, 1), "bad": numbers(1, 1), "c": numbers(0, 0)}
    write_voc(tmp_path, masks)
    (tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages" / "bad.jpg").write_bytes(b"x")
    return open_dataset("voc2012", tmp_path)


def test_a_batch(voc):
    (batch,) = batches(voc, PREPARED)
    assert batch.names == ("a", "b", "c")
    assert len(batch) == 3
    assert batch.images.shape == (3, 3, 8, 10)
    assert batch.images.dtype == torch.float32
    assert batch.targets.dtype == torch.int64
    assert batch.targets.tolist() == [[2, -1], [0, 3], [-1, -1]]
    assert batch.masks.shape == (3, 2, 8, 10)
    assert batch.masks.dtype == batch.ignored.dtype == torch.bool
    assert batch.ignored.shape == (3, 8, 10)
    for row, example in enumerate(voc[index] for index in (0, 1, 3)):
        assert torch.equal(batch.images[row], PREPARED.prepare(example.image)[0])
        count = len(example.classes)
        assert torch.equal(batch.masks[row, :count], PREPARED.prepare_masks(example.masks))
        assert not batch.masks[row, count:].any()
        assert torch.equal(batch.ignored[row], PREPARED.prepare_masks(example.ignored[None])[0])
    assert batch.ignored[1].any()
    ((name, error),) = batch.failures
    assert name == "bad"
    assert isinstance(error, ExampleError)
    assert "bad.jpg" in str(error)


def test_sizes_limits_and_indices(voc):
    def names(**options):
        return [batch.names for batch in batches(voc, PREPARED, **options)]

    assert names(size=2) == [("a", "b"), ("c",)]
    assert names(size=3, limit=2) == [("a", "b")]
    assert names(indices=[3, 0, -1, 1], limit=3) == [("c", "a", "c")]
    assert names(limit=0) == names(indices=[]) == []
    (failed,) = batches(voc, PREPARED, indices=[2])
    assert len(failed) == 0
    assert failed.images.shape == (0, 3, 8, 10)
    assert failed.targets.shape == (0, 0)
    assert failed.masks is failed.ignored is None
    assert [name for name, _ in failed.failures] == ["bad"]
    for options in ({"size": 0}, {"workers": -1}, {"limit": -1}, {"indices": [4]}, {"indices": [-5]}):
        with pytest.raises(OptionsError):
            batches(voc, PREPARED, **options)


def test_objects_without_a_class_and_classes_without_masks(tmp_path):
    write_matlab(tmp_path / "x.mat", [pixels(5, 9)] * 2, [np.ones((5, 9), np.uint8)] * 2)
    (batch,) = batches(open_dataset("imagenet-segmentation", tmp_path / "x.mat"), PREPARED)
    assert batch.targets.tolist() == [[-1], [-1]]
    assert batch.masks.shape == (2, 1, 8, 10)
    assert batch.masks.all()
    assert batch.ignored is None
    write_jpeg(tmp_path / "classes" / "cat" / "a.jpg", 40, 50)
    (batch,) = batches(open_dataset("folder", tmp_path / "classes"), Preprocessing(mean=(0.5,), std=(1.0,)))
    assert batch.images.shape == (1, 1, 224, 224)
    assert batch.targets.tolist() == [[0]]
    assert batch.masks is batch.ignored is None


def test_images_of_several_sizes_need_a_crop(voc):
    uncropped = Preprocessing(resize=None, crop=None)
    assert [batch.images.shape[2:] for batch in batches(voc, uncropped, size=1) if len(batch)] == [
        (6, 9),
        (6, 9),
        (2, 9),
    ]
    with pytest.raises(OptionsError, match="images of 9x2 and 9x6 pixels make no batch; give the preprocessing a crop"):
        list(batches(voc, uncropped))


def test_an_image_that_cannot_be_prepared_is_a_failure(tmp_path):
    write_jpeg(tmp_path / "thin" / "a.jpg", 1, 3000)
    (batch,) = batches(open_dataset("folder", tmp_path), Preprocessing())
    ((name, error),) = batch.failures
    assert name == "thin/a.jpg"
    assert isinstance(error, ExampleError)
    assert str(error).startswith("thin/a.jpg: 3000x1 pixels is too long and thin")


def test_workers_read_the_same(tmp_path):
    images, masks = [pixels(5, 9) for _ in range(5)], [np.ones((5, 9), np.uint8)] * 4 + [np.ones((4, 9), np.uint8)]
    write_matlab(tmp_path / "x.mat", images, masks)
    dataset = open_dataset("imagenet-segmentation", tmp_path / "x.mat")
    alone = list(batches(dataset, PREPARED, size=2))  # opens the file here, which workers must not share
    state = torch.get_rng_state()
    together = list(batches(dataset, PREPARED, size=2, workers=2))
    assert torch.equal(state, torch.get_rng_state())
    assert [batch.names for batch in together] == [("00000", "00001"), ("00002", "00003"), ()]
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.targets, other.targets)
        assert one.masks is other.masks is None or torch.equal(one.masks, other.masks)
        assert [(name, str(error)) for name, error in one.failures] == [(n, str(e)) for n, e in other.failures]
    (error,) = (error for batch in together for _, error in batch.failures)
    assert error.name == "00004"


def test_kinds():
    read = {"imagenet", "imagenet-segmentation", "voc2012", "coco", "folder", "table"}
    assert set(KINDS) == read | {"digits", "photographs"}
    assert parse_dataset("photographs") == ("photographs", "")
    assert all(issubclass(kind, Dataset) for kind in KINDS.values())
    assert parse_dataset("voc2012:/data/with:colon") == ("voc2012", "/data/with:colon")
    assert parse_dataset("coco:~/data") == ("coco", str(Path.home() / "data"))
    for text in ("voc2012", "voc2012:", "voc:/data", "/data"):
        with pytest.raises(OptionsError, match="write kind:path, with one of imagenet, "):
            parse_dataset(text)
    with pytest.raises(OptionsError, match="unknown kind of dataset 'voc'; choose from imagenet, "):
        open_dataset("voc", "/data")
    with pytest.raises(OptionsError, match="voc2012 has no option 'year'; it has split"):
        open_dataset("voc2012", "/data", year=2007)
    with pytest.raises(OptionsError, match="no option 'split'; it has none"):
        open_dataset("imagenet-segmentation", "/data", split="val")


def test_options_in_words():
    assert parse_options("digits", ["seed=03", "split=train"]) == {"seed": 3, "split": "train"}
    assert parse_options("coco", ["images=~/data=x", "split=2017"]) == {
        "images": str(Path.home() / "data=x"),
        "split": "2017",
    }
    assert parse_options("folder", []) == {}
    for kind, word, match in (
        ("voc", "split=val", "unknown kind of dataset 'voc'"),
        ("voc2012", "year=2007", "voc2012 has no option 'year'; it has split"),
        ("photographs", "seed=x", "seed is 'x'; give a whole number"),
        ("voc2012", "train", "write NAME=VALUE, such as split=train"),
    ):
        with pytest.raises(OptionsError, match=match):
            parse_options(kind, [word])


def test_optional_packages_are_imported_when_they_are_needed():
    for path in Path(batches.__code__.co_filename).parent.glob("*.py"):
        imported = {name.split(".")[0] for name in imports(path)}
        assert not imported & {"h5py", "pycocotools", "pandas", "pyarrow", "scipy"}, path
