"""Scenes with known answers: two handwritten digits on a textured background, and the mask of each digit."""

from agf_fx.data.sample_scenes import SampleScene, sample_scenes
from agf_fx.data.scenes import Scenes, digit_scenes

__all__ = ["SampleScene", "Scenes", "digit_scenes", "sample_scenes"]
