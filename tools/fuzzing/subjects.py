"""What is spoiled: each kind makes its originals once, and tries a spoiled one."""

from __future__ import annotations

import io
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import agf_fx
from agf_fx.exports.onnx.sealing import sealed
from agf_fx.imaging.read import read_image
from agf_fx.ir import serial
from agf_fx.methods.agf import attribution_guided_factorization
from agf_fx.models.checkpoint import load_checkpoint
from agf_fx.options import AGFOptions
from agf_fx.pipeline import analyse, lower, optimisations
from agf_fx.runtime.compiler import check_subject
from agf_fx.runtime.program import Program
from agf_fx.store import disk, entries
from agf_fx.store.disk import CacheWarning, Disk
from agf_fx.store.folders import secret
from fuzzing.changes import forged, spoiled

SAME, REFUSED, RECOMPILED, OTHER = "same", "refused", "recompiled", "other"


def network() -> nn.Module:
    """A small network with a shortcut, pooling and a norm."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x + self.norm(self.conv(x)))

    torch.manual_seed(0)
    front = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), Block()
    return nn.Sequential(*front, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()


class Kind(ABC):
    """One kind of file.

    Attributes:
        another: whether a file that is accepted may say something else than the original: it is then another picture,
            other weights, or a graph that the user has signed.
    """

    another = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "spoiled"
        self.images = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))

    @abstractmethod
    def spoil(self, random: Random) -> None:
        """Write a spoiled file."""

    @abstractmethod
    def attempt(self) -> str:
        """Use it: what became of it. Typed errors are refusals."""


class Cache(Kind):
    """Entries whose bytes are spoiled."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.model = network()
        self.canonical = analyse(agf_fx.capture(self.model, self.images))
        self.explanation = self.lowered(self.canonical)
        self.disk, self.key = Disk(folder / "cache"), "0" * 64
        self.expected = self.maps(self.canonical, self.explanation)
        data, constants = serial.write_canonical(self.canonical)
        self.written = (
            entries.Entry({"canonical": data, "fingerprint": "0" * 64}, constants),
            entries.Entry(serial.write_explanation(self.explanation), {}),
        )
        self.disk.fetch(self.key, lambda entry: None, lambda: 0, lambda value: self.written[0])
        self.entry = self.disk.graphs / f"{self.key}.agf"
        self.which = 0

    def lowered(self, canonical: Any) -> Any:
        """The explanation graph of a canonical graph."""
        method = attribution_guided_factorization(AGFOptions())
        return lower(canonical, method, optimisations=optimisations(in_place=True))

    def maps(self, canonical: Any, explanation: Any) -> Tensor:
        """What a graph computes."""
        program = Program(canonical, explanation)
        return program.run(self.images, torch.tensor([[0, 1], [2, -1]]), program.inputs(self.model))[0]

    def spoil(self, random: Random) -> None:
        """See `Kind`."""
        self.which = random.randrange(2)
        content = entries.packed(self.written[self.which], self.key, secret(self.disk.root))
        self.entry.write_bytes(spoiled(content, random))

    def attempt(self) -> str:
        """See `Kind`."""
        disk._WARNED.clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = self.disk.fetch(self.key, self.read, lambda: None, lambda value: None)
        if found is None:
            return RECOMPILED if any(issubclass(warning.category, CacheWarning) for warning in caught) else OTHER
        explanation = found if self.which else self.lowered(found)
        return SAME if torch.equal(self.maps(explanation.canonical, explanation), self.expected) else OTHER

    def read(self, entry: entries.Entry) -> Any:
        """The graph in an entry, as the compiler reads it."""
        if self.which:
            return serial.read_explanation(entry.data, self.canonical)
        canonical = serial.read_canonical(entry.data["canonical"], entry.tensors)
        check_subject(canonical, self.model, self.images)
        return canonical


class SignedCache(Cache):
    """Entries whose data is forged, and signed with the user's own key."""

    another = True

    def spoil(self, random: Random) -> None:
        """See `Kind`."""
        self.which, content = random.choice((0, 1, 1)), None
        while content is None:
            entry = entries.Entry(forged(self.written[self.which].data, random), self.written[self.which].tensors)
            try:
                content = entries.packed(entry, self.key, secret(self.disk.root))
            except (ValueError, TypeError):  # nothing that JSON can say
                content = None
        self.entry.write_bytes(content)


class Export(Kind):
    """Exported files whose bytes are spoiled."""

    format = "torchscript"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        explainer = agf_fx.compile(network(), self.images)
        explainer.export(folder / "original", self.format, class_names=list("abcde"))
        self.content = (folder / "original").read_bytes()
        self.expected = agf_fx.load(folder / "original")(self.images, 1)

    def spoil(self, random: Random) -> None:
        """See `Kind`."""
        self.path.write_bytes(spoiled(self.content, random))

    def attempt(self) -> str:
        """See `Kind`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = agf_fx.load(self.path)(self.images, 1)
        return SAME if torch.equal(found, self.expected) else OTHER


class Program2(Export):
    """The same for torch.export."""

    format = "export"


class Onnx(Export):
    """The same for ONNX."""

    format = "onnx"


class OnnxMetadata(Onnx):
    """ONNX files that say something else of themselves, with the right digest."""

    def spoil(self, random: Random) -> None:
        """See `Kind`."""
        import onnx

        model = onnx.load_from_string(self.content)
        about = json.loads(model.metadata_props[0].value)
        del about["digest"]
        model.ClearField("metadata_props")
        text = json.dumps(forged(about, random))
        self.path.write_bytes(sealed(model.SerializeToString(), text))


class Pictures(Kind):
    """Pictures whose bytes are spoiled: another picture is no fault."""

    another = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 4), np.uint8)
        modes = {"PNG": "RGBA", "JPEG": "RGB", "WEBP": "RGBA", "GIF": "P", "BMP": "RGB", "TIFF": "RGBA", "PPM": "RGB"}
        self.originals = [_encoded(Image.fromarray(pixels).convert(mode), name) for name, mode in modes.items()]
        self.originals.append(_encoded(Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "PNG"))
        self.originals.append(_encoded(Image.fromarray(pixels[..., 0].astype(np.float32)), "TIFF"))

    def spoil(self, random: Random) -> None:
        """See `Kind`."""
        self.path.write_bytes(spoiled(random.choice(self.originals), random))

    def attempt(self) -> str:
        """See `Kind`."""
        return SAME if read_image(self.path, max_pixels=10_000_000).mode == "RGB" else OTHER


def _encoded(picture: Image.Image, name: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, format=name)
    return file.getvalue()


class Checkpoints(Kind):
    """Checkpoints whose bytes are spoiled: other finite weights are no fault."""

    another = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.model = network()
        save_file(self.model.state_dict(), folder / "original.safetensors")
        self.content = (folder / "original.safetensors").read_bytes()
        self.path = folder / "spoiled.safetensors"

    def spoil(self, random: Random) -> None:
        """See `Kind`."""
        self.path.write_bytes(spoiled(self.content, random))

    def attempt(self) -> str:
        """See `Kind`."""
        load_checkpoint(self.model, self.path)
        finite = all(value.isfinite().all() for value in self.model.state_dict().values())
        return SAME if finite else "NaN weights"


KINDS: dict[str, Callable[[Path], Kind]] = {
    "cache": Cache,
    "signed-cache": SignedCache,
    "torchscript": Export,
    "export": Program2,
    "onnx": Onnx,
    "onnx-metadata": OnnxMetadata,
    "pictures": Pictures,
    "checkpoints": Checkpoints,
}
