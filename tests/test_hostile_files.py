"""Pictures, checkpoints, class names and networks that somebody else has made: refused in words, in bounded memory."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from networks import small_vgg
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import agf_fx
from agf_fx.errors import CheckpointError, ImageError, InputError, ModelLoadError, TargetError
from agf_fx.imaging.read import read_image
from agf_fx.models import class_index, read_class_names
from agf_fx.models.checkpoint import load_checkpoint
from agf_fx.runs.naming import clean

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"


# --- pictures


def test_no_decoder_that_starts_a_program_is_tried(tmp_path, monkeypatch):
    (tmp_path / "photo.png").write_bytes(EPS)
    monkeypatch.setattr(subprocess, "Popen", pytest.fail)
    with pytest.raises(ImageError, match="not an image that can be read"):
        read_image(tmp_path / "photo.png")


@pytest.mark.parametrize(
    "start", [b"SIMPLE  = ", b"GRIB", b"BUFR", b"\x89HDF\r\n\x1a\n", b"\xd7\xcd\xc6\x9a\0\0", b"8BPS\0\1"]
)
def test_other_decoders_are_not_tried_either(start, tmp_path):
    (tmp_path / "x.png").write_bytes(start + bytes(4000))
    with pytest.raises(ImageError):
        read_image(tmp_path / "x.png")


MEASURED = """
import resource, sys
from agf_fx.imaging.read import read_image
import numpy
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
read_image(sys.argv[1])
print(peak() - before)
"""
WIDE = {
    "RGBA": lambda n: Image.fromarray(np.full((n, n, 4), 77, np.uint8)),
    "LA": lambda n: Image.fromarray(np.full((n, n, 2), 77, np.uint8)),
    "I;16": lambda n: Image.fromarray(np.full((n, n), 7777, np.uint16)),
    "F": lambda n: Image.fromarray(np.full((n, n), 0.5, np.float32)),
}


@pytest.mark.parametrize("mode", WIDE)
def test_wide_pixels_take_little_more_than_the_picture(mode, tmp_path):
    """9 megapixels: 36 MB as they are read, 36 MB as RGB, and a strip."""
    path = tmp_path / ("x.tiff" if mode == "F" else "x.png")
    WIDE[mode](3000).save(path)
    found = subprocess.run([sys.executable, "-c", MEASURED, str(path)], capture_output=True, text=True, check=True)
    assert float(found.stdout) < 130


def test_wide_pixels_count_twice(tmp_path):
    for mode, make in WIDE.items():
        path = tmp_path / ("x.tiff" if mode == "F" else "x.png")
        make(10).save(path)
        assert read_image(path, max_pixels=200).size == (10, 10)
        with pytest.raises(ImageError, match="count twice"):
            read_image(path, max_pixels=199)


def test_strips_make_one_picture(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (1500, 1000, 4), np.uint8)
    Image.fromarray(values).save(tmp_path / "x.png")
    alpha = values[..., 3:] / 255.0
    expected = values[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(np.asarray(read_image(tmp_path / "x.png"), float) - expected).max() <= 1


def test_a_pipe_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(ImageError, match="not an ordinary file"):
        read_image(tmp_path / "x.png")


# --- checkpoints


def changed(tmp_path, key, value):
    state = {name: tensor.clone() for name, tensor in small_vgg().state_dict().items()}
    save_file(state | {key: value(state[key])}, tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


WRONG = {
    "too large for float32": (lambda w: torch.full_like(w, 1e300, dtype=torch.float64), "too large for float32"),
    "whole numbers": (lambda w: w.to(torch.int64), "is int64, the model has float32"),
    "bytes": (lambda w: w.to(torch.uint8), "is uint8"),
    "truth values": (lambda w: w > 0, "is bool"),
    "complex": (lambda w: w.to(torch.complex64), "is complex64"),
    "NaN": (lambda w: torch.full_like(w, math.nan), "NaN or infinite"),
    "infinite in half precision": (lambda w: torch.full_like(w, math.inf, dtype=torch.float16), "NaN or infinite"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_numbers_of_another_kind_are_refused(kind, tmp_path):
    value, reason = WRONG[kind]
    model = small_vgg().float()
    with pytest.raises(CheckpointError, match=reason) as refusal:
        load_checkpoint(model, changed(tmp_path, "features.0.weight", value))
    assert "features.0.weight" in str(refusal.value)


def test_a_narrower_type_is_converted(tmp_path):
    load_checkpoint(small_vgg().float(), changed(tmp_path, "features.0.weight", torch.Tensor.half))


def test_floats_in_place_of_a_counter_are_refused(tmp_path):
    path = changed(tmp_path, "features.1.num_batches_tracked", torch.Tensor.double)
    with pytest.raises(CheckpointError, match="the model has int64"):
        load_checkpoint(small_vgg(), path)


@pytest.mark.parametrize("path", ["a\0b.safetensors", "x" * 5000 + ".safetensors"])
def test_paths_that_no_file_can_have(path):
    with pytest.raises(CheckpointError):
        load_checkpoint(small_vgg(), path)


def test_a_pipe_is_no_checkpoint(tmp_path):
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="no ordinary file"):
        load_checkpoint(small_vgg(), tmp_path / "x.safetensors")


# --- networks


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_no_numbers_are_refused_when_they_are_prepared(value):
    model, images = small_vgg(), torch.randn(1, 3, 16, 16).double()
    explainer = agf_fx.compile(model, images)
    explainer(images)
    with torch.no_grad():
        model.features[0].weight[0, 0, 0, 0] = value
    with pytest.raises(InputError, match=r"features\.0\.weight of TinyVGG is NaN or infinite as float64, in 1 of"):
        explainer(images)


def test_weights_that_are_too_large_for_the_precision_are_refused():
    model, images = small_vgg(), torch.randn(1, 3, 16, 16).double()
    with torch.no_grad():
        model.features[0].weight[0] = 1e300
    with pytest.raises(InputError, match=r"features\.0\.weight .* as float32"):
        agf_fx.compile(model, precision="float32")(images)


def test_an_infinite_mask_is_no_fault():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)
            self.register_buffer("mask", torch.tensor([0.0, 0.0, -math.inf, 0.0]))

        def forward(self, x):
            x = self.conv(x).relu().mean((2, 3))
            return self.fc((x + self.mask).softmax(1))

    assert agf_fx.compile(Masked().eval())(torch.randn(1, 3, 8, 8)).isfinite().all()


def broken_network():
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
    nn.init.constant_(model[3].bias, math.nan)
    return model


def leaving_network():
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("test_hostile_files:broken_network", r"NaN or infinite weights in 3\.bias"),
        ("test_hostile_files:leaving_network", "SystemExit"),
        ("builtins:exit", "failed"),
    ],
)
def test_factories_that_give_no_network(name, reason, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)  # which builtins.exit closes
    with pytest.raises(ModelLoadError, match=reason):
        agf_fx.load_model(name)


# --- names


@pytest.mark.parametrize("text", ["[" * 10**5, '{"0":' * 10**5, "9" * 10**5, "\xff", "[1, 2]", '[["a"]]', '{"0": {}}'])
def test_class_names_of_another_form_are_refused(text, tmp_path):
    (tmp_path / "names.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelLoadError):
        read_class_names(tmp_path / "names.json")


def test_class_names_are_read_from_files_only(tmp_path):
    os.mkfifo(tmp_path / "names.txt")
    with pytest.raises(ModelLoadError, match="cannot be read"):
        read_class_names(tmp_path / "names.txt")
    with pytest.raises(ModelLoadError, match="cannot be read"):
        read_class_names("names\0.txt")


def test_a_number_of_many_digits_is_no_class():
    with pytest.raises(TargetError, match="unknown class"):
        class_index("9" * 10**4, ["a", "b"])


@pytest.mark.parametrize(
    "character", ["\u202e", "\u2066", "\u200b", "\ufeff", "\x85", "\x1b", "\u2028", "\x7f", "\udc80"]
)
def test_file_names_show_what_they_are(character):
    name = clean(f"photo{character}gnp.exe")
    assert name.isprintable()
    assert character not in name
    assert clean("Bild ä 写真") == "Bild ä 写真"
    assert json.dumps(name)
