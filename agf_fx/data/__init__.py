"""Pictures to explain: scenes of two handwritten digits with the mask of each, and photographs."""

from agf_fx.data.photographs import Photograph, mosaic, sample_photographs
from agf_fx.data.sample_scenes import SampleScene, sample_scenes
from agf_fx.data.scenes import Scenes, digit_scenes

__all__ = ["Photograph", "SampleScene", "Scenes", "digit_scenes", "mosaic", "sample_photographs", "sample_scenes"]
