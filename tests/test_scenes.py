import json
import sys

import numpy as np
import pytest
import torch

from agf_fx.data import digit_scenes, handwriting, sample_scenes
from agf_fx.data.textures import BRIGHTEST_BACKGROUND, luma, textured_backgrounds
from agf_fx.errors import MissingDependencyError, OptionsError


@pytest.fixture(scope="module")
def scenes():
    pytest.importorskip("sklearn")
    return digit_scenes(384, split="test", seed=3)


def _same(a, b):
    return torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and torch.equal(a.masks, b.masks)


def test_shapes_and_types(scenes):
    assert len(scenes) == 384
    assert scenes.images.shape == (384, 3, 64, 64)
    assert scenes.images.dtype == torch.float32
    assert scenes.images.min() >= 0
    assert scenes.images.max() <= 1
    assert scenes.labels.shape == (384, 2)
    assert scenes.labels.dtype == torch.int64
    assert scenes.masks.shape == (384, 2, 64, 64)
    assert scenes.masks.dtype == torch.bool


def test_images_survive_an_eight_bit_file_exactly(scenes):
    eight_bit = (scenes.images * 255).round().to(torch.uint8)
    assert torch.equal(eight_bit.float() / 255, scenes.images)


def test_same_seed_same_bits_and_longer_series_begin_alike(scenes):
    assert _same(digit_scenes(50, seed=5), digit_scenes(50, seed=5))
    start = digit_scenes(10, split="test", seed=3)
    assert torch.equal(start.images, scenes.images[:10])
    assert torch.equal(start.masks, scenes.masks[:10])


def test_other_seeds_and_splits_give_other_scenes():
    first = digit_scenes(4, seed=0).images
    assert not torch.equal(first, digit_scenes(4, seed=1).images)
    assert not torch.equal(first, digit_scenes(4, split="test", seed=0).images)


def test_the_two_digits_differ_and_every_class_occurs(scenes):
    assert (scenes.labels[:, 0] != scenes.labels[:, 1]).all()
    assert scenes.labels.unique().tolist() == list(range(10))
    assert torch.equal(scenes.multi_hot().sum(1), torch.full((384,), 2.0))
    assert scenes.multi_hot()[0].nonzero().flatten().tolist() == sorted(scenes.labels[0].tolist())


@pytest.mark.parametrize("size", [48, 64, 96])
def test_masks_are_disjoint_and_cover_bright_ink(size):
    scenes = digit_scenes(128, size=size, seed=2)
    assert not (scenes.masks[:, 0] & scenes.masks[:, 1]).any()
    area = scenes.masks.flatten(2).float().mean(2)
    assert area.min() > 0.01
    assert area.max() < 0.25
    # Only ink is bright: what is clearly brighter than any background lies under a mask.
    bright = luma(scenes.images)[:, 0] > BRIGHTEST_BACKGROUND + 0.15
    assert bright.flatten(1).any(1).all()
    assert not (bright & ~scenes.masks.any(1)).any()


def test_digits_stay_inside_the_image(scenes):
    # Ink of a whole digit never fills the border, wherever the digit is.
    border = torch.ones(64, 64, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert (scenes.masks & border).flatten(2).sum(2).max() <= 16


def test_digits_are_placed_all_over_the_image(scenes):
    covered = scenes.masks.float().mean((0, 1))
    assert (covered > 0).float().mean() > 0.85
    for axis in (0, 1):
        centre = (covered.sum(axis) * torch.arange(64)).sum() / covered.sum()
        assert 29 < centre < 34


def test_digits_are_readable_on_every_background():
    rng = np.random.default_rng(0)
    assert luma(textured_backgrounds(rng, 64, 64)).max() <= BRIGHTEST_BACKGROUND + 1e-5


def test_no_writer_is_in_both_parts():
    pytest.importorskip("sklearn")
    from sklearn.datasets import load_digits

    every = load_digits()
    ink = {name: handwriting.handwritten_digits(name)[0] for name in ("train", "test")}
    assert np.array_equal(np.sort(ink["train"], axis=0), np.sort(every.images[:1157] / 16, axis=0))
    assert np.array_equal(np.sort(ink["test"], axis=0), np.sort(every.images[1287:] / 16, axis=0))
    # The parts are cut where a writer's block opens: with 0..9 three times.
    for start in (1157, 1287):
        assert every.target[start : start + 30].tolist() == list(range(10)) * 3


def test_digits_can_be_left_out():
    scenes = digit_scenes(128, absent=0.5, seed=1)
    gone = scenes.labels == -1
    assert 0.3 < gone.float().mean() < 0.7
    assert torch.equal(gone, ~scenes.masks.flatten(2).any(2))
    assert torch.equal(scenes.multi_hot().sum(1), (~gone).sum(1).float())
    assert (digit_scenes(8, absent=1.0).labels == -1).all()


def test_no_scenes_at_all():
    scenes = digit_scenes(0)
    assert scenes.images.shape == (0, 3, 64, 64)
    assert scenes.multi_hot().shape == (0, 10)


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": -1},
        {"count": 2.0},
        {"count": True},
        {"split": "validation"},
        {"seed": -1},
        {"size": 32},
        {"absent": 1.5},
        {"absent": float("nan")},
    ],
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(OptionsError, match=str(next(iter(wrong)))):
        digit_scenes(**{"count": 1, **wrong})


def test_missing_scikit_learn_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    handwriting.handwritten_digits.cache_clear()
    with pytest.raises(MissingDependencyError, match=r"agf-fx\[data\]"):
        digit_scenes(1)


def test_sample_scenes_are_complete():
    samples = sample_scenes()
    assert 6 <= len(samples) <= 8
    for sample in samples:
        first, second = sample.labels
        assert first != second
        assert sample.image().shape == (3, 64, 64)
        assert sample.masks.shape == (2, 64, 64)
        assert sample.masks.dtype == torch.bool
        assert sample.masks.flatten(1).any(1).all()
        assert not (sample.masks[0] & sample.masks[1]).any()


def test_sample_scenes_are_held_out_scenes():
    pytest.importorskip("sklearn")
    samples = sample_scenes()
    index = json.loads((samples[0].path.parent / "scenes.json").read_text())
    assert index["split"] == "test"
    assert index["class_names"] == list("0123456789")
    positions = [entry["index"] for entry in index["scenes"]]
    drawn = digit_scenes(max(positions) + 1, split="test", seed=index["seed"])
    for sample, position in zip(samples, positions, strict=True):
        assert list(sample.labels) == drawn.labels[position].tolist()
        # Another processor may round a pixel the other way.
        assert (sample.image() - drawn.images[position]).abs().mean() < 1 / 255
        assert (sample.masks != drawn.masks[position]).float().mean() < 0.001
