"""The validation images of ImageNet in every layout."""

from __future__ import annotations

import json
import pickle
import sys

import numpy as np
import pytest
from dataset_files import write_jpeg, write_meta

from agf_fx.data.datasets import open_dataset
from agf_fx.errors import DatasetError, ExampleError, MissingDependencyError

IDS = ("n01440764", "n01443537", "n02123045")
NAMES = ("tench, Tinca tinca", "goldfish, Carassius auratus", "tabby, tabby cat")
# As in the kit, where ILSVRC2012_ID is another order than that of the ids, and classes above others follow.
META = [
    *((1, IDS[2], NAMES[2], []), (2, IDS[0], NAMES[0], []), (3, IDS[1], NAMES[1], [])),
    (1001, "n00001740", "entity", [1, 2, 3]),
]


def mapping(path):
    path.write_text("".join(f"{wordnet_id} {name}\n" for wordnet_id, name in zip(IDS, NAMES, strict=True)))
    return path


def class_index(path, ids=IDS):
    path.write_text(json.dumps({str(c): [wordnet_id, f"name_{c}"] for c, wordnet_id in enumerate(ids)}))
    return path


def flat(folder, numbers=(1, 2, 3, 4)):
    return {number: write_jpeg(folder / f"ILSVRC2012_val_{number:08}.JPEG") for number in numbers}


def check(dataset, labels, images):
    assert [example.classes for example in dataset] == [(label,) for label in labels]
    for example, image in zip(dataset, images, strict=True):
        np.testing.assert_array_equal(np.asarray(example.image), image)
        assert example.image.mode == "RGB"
        assert example.masks is None
        assert example.ignored is None


@pytest.mark.parametrize("place", ["beside", "above", "json", "given"])
def test_class_folders_with_a_mapping(tmp_path, place):
    names = [f"{IDS[2]}/ILSVRC2012_val_00000002.JPEG", f"{IDS[2]}/ILSVRC2012_val_00000009.JPEG", f"{IDS[0]}/b.jpg"]
    images = {name: write_jpeg(tmp_path / "root" / "val" / name) for name in names}
    (tmp_path / "root" / "val" / IDS[2] / "notes.txt").write_text("not an image")
    options = {}
    if place == "given":
        options["mapping"] = mapping(tmp_path / "anywhere.txt")
    elif place == "json":
        class_index(tmp_path / "root" / "imagenet_class_index.json")
    else:
        mapping(tmp_path / "root" / ("val" if place == "beside" else ".") / "LOC_synset_mapping.txt")
    for folder in (tmp_path / "root" / "val", tmp_path / "root"):
        dataset = open_dataset("imagenet", folder, **options)
        assert len(dataset) == 3
        assert [dataset.example_name(index) for index in range(3)] == [names[2], names[0], names[1]]
        check(dataset, [0, 2, 2], [images[names[2]], images[names[0]], images[names[1]]])
        assert dataset.class_names == (NAMES if place != "json" else ("name_0", "name_1", "name_2"))
    assert dataset[-1].name == names[1]
    assert pickle.loads(pickle.dumps(dataset))[0].classes == (0,)
    with pytest.raises(IndexError):
        dataset[3]


def test_a_thousand_class_folders_need_no_mapping(tmp_path):
    ids = [f"n{10_000_000 + 7 * number}" for number in range(1000)]
    image = write_jpeg(tmp_path / "image.jpg")
    for wordnet_id in reversed(ids):
        (tmp_path / "val" / wordnet_id).mkdir(parents=True)
        (tmp_path / "val" / wordnet_id / "x.JPEG").hardlink_to(tmp_path / "image.jpg")
    dataset = open_dataset("imagenet", tmp_path / "val")
    assert dataset.class_names == tuple(ids)
    assert len(dataset) == 1000
    assert (dataset[417].name, dataset[417].classes) == (f"{ids[417]}/x.JPEG", (417,))
    np.testing.assert_array_equal(np.asarray(dataset[999].image), image)


def test_kaggles_labels(tmp_path):
    images = flat(tmp_path / "ILSVRC" / "Data" / "CLS-LOC" / "val")
    (tmp_path / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\n"
        f"ILSVRC2012_val_00000003,{IDS[1]} 85 1 499 272 \n"
        f"ILSVRC2012_val_00000001,{IDS[2]} 5 6 7 8 {IDS[2]} 1 2 3 4 \n"
        f"ILSVRC2012_val_00000004,{IDS[0]} 5 6 7 8 \n"
        f"ILSVRC2012_val_00000002,{IDS[0]} 5 6 7 8 \n"
    )
    with pytest.raises(DatasetError, match=r"LOC_val_solution.csv: 3 classes.*LOC_synset_mapping.txt"):
        open_dataset("imagenet", tmp_path)
    mapping(tmp_path / "LOC_synset_mapping.txt")
    dataset = open_dataset("imagenet", tmp_path)
    check(dataset, [2, 0, 1, 0], images.values())
    assert dataset[0].name == "ILSVRC2012_val_00000001.JPEG"


@pytest.mark.parametrize("place", ["kit", "beside", "given"])
def test_the_development_kits_labels(tmp_path, place):
    images = flat(tmp_path / "val", (1, 2, 4))  # a part of the images keeps its numbers
    kit = {"kit": tmp_path / "ILSVRC2012_devkit_t12" / "data", "beside": tmp_path / "val"}.get(place, tmp_path / "else")
    write_meta(kit / "meta.mat", META)
    labels = kit / "ILSVRC2012_validation_ground_truth.txt"
    labels.write_text("2\n1\n1\n3\n")
    options = {"labels": labels} if place == "given" else {}
    dataset = open_dataset("imagenet", tmp_path / "val", **options)
    check(dataset, [0, 2, 1], images.values())
    assert dataset.class_names == NAMES
    class_index(tmp_path / "imagenet_class_index.json")
    assert open_dataset("imagenet", tmp_path / "val", **options).class_names == ("name_0", "name_1", "name_2")


def test_an_unreadable_image_costs_itself(tmp_path):
    flat(tmp_path, (1, 2))
    (tmp_path / "ILSVRC2012_val_00000001.JPEG").write_bytes(b"\xff\xd8 cut off")
    mapping(tmp_path / "LOC_synset_mapping.txt")
    lines = [f"ILSVRC2012_val_{number:08},{IDS[0]} 1 2 3 4" for number in (1, 2)]
    (tmp_path / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *lines]))
    dataset = open_dataset("imagenet", tmp_path)
    with pytest.raises(ExampleError, match=r"val_00000001.JPEG") as caught:
        dataset[0]
    assert caught.value.name == "ILSVRC2012_val_00000001.JPEG"
    assert dataset[1].classes == (0,)


def test_layouts_that_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="is not there"):
        open_dataset("imagenet", tmp_path / "none")
    (tmp_path / "train").mkdir()
    (tmp_path / "x.jpg").touch()
    with pytest.raises(DatasetError, match=r"it holds 1 folder \(train\) and 1 file \(x.jpg\); give"):
        open_dataset("imagenet", tmp_path)
    folders = tmp_path / "folders"
    write_jpeg(folders / IDS[0] / "a.jpg")
    with pytest.raises(DatasetError, match=r"1 classes.*mapping"):
        open_dataset("imagenet", folders)
    write_jpeg(folders / "n99999999" / "a.jpg")
    with pytest.raises(DatasetError, match=r"n99999999 not among the 3 classes of .*m.txt"):
        open_dataset("imagenet", folders, mapping=mapping(tmp_path / "m.txt"))
    flat(folders, [1])
    with pytest.raises(DatasetError, match="1 images beside 2 folders"):
        open_dataset("imagenet", folders)
    empty = tmp_path / "empty"
    (empty / IDS[0]).mkdir(parents=True)
    with pytest.raises(DatasetError, match=f"{IDS[0]}: no images"):
        open_dataset("imagenet", empty, mapping=tmp_path / "m.txt")


def test_labels_that_are_refused(tmp_path, monkeypatch):
    flat(tmp_path, (1, 2))

    def refused(match, **options):
        with pytest.raises(DatasetError, match=match):
            open_dataset("imagenet", tmp_path, **options)

    refused("neither LOC_val_solution.csv nor ILSVRC2012_validation_ground_truth.txt")
    table, numbers = tmp_path / "labels.csv", tmp_path / "labels.txt"
    table.write_text("a,b\n1,2\n")
    refused("labels.csv: is no list of ImageId,PredictionString", labels=table)
    table.write_text(f"ImageId,PredictionString\nILSVRC2012_val_00000001,{IDS[0]} 1 2 3 4\n")
    refused("no label of ILSVRC2012_val_00000002", labels=table, mapping=mapping(tmp_path / "m.txt"))
    numbers.write_text("1\n2\n")
    refused("meta.mat.*which is not at", labels=numbers)
    (tmp_path / "meta.mat").write_bytes(b"no MATLAB file")
    refused("meta.mat: is not meta.mat of ILSVRC2012_devkit_t12", labels=numbers)
    write_meta(tmp_path / "meta.mat", META)
    for text in ("1\n1001\n", "1\n\n2\n", "1\nx\n"):
        numbers.write_text(text)
        refused("is no ILSVRC2012_ID", labels=numbers)
    numbers.write_text("1\n")
    refused("no label of ILSVRC2012_val_00000002", labels=numbers)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(MissingDependencyError, match=r"scipy: pip install 'agf-fx\[datasets\]'"):
        open_dataset("imagenet", tmp_path, labels=numbers)


def test_mappings_that_are_refused(tmp_path):
    write_jpeg(tmp_path / IDS[0] / "a.jpg")
    path = tmp_path / "m.json"
    for text in ("{", "[1]", "{}", '{"1": ["n01440764", "x"]}', '{"0": "n01440764"}', '{"0": ["tench", "x"]}'):
        path.write_text(text)
        with pytest.raises(DatasetError, match=r"m\.json"):
            open_dataset("imagenet", tmp_path, mapping=path)
    with pytest.raises(DatasetError, match="not the order"):
        open_dataset("imagenet", tmp_path, mapping=class_index(path, IDS[::-1]))
    with pytest.raises(DatasetError, match="cannot be read"):
        open_dataset("imagenet", tmp_path, mapping=tmp_path / "none.txt")
    (tmp_path / "m.txt").write_text("tench\n")
    with pytest.raises(DatasetError, match="no WordNet id"):
        open_dataset("imagenet", tmp_path, mapping=tmp_path / "m.txt")
