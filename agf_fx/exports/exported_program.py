"""An exported program: for ``torch.export.load``."""

from __future__ import annotations

import os

import torch
from torch.export import Dim, ExportedProgram

from agf_fx.exports.archives import compressed
from agf_fx.exports.metadata import MEMBER
from agf_fx.exports.standalone import Standalone
from agf_fx.ir.types import MOST_IMAGES


def write(explainer: Standalone, metadata: str, path: str | os.PathLike[str]) -> None:
    """Write a ``.pt2`` archive of an exported program.

    Args:
        explainer: what to write.
        metadata: JSON, stored as an extra file of the archive.
        path: the file to write.

    Raises:
        OSError: it cannot be written.
    """
    program = to_exported_program(explainer)
    program.example_inputs = None  # a batch of images that nobody asked for
    with compressed(path) as archive:
        torch.export.save(program, archive, extra_files={MEMBER: metadata})


def to_exported_program(explainer: Standalone) -> ExportedProgram:
    """The explainer as an exported program of any number of images, 1 to `MOST_IMAGES`, and of targets, 1 and more."""
    images, targets = Dim("N", min=1, max=MOST_IMAGES), Dim("K", min=1)
    shapes = ({0: images}, {0: images, 1: targets})
    with torch.no_grad():
        program = torch.export.export(
            explainer.module, (explainer.images, explainer.target), dynamic_shapes=shapes, strict=False
        )
    for node in program.graph.nodes:
        node.meta = {"val": node.meta["val"]} if "val" in node.meta else {}  # not where each call was traced
    return program
