"""Datasets in the formats in which they are published, for the evaluation of explanations."""

from agf_fx.data.datasets.batches import Batch, batches
from agf_fx.data.datasets.example import Dataset, Example
from agf_fx.data.datasets.registry import KINDS, open_dataset, parse_dataset, parse_options

__all__ = ["KINDS", "Batch", "Dataset", "Example", "batches", "open_dataset", "parse_dataset", "parse_options"]
