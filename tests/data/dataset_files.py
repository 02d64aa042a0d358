"""Writes tiny files in the formats in which datasets are published."""

from __future__ import annotations

import json

import h5py
import numpy as np
from PIL import Image
from scipy.io import savemat

RNG = np.random.default_rng(0)


def pixels(height, width):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_jpeg(path, height=6, width=8, *, orientation=None):
    """Write noise as JPEG; return what it decodes to, as it is stored."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(pixels(height, width)).save(path, format="JPEG", exif=exif)
    return np.asarray(Image.open(path))


def write_palette(path, values):
    """Write class numbers as VOC does: a palette PNG whose indices are the numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(values, dtype=np.uint8))
    picture.putpalette([level for value in range(256) for level in (value, 255 - value, value * 7 % 256)])
    assert picture.mode == "P"
    picture.save(path)


def write_grey(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)


def write_voc(folder, masks, split="val"):
    """Write masks {id: (H, W)} with images; return what the images decode to."""
    root = folder / "VOCdevkit" / "VOC2012"
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in masks))
    for name, values in masks.items():
        write_palette(root / "SegmentationClass" / f"{name}.png", values)
    return {name: write_jpeg(root / "JPEGImages" / f"{name}.jpg", *np.shape(masks[name])) for name in masks}


def write_matlab(path, images, masks):
    """Write gtsegs_ijcv.mat as MATLAB 7.3 does: a struct of cells, of which the masks hold cells again."""
    with h5py.File(path, "w", userblock_size=512) as file:
        kept = file.create_group("#refs#")

        def refer(array, kind):
            data = kept.create_dataset(f"r{len(kept)}", data=array, **compressed(array))
            data.attrs["MATLAB_class"] = np.bytes_(kind)
            return data.ref

        def cell(references):
            return np.array(references, dtype=h5py.ref_dtype).reshape(-1, 1)

        value = file.create_group("value")
        value.attrs["MATLAB_class"] = np.bytes_("struct")
        img = cell([refer(array.transpose(2, 1, 0), "uint8") for array in images])
        gt = cell([refer(cell([refer(array.T, "uint8")]), "cell") for array in masks])
        for name, references in (("img", img), ("gt", gt)):
            value.create_dataset(name, data=references, dtype=h5py.ref_dtype).attrs["MATLAB_class"] = np.bytes_("cell")
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jun 10 2013 HDF5 schema 1.00 .".ljust(116))
        file.seek(124)
        file.write(b"\x00\x02IM")


def compressed(array):
    return {} if array.dtype == object else {"compression": "gzip", "compression_opts": 3}


def write_meta(path, rows):
    """Write meta.mat of the kit from rows (ILSVRC2012_ID, WNID, words, children)."""
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height")
    synsets = np.zeros((len(rows), 1), dtype=[(name, object) for name in (*fields, "num_train_images")])
    for row, (number, wordnet_id, words, children) in zip(synsets[:, 0], rows, strict=True):
        row["ILSVRC2012_ID"], row["WNID"], row["words"], row["gloss"] = float(number), wordnet_id, words, "a gloss"
        row["num_children"], row["children"] = float(len(children)), np.array(children, dtype=float)
        row["wordnet_height"], row["num_train_images"] = 0.0, 1300.0
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"synsets": synsets}, do_compression=True)


def write_coco(folder, images, annotations, categories, split="val2017"):
    """Write images {id: (file_name, height, width)} and the JSON; return what the images decode to."""
    table = {
        "info": {"year": 2017},
        "licenses": [],
        "images": [
            {"license": 1, "file_name": name, "height": height, "width": width, "id": number}
            for number, (name, height, width) in images.items()
        ],
        "annotations": [{"area": 1.0, "bbox": [0, 0, 1, 1], "iscrowd": 0, **row} for row in annotations],
        "categories": [{"supercategory": "thing", "id": number, "name": name} for number, name in categories],
    }
    (folder / "annotations").mkdir(parents=True)
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(table))
    return {number: write_jpeg(folder / split / name, *size) for number, (name, *size) in images.items()}
