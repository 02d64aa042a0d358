"""Lists of images as CSV and Parquet."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pandas
import pytest
from dataset_files import write_grey, write_jpeg

from agf_fx.data.datasets import open_dataset
from agf_fx.errors import DatasetError, ExampleError, MissingDependencyError

OBJECT = np.zeros((6, 8), dtype=np.uint8)
OBJECT[2:4, 3:] = 255


@pytest.fixture
def folder(tmp_path):
    for name in "abc":
        write_jpeg(tmp_path / "pictures" / f"{name}.jpg")
    write_grey(tmp_path / "object.png", OBJECT)
    write_grey(tmp_path / "rest.png", 255 - OBJECT)
    write_grey(tmp_path / "numbers.png", np.where(OBJECT, 2, 0))
    return tmp_path


def table(folder, ending="csv", **columns):
    path = folder / f"list.{ending}"
    frame = pandas.DataFrame(columns)
    if ending == "csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    return path


def classes(dataset):
    return [example.classes for example in dataset]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_images_alone_and_labels(folder, ending):
    images = ["pictures/b.jpg", "pictures/a.jpg", str(folder / "pictures" / "c.jpg")]
    dataset = open_dataset("table", table(folder, ending, image=images))
    assert [example.name for example in dataset] == images
    assert classes(dataset) == [()] * 3
    assert dataset.class_names is None
    assert dataset[0].masks is None
    assert dataset.name == "table-list"
    np.testing.assert_array_equal(np.asarray(dataset[0].image).shape, (6, 8, 3))
    dataset = open_dataset("table", table(folder, ending, image=images, label=["7", "281;3", ""], other=[1, 2, 3]))
    assert classes(dataset) == [(7,), (281, 3), ()]
    assert dataset.class_names is None
    dataset = open_dataset("table", table(folder, ending, image=images, label=["wolf", "cat; wolf", None]))
    assert classes(dataset) == [(1,), (0, 1), ()]
    assert dataset.class_names == ("cat", "wolf")
    assert classes(pickle.loads(pickle.dumps(dataset))) == classes(dataset)
    dataset = open_dataset("table", table(folder, ending, image=images, label=[7, None, 281]))
    assert classes(dataset) == [(7,), (), (281,)]


def test_labels_of_a_class_list(folder):
    (folder / "classes.txt").write_text("dog\ncat\n0\n")
    images = ["pictures/a.jpg", "pictures/b.jpg", "pictures/c.jpg"]
    dataset = open_dataset("table", table(folder, image=images, label=["cat;dog", "1", "0"]))
    assert classes(dataset) == [(1, 0), (1,), (2,)]  # a name before an index
    for label in ("3", "wolf", "-1"):
        with pytest.raises(DatasetError, match=rf"list.csv: row 2 has the label '{label}', which is none of 3"):
            open_dataset("table", table(folder, image=images, label=["cat", label, "cat"]))
    with pytest.raises(DatasetError, match=r"row 1 .* a label twice"):
        open_dataset("table", table(folder, image=images, label=["cat;1", "", ""]))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_masks(folder, ending):
    images = ["pictures/a.jpg", "pictures/b.jpg"]
    path = table(folder, ending, image=images, mask=["object.png", str(folder / "rest.png")])
    first, second = open_dataset("table", path)
    np.testing.assert_array_equal(first.masks, [OBJECT > 0])
    np.testing.assert_array_equal(second.masks, [OBJECT == 0])
    assert first.classes == second.classes == ()
    columns = {"image": images, "label": ["cat;dog", ""], "mask": ["rest.png; object.png", "numbers.png"]}
    first, second = open_dataset("table", table(folder, ending, **columns))
    assert first.classes == (0, 1)
    np.testing.assert_array_equal(first.masks, [OBJECT == 0, OBJECT > 0])
    assert second.classes == ()
    (folder / "classes.txt").write_text("dog\ncat\n")
    first, second = open_dataset("table", table(folder, ending, **columns))
    assert first.classes == (1, 0)
    assert second.classes == (1,)  # the mask's number says so
    np.testing.assert_array_equal(second.masks, [OBJECT > 0])
    assert not second.ignored.any()


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_lists_of_labels_and_masks_in_parquet(folder, kind):
    images = ["pictures/a.jpg", "pictures/b.jpg", "pictures/c.jpg"]
    labels = [kind(["dog"]), kind(["cat", "dog"]), kind(["a;b"])]
    masks = [kind(["rest.png"]), kind(["rest.png", "object.png"]), kind(["object.png"])]
    dataset = open_dataset("table", table(folder, "parquet", image=images, label=labels, mask=masks))
    assert dataset.class_names == ("a;b", "cat", "dog")
    assert classes(dataset) == [(2,), (1, 2), (0,)]
    np.testing.assert_array_equal(dataset[1].masks, [OBJECT == 0, OBJECT > 0])
    numbers = [kind([7]), kind([281, 3]), None]
    dataset = open_dataset("table", table(folder, "parquet", image=images, label=numbers))
    assert classes(dataset) == [(7,), (281, 3), ()]
    assert dataset.class_names is None
    empty = [kind([2.0]), [], [None]]
    assert classes(open_dataset("table", table(folder, "parquet", image=images, label=empty))) == [(2,), (), ()]


def test_lists_that_mean_nothing_are_refused(folder):
    for columns in ({"image": [["a", "b"]]}, {"image": ["a"], "label": [[["cat"]]]}):
        with pytest.raises(DatasetError, match="a list stands in the place of one text"):
            open_dataset("table", table(folder, "parquet", **columns))


def test_missing_values_of_nullable_columns_are_no_labels(folder):
    images = ["pictures/a.jpg", "pictures/b.jpg", "pictures/c.jpg"]
    numbers = pandas.array([7, None, 281], dtype="Int64")
    for labels in (numbers, numbers.astype("Float64"), pandas.array(["7", None, "281"], dtype="string")):
        dataset = open_dataset("table", table(folder, "parquet", image=images, label=labels))
        assert classes(dataset) == [(7,), (), (281,)]
        assert dataset.class_names is None
    path = table(folder, "parquet", image=pandas.array(["a", None], dtype="string"))
    with pytest.raises(DatasetError, match="row 2 names no image"):
        open_dataset("table", path)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("labels", [[3, -1], [3.0, -1.0], ["3", "4;-1"], ["cat", "-1"]])
def test_a_negative_number_is_no_label(folder, ending, labels):
    path = table(folder, ending, image=["pictures/a.jpg", "pictures/b.jpg"], label=labels)
    with pytest.raises(
        DatasetError, match=r"row 2 has the label '-1(\.0)?', and no class has a negative number; leave"
    ):
        open_dataset("table", path)


def test_an_image_may_stand_in_several_rows(folder):
    path = table(folder, image=["pictures/a.jpg"] * 3, label=["1", "2", "3"])
    dataset = open_dataset("table", path)
    assert [example.name for example in dataset] == ["pictures/a.jpg", "pictures/a.jpg#2", "pictures/a.jpg#3"]


def test_an_unreadable_image_or_mask_costs_itself(folder):
    path = table(folder, image=["none.jpg", "pictures/a.jpg"], mask=["object.png", "none.png"])
    dataset = open_dataset("table", path)
    for index, match in enumerate([r"none\.jpg: no such file", r"none\.png: no such mask"]):
        with pytest.raises(ExampleError, match=match) as caught:
            dataset[index]
        assert caught.value.name == dataset.example_name(index)


def test_a_row_without_its_masks_costs_itself(folder):
    images, masks = ["pictures/a.jpg", "pictures/b.jpg", "pictures/c.jpg"], ["", "object.png;rest.png", "object.png"]
    dataset = open_dataset("table", table(folder, image=images, label=["cat", "cat;dog", "cat;dog"], mask=masks))
    assert dataset[1].masks.any()
    for index, match in (
        (0, r"row 1 \(pictures/a.jpg\) has 1 labels and 0 masks"),
        (2, "row 3 .* 2 labels and 1 masks"),
    ):
        with pytest.raises(ExampleError, match=match) as caught:
            dataset[index]
        assert caught.value.name == images[index]
    dataset = open_dataset("table", table(folder, image=images, mask=masks))
    assert dataset[2].masks.any()
    for index in (0, 1):
        with pytest.raises(ExampleError, match=f"row {index + 1} .* 0 labels and {2 * index} masks"):
            dataset[index]


def test_files_that_are_refused(folder, monkeypatch):
    def refused(match, path):
        with pytest.raises(DatasetError, match=match):
            open_dataset("table", path)

    refused("no such file", folder / "none.csv")
    refused("ends in .csv or .parquet", folder / "list.txt")
    refused(
        "needs a column image and a row; the columns are picture, label, of 1 rows",
        table(folder, picture=["a"], label=["b"]),
    )
    refused("needs a column image and a row", table(folder, image=[]))
    refused("row 2 names no image", table(folder, image=["a", ""], label=["1", "2"]))
    refused(r"row 1 \(a\) has 0 labels and 0 masks", table(folder, image=["a"], mask=[""]))
    refused(r"row 1 \(a\) has 2 labels and 1 masks", table(folder, image=["a"], label=["1;2"], mask=["m"]))
    for name, content in (
        ("e.csv", b""),
        ("x.csv", b"image\n\xff\xfe"),
        ("x.parquet", b"no parquet"),
        ("r.csv", b"image\n1\n1,2,3\n"),
    ):
        (folder / name).write_bytes(content)
        refused(f"{name}: cannot be read as a table", folder / name)
    parquet = table(folder, "parquet", image=["a"])
    for module, path in (("pyarrow.parquet", parquet), ("pandas", folder / "list.csv")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(
            MissingDependencyError, match=rf"{module.partition('.')[0]}: pip install 'agf-fx\[datasets\]'"
        ):
            open_dataset("table", path)
