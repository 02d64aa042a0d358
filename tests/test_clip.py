"""Scales that leave a few large values out: what a figure shows, and that it says so."""

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import agf_fx
from agf_fx.cli import app
from agf_fx.data import sample_scenes
from agf_fx.errors import OptionsError
from agf_fx.imaging import comparison
from agf_fx.imaging.figure import figure
from agf_fx.imaging.render import map_panel, symmetric_limit
from agf_fx.runtime.explanation import Explanation

GREY = np.full((24, 32, 3), 128, np.uint8)


def peaked():
    """A map with one value that is a thousand times the others."""
    relevance = np.random.default_rng(4).standard_normal((24, 32))
    relevance[3, 5] = 1000
    return relevance


def explained(maps):
    return Explanation(
        torch.from_numpy(maps)[None, None], torch.tensor([[0]]), torch.zeros(1, 3), torch.rand(1, 3, 24, 32)
    )


def test_the_scale_ends_at_a_quantile():
    relevance = peaked()
    assert symmetric_limit(relevance) == 1000
    assert symmetric_limit(relevance, 0.9) == np.quantile(np.abs(relevance), 0.9) < 3
    nearly_blank = np.zeros((24, 32))
    nearly_blank[0, 0] = -2
    assert symmetric_limit(nearly_blank, 0.9) == 2  # the quantile is 0
    assert symmetric_limit(np.zeros((2, 2)), 0.9) == 1


@pytest.mark.parametrize("clip", [0, -1, 1.01, float("nan"), "0.99", True])
def test_what_is_no_share_is_refused(clip):
    with pytest.raises(OptionsError, match="is no share of the pixels"):
        map_panel(GREY, peaked(), clip=clip)


def test_a_panel_shows_more_of_a_map_with_a_peak():
    pale, strong = (np.asarray(map_panel(GREY, peaked(), clip=clip)).astype(int) for clip in (1, 0.9))
    assert np.ptp(pale, axis=2).mean() < 10  # grey but for the peak
    assert np.ptp(strong, axis=2).mean() > 50


def test_a_figure_says_where_its_scale_ends():
    relevance = peaked()
    raw, clipped = figure(explained(relevance)), figure(explained(relevance), clip=0.9)
    assert "each map by its largest magnitude" in raw.axes[-1].get_ylabel()
    assert "each map by its 0.9 quantile" in clipped.axes[-1].get_ylabel()
    drawn = clipped.axes[1].images[0]
    np.testing.assert_allclose(drawn.get_array(), relevance / symmetric_limit(relevance, 0.9))
    assert drawn.get_clim() == (-1, 1)  # beyond which there is the colour of the end


def test_lines_of_signals_end_at_the_scale():
    signal = Explanation(
        torch.from_numpy(peaked()[3])[None, None], torch.tensor([[0]]), torch.zeros(1, 3), torch.rand(1, 2, 32)
    )
    axis = figure(signal, clip=0.9).axes[1]
    heights = np.concatenate([path.vertices[:, 1] for line in axis.collections for path in line.get_paths()])
    assert heights.max() == 1
    assert np.abs(heights).max() <= 1
    assert (np.abs(heights) > 0.3).sum() > 10


def test_a_comparison_is_clipped(tmp_path):
    result = agf_fx.Comparison({"one": explained(peaked())})
    assert "0.9 quantile" in comparison.figure(result, clip=0.9).axes[-1].get_ylabel()
    assert "from minus to plus\nthe 0.9 quantile of its magnitudes" in comparison.page(result, clip=0.9)
    assert "from minus to plus\nits largest magnitude" in comparison.page(result)
    with pytest.raises(OptionsError, match="no share"):
        result.save(tmp_path / "sheet.png", clip=2)


@pytest.mark.parametrize("command", ["explain", "compare"])
def test_the_command_line_clips_pictures_and_no_numbers(command, tmp_path):
    pictures, numbers = [], []
    for clip in (1, 0.9):
        out = tmp_path / f"{clip}" if command == "explain" else tmp_path / f"{clip}.png"
        words = [command, sample_scenes()[0].path, "-m", "digits-vgg", "-o", out, "--clip", clip]
        words += ["--methods", "gradient"] if command == "compare" else ["--method", "gradient", "--target", 1]
        assert CliRunner().invoke(app, [str(word) for word in words]).exit_code == 0
        file = out if command == "compare" else next(out.glob("*.png"))
        pictures.append(np.asarray(Image.open(file)))
        numbers += [array.read_bytes() for array in out.glob("*.npy")] if command == "explain" else [b""]
    assert not np.array_equal(*pictures)
    assert numbers[0] == numbers[1]
    wrong = CliRunner().invoke(app, [*map(str, words), "--clip", "3"])
    assert wrong.exit_code == 2
    assert "clip=3.0 is no share of the pixels" in wrong.stderr
