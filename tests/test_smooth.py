"""Smoothing is for figures: what it does to a map, and that no number that leaves the library has seen it."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

from agf_fx.cli import app
from agf_fx.data import sample_scenes
from agf_fx.errors import NonFiniteInputError, OptionsError
from agf_fx.imaging.figure import figure
from agf_fx.imaging.render import map_panel, overlay
from agf_fx.imaging.smooth import smoothed
from agf_fx.runtime.explanation import Explanation

GREY = np.full((24, 32, 3), 128, np.uint8)


def noise(*shape):
    return np.random.default_rng(4).standard_normal(shape)


@pytest.mark.parametrize("deviation", [1, 2])
def test_it_is_a_gaussian_mirrored_at_the_borders(deviation):
    relevance = noise(24, 32)
    expected = gaussian_filter(relevance, deviation, mode="mirror", truncate=3)
    np.testing.assert_allclose(smoothed(relevance, deviation), expected, rtol=0, atol=1e-12)


def test_it_takes_a_grid_away_and_keeps_what_is_flat():
    grid = np.indices((24, 32)).sum(0) % 2 * 2.0 - 1
    assert np.abs(smoothed(grid, 1)).max() < 0.01
    assert np.abs(smoothed(np.repeat(grid[:, :1], 32, axis=1), 1)).max() < 0.02
    np.testing.assert_allclose(smoothed(np.full((24, 32), -3.0), 2), -3)


def test_nothing_changes_by_default():
    relevance = noise(24, 32).astype(np.float32)
    assert smoothed(relevance, 0) is relevance
    assert map_panel(GREY, relevance).tobytes() == map_panel(GREY, relevance, smooth=0).tobytes()


@pytest.mark.parametrize("smooth", [-1, float("nan"), float("inf"), 8])
def test_what_cannot_be_a_deviation_is_refused(smooth):
    with pytest.raises(OptionsError, match="give"):
        smoothed(noise(24, 32), smooth)


def test_maps_that_are_not_finite_are_still_refused():
    relevance = noise(24, 32)
    relevance[3, 3] = np.inf
    with pytest.raises(NonFiniteInputError):
        map_panel(GREY, relevance, smooth=1)


def test_colours_are_scaled_after_smoothing():
    relevance = np.zeros((24, 32))
    relevance[12, 16] = 5
    expected = map_panel(GREY, smoothed(relevance, 2)).tobytes()
    assert map_panel(GREY, relevance, smooth=2).tobytes() == expected
    assert overlay(GREY, relevance, smooth=2).crop((32 * 11 + 8, 0, 64 * 11 + 8, 24 * 11)).tobytes() == expected


def test_a_figure_says_that_it_is_smoothed_and_leaves_the_maps_alone():
    maps = torch.from_numpy(noise(1, 2, 24, 32))
    result = Explanation(maps.clone(), torch.tensor([[0, 1]]), torch.zeros(1, 3), torch.rand(1, 3, 24, 32))
    raw, blurred = figure(result), figure(result, smooth=1)
    assert "smoothed by 1 pixels" in blurred.axes[-1].get_ylabel()
    assert "smoothed" not in raw.axes[-1].get_ylabel()
    assert torch.equal(result.maps, maps)
    drawn = blurred.axes[1].images[0].get_array()
    expected = smoothed(maps[0, 0].numpy(), 1)
    np.testing.assert_allclose(drawn, expected / np.abs(expected).max())


def test_the_command_line_smooths_pictures_and_no_numbers(tmp_path):
    for folder, smooth in (("raw", 0), ("smooth", 1.5)):
        arguments = [
            "explain",
            sample_scenes()[0].path,
            "-m",
            "digits-vgg",
            "-o",
            tmp_path / folder,
            "--smooth",
            smooth,
        ]
        assert CliRunner().invoke(app, [str(argument) for argument in arguments]).exit_code == 0
    (raw,), (smooth,) = ([*(tmp_path / folder).glob("*.npy")] for folder in ("raw", "smooth"))
    assert raw.read_bytes() == smooth.read_bytes()
    pictures = [np.asarray(Image.open(file.with_suffix(".png"))) for file in (raw, smooth)]
    assert not np.array_equal(*pictures)


def test_the_command_line_refuses_too_much_before_it_works(tmp_path):
    arguments = [
        "explain",
        str(sample_scenes()[0].path),
        "-m",
        "digits-vgg",
        "-o",
        str(tmp_path / "o"),
        "--smooth",
        "30",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "smooth=30.0 would blur a map of 64 pixels to nothing; give 21 or less" in result.stderr
    assert not (tmp_path / "o").exists()
