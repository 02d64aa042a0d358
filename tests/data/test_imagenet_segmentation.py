"""ImageNet-Segmentation, in HDF5 as MATLAB 7.3 writes it."""

from __future__ import annotations

import pickle
import sys

import h5py
import numpy as np
import pytest
from dataset_files import pixels, write_matlab
from scipy.io import savemat

from agf_fx.data.datasets import open_dataset
from agf_fx.errors import DatasetError, ExampleError, MissingDependencyError

SIZES = [(5, 9), (8, 4), (6, 6)]


def written(path):
    images = [pixels(*size) for size in SIZES]
    masks = [np.random.default_rng(number).integers(0, 2, size, dtype=np.uint8) for number, size in enumerate(SIZES)]
    write_matlab(path, images, masks)
    return images, masks


def test_images_and_masks_are_turned_back(tmp_path):
    images, masks = written(tmp_path / "gtsegs_ijcv.mat")
    for path in (tmp_path, tmp_path / "gtsegs_ijcv.mat"):
        dataset = open_dataset("imagenet-segmentation", path)
        assert len(dataset) == 3
        assert dataset.class_names is None
        for index, (image, mask) in enumerate(zip(images, masks, strict=True)):
            example = dataset[index]
            assert example.name == f"{index:05}"
            np.testing.assert_array_equal(np.asarray(example.image), image)
            assert example.classes == ()
            assert example.masks.shape == (1, *mask.shape)
            assert example.masks.dtype == bool
            np.testing.assert_array_equal(example.masks[0], mask == 1)
            assert example.ignored is None
    again = pickle.loads(pickle.dumps(dataset))  # while the file is open
    np.testing.assert_array_equal(again[1].masks, dataset[1].masks)


def test_an_entry_of_another_form_costs_itself(tmp_path):
    images, masks = [pixels(5, 9), pixels(5, 9), pixels(4, 3)], [np.ones((5, 9), np.uint8)] * 2 + [np.ones((3, 4))]
    images[0] = images[0][:, :, :1]
    write_matlab(tmp_path / "x.mat", images, masks)
    dataset = open_dataset("imagenet-segmentation", tmp_path / "x.mat")
    with pytest.raises(ExampleError, match=r"x\.mat: image 0 is uint8 \(1, 9, 5\), not uint8 \(3, W, H\)"):
        dataset[0]
    assert dataset[1].masks.all()
    with pytest.raises(
        ExampleError, match=r"x\.mat: image 2: the mask has 4x3 pixels, its upright image 3x4"
    ) as caught:
        dataset[2]
    assert caught.value.name == "00002"


def test_damaged_data_costs_itself(tmp_path):
    path = tmp_path / "x.mat"
    written(path)
    with h5py.File(path, "r+") as file:
        cell = file["value/gt"][()]
        cell[1] = h5py.Reference()  # to nothing
        file["value/gt"][...] = cell
    dataset = open_dataset("imagenet-segmentation", path)
    with pytest.raises(ExampleError, match=r"x\.mat: value\.gt of image 1 cannot be read"):
        dataset[1]
    assert dataset[2].masks.shape == (1, 6, 6)


def test_files_that_are_refused(tmp_path, monkeypatch):
    def refused(match, path):
        with pytest.raises(DatasetError, match=match):
            open_dataset("imagenet-segmentation", path)

    refused("gtsegs_ijcv.mat: no such file; it holds no folders and no files", tmp_path)
    savemat(tmp_path / "five.mat", {"value": np.ones(3)})
    refused("five.mat: is not a file of MATLAB 7.3", tmp_path / "five.mat")
    with h5py.File(tmp_path / "other.mat", "w") as file:
        file["value/img"] = np.ones(3)
    refused(r"other.mat: has no cell value.img; it holds value;", tmp_path / "other.mat")
    write_matlab(tmp_path / "more.mat", [pixels(2, 2)] * 2, [np.ones((2, 2), np.uint8)])
    refused("2 images and 1 masks", tmp_path / "more.mat")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingDependencyError, match=r"need h5py: pip install 'agf-fx\[datasets\]'"):
        open_dataset("imagenet-segmentation", tmp_path)
