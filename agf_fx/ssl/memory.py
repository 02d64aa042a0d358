"""A memory bank: the latent vectors of many images, among which the nearest neighbour of one is looked for."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agf_fx.errors import ArchitectureError, CheckpointError, InputError, NonFiniteInputError, OptionsError
from agf_fx.frontend.outputs import Output
from agf_fx.runtime.inputs import batches_of
from agf_fx.ssl.encoder import Encoder
from agf_fx.ssl.neighbours import Neighbours, faiss_index, nearest
from agf_fx.store.tensor_files import read_tensors, write_tensors

_KIND, _LAYOUT = "agf-fx memory bank", "1"
_BUILD = "build it with agf_fx.ssl.MemoryBank.build(model, loader)"
_ALIKE = 1e-3  # of the length of the reference's latent vector: how far another machine's rounding may take it


@dataclass(frozen=True, eq=False)
class MemoryBank:
    """The latent vectors of M images by one network, from `MemoryBank.build`.

    *The image itself* is no neighbour of its own: entries with exactly its pixels are left out, and entries with its
    id, where ids are given. Two equal pictures are the same picture whatever their ids; two different ones with one id,
    such as two crops of a photograph, are too. What the network makes equal latents of, and differs in its pixels, is a
    neighbour at the distance 0.

    Attributes:
        latents: (M, D) on the CPU, float32, or float64 of a network in float64.
        pixels: (M, 2) int64, a digest of the pixels of each image.
        ids: names of the images, or None.
        image_shape: (C, H, W) of the images.
        dtype: in which they came.
        head: the layer whose input the latents are.
        fingerprint: digest of the weights in front of it.
        reference: (D,) latent vector of a certain picture of noise.
    """

    latents: Tensor
    pixels: Tensor
    ids: tuple[str, ...] | None
    image_shape: tuple[int, ...]
    dtype: torch.dtype
    head: str
    fingerprint: str
    reference: Tensor
    _kept: dict[str, Any] = field(default_factory=dict, repr=False)

    @staticmethod
    def build(
        model: nn.Module,
        loader: Iterable[Any],
        *,
        ids: Iterable[object] | None = None,
        head: str | None = None,
        output: Output = None,
        unknown_ops: str = "refuse",
    ) -> MemoryBank:
        """Encode the images of a loader, one batch in memory at a time.

        Args:
            model: a self-supervised network, images (N, C, H, W) -> logits (N, classes) of its own task. It is run in
                evaluation mode and not touched.
            loader: batches (N, C, H, W) of images of one size, floating, or tuples or lists that begin with one, such
                as a DataLoader gives; they are moved to the device of the model and into its dtype.
            ids: a name for each image, in the order of the loader: file names, or numbers. By default there are none,
                and images are told apart by their pixels.
            head: path of the linear layer whose input is the latent vector; None for the last layer.
            output, unknown_ops: see `agf_fx.capture`.

        Raises:
            InputError: the loader is empty or gives something else than images of one size.
            NonFiniteInputError: NaN or infinite pixels or latents; the message says in which batch.
            OptionsError: another number of ids than images, or no linear layer is called ``head``.
            CaptureError, UnsupportedOpError: the model cannot be captured, or has no linear head.
        """
        encoder = Encoder(model, head=head, output=output, unknown_ops=unknown_ops)
        latents, pixels, shape = [], [], None
        for number, images in enumerate(batches_of(loader, encoder.like)):
            shape = tuple(images.shape[1:]) if shape is None else shape
            if tuple(images.shape[1:]) != shape:
                raise InputError(
                    f"batch {number} of the loader has images {tuple(images.shape[1:])} after ones {shape}; give "
                    "images of one size: latents of different sizes are not comparable."
                )
            try:
                latents.append(encoder.latents(images).cpu())
            except NonFiniteInputError as error:
                raise NonFiniteInputError(f"batch {number} of the loader: {error}", indices=error.indices) from error
            pixels.append(pixel_digests(images))
        if shape is None:
            raise InputError("the loader gave no batch; give a loader of a dataset.")
        names = None if ids is None else tuple(map(str, ids))
        count = sum(map(len, latents))
        if names is not None and len(names) != count:
            raise OptionsError(f"{len(names)} ids were given for {count} images; give one for each, or none.")
        found = MemoryBank(
            torch.cat(latents),
            torch.cat(pixels),
            names,
            shape,
            encoder.like.dtype,
            encoder.split.name,
            encoder.fingerprint(),
            encoder.reference(shape).cpu(),
        )
        found._kept.update(encoder=encoder, asked=head)
        return found

    def __len__(self) -> int:
        return len(self.latents)

    def nearest(self, latents: Tensor, images: Tensor | None = None, ids: Sequence[object] | None = None) -> Neighbours:
        """The entry at the least Euclidean distance from each latent vector, the image itself left out.

        The search is exact, and the first of several at one distance is taken. Of a large bank, FAISS chooses the
        candidates where it is installed (``pip install 'agf-fx[faiss]'``), with the same result.

        Args:
            latents: (N, D).
            images: (N, C, H, W) that these belong to; None where the images are not in the bank.
            ids: of the N images, as those of the bank; None for those without.

        Returns:
            Index (N,) int64 and distance (N,) float64, on the CPU; -1 and infinity where the bank has no other image.

        Raises:
            InputError: latents are of another length, or images or ids of another number; or NaN.
            OptionsError: ids, and a bank without.
        """
        if latents.dim() != 2 or latents.shape[1] != self.latents.shape[1]:
            raise InputError(
                f"latents are {tuple(latents.shape)}, and those of the bank have {self.latents.shape[1]} entries; use "
                f"the network that the bank was built for, or {_BUILD}."
            )
        if not bool(latents.isfinite().all()):
            raise InputError("latents hold NaN or infinity, which are near to nothing; leave these images out.")
        for name, given in (("images", images), ("ids", ids)):
            if given is not None and len(given) != len(latents):
                raise InputError(
                    f"{len(given)} {name} were given for {len(latents)} latent vectors; give one for each."
                )
        excluded = torch.cat([self._same_pixels(images), self._same_ids(ids)])
        return nearest(latents.detach().cpu(), self.latents, excluded, self._index())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the bank to a ``.safetensors`` file, which appears whole or not at all.

        Raises:
            ExportError: it cannot be written.
        """
        tensors = {"latents": self.latents, "pixels": self.pixels, "reference": self.reference}
        if self.ids is not None:
            text = json.dumps(self.ids).encode()
            tensors["ids"] = torch.from_numpy(np.frombuffer(text, dtype=np.uint8).copy())
        about = {
            "kind": _KIND,
            "layout": _LAYOUT,
            "image_shape": json.dumps(self.image_shape),
            "dtype": str(self.dtype).removeprefix("torch."),
            "head": self.head,
            "asked": self._kept.get("asked") or "",
            "fingerprint": self.fingerprint,
        }
        write_tensors(path, tensors, about)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> MemoryBank:
        """Read a file that `save` has written.

        Raises:
            CheckpointError: it is missing, damaged, or holds something else.
        """
        name = os.fspath(path)
        about, stored = read_tensors(path, _KIND, _LAYOUT, what="memory bank", advice=_BUILD)
        try:
            return _read(about, stored)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{name}: is no whole memory bank ({error}); {_BUILD}.") from error

    def encoder(self, model: nn.Module, *, output: Output = None, unknown_ops: str = "refuse") -> Encoder:
        """What encodes images as those of the bank were, kept for the model that it was asked for last."""
        kept = self._kept.get("encoder")
        if kept is None or kept.model is not model or kept.asked[1:] != (output, unknown_ops):
            kept = self._kept["encoder"] = Encoder(
                model, head=self._kept.get("asked"), output=output, unknown_ops=unknown_ops
            )
        return kept

    def check(self, encoder: Encoder) -> None:
        """Check that the bank is of the network of an encoder that has seen images of its size.

        Raises:
            ArchitectureError: it is of another network, or of other weights.
        """
        weights = encoder.fingerprint()
        if self._kept.get("checked") == (id(encoder), weights):
            return
        name, why = type(encoder.model).__name__, ""
        if encoder.split.size != self.latents.shape[1]:
            why = f"its latents have {self.latents.shape[1]} entries, those of the network {encoder.split.size}"
        elif encoder.split.name != self.head:
            why = f"its latents are the input of {self.head}, and the network's head is {encoder.split.name}"
        elif weights != self.fingerprint:
            why = "it was built with other weights"
        else:
            apart = encoder.reference(self.image_shape).cpu() - self.reference
            if float(apart.norm()) > _ALIKE * float(self.reference.norm().clamp_min(1e-30)):
                why = "a network with the same weights computes other latents"
        if why:
            raise ArchitectureError(f"the memory bank is not one of this {name}: {why}; {_BUILD}.")
        self._kept["checked"] = (id(encoder), weights)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {"asked": self._kept.get("asked")}}  # without compiled code

    def _same_pixels(self, images: Tensor | None) -> Tensor:
        """Pairs (P, 2) of an image and an entry with its pixels."""
        if images is None:
            return torch.empty(0, 2, dtype=torch.int64)
        places = self._kept.setdefault("pixels", _places(map(tuple, self.pixels.tolist())))
        return _pairs(places, map(tuple, pixel_digests(images).tolist()))

    def _same_ids(self, ids: Sequence[object] | None) -> Tensor:
        if ids is None:
            return torch.empty(0, 2, dtype=torch.int64)
        if self.ids is None:
            raise OptionsError("ids were given, and the memory bank has none; build it with ids, or leave them out.")
        return _pairs(self._kept.setdefault("ids", _places(self.ids)), map(str, ids))

    def _index(self) -> Any:
        if "faiss" not in self._kept:
            self._kept["faiss"] = faiss_index(self.latents)
        return self._kept["faiss"]

    def __repr__(self) -> str:
        named = "" if self.ids is None else " with ids"
        return f"MemoryBank({len(self)} latents of {self.latents.shape[1]} entries{named}, in front of {self.head})"


def pixel_digests(images: Tensor) -> Tensor:
    """A digest of the pixels of each image, (N, 2) int64: equal for equal float32 values, whatever the batch."""
    flat = (images.detach().to("cpu", torch.float32).contiguous() + 0.0).flatten(1).numpy()  # -0.0 is 0
    digests = b"".join(hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in flat)
    return torch.from_numpy(np.frombuffer(digests, dtype="<i8").astype(np.int64).reshape(-1, 2))


def _places(keys: Iterable[Any]) -> dict[Any, list[int]]:
    found: dict[Any, list[int]] = {}
    for place, key in enumerate(keys):
        found.setdefault(key, []).append(place)
    return found


def _pairs(places: dict[Any, list[int]], keys: Iterable[Any]) -> Tensor:
    pairs = [(query, entry) for query, key in enumerate(keys) for entry in places.get(key, ())]
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


def _read(about: dict[str, str], stored: dict[str, Tensor]) -> MemoryBank:
    """Raises KeyError, ValueError, TypeError or AttributeError where something is missing, or does not fit."""
    latents, pixels, reference = (stored[name] for name in ("latents", "pixels", "reference"))
    ids = tuple(json.loads(stored["ids"].numpy().tobytes())) if "ids" in stored else None
    shape, dtype = tuple(json.loads(about["image_shape"])), getattr(torch, about["dtype"])
    fits = latents.dim() == 2 and pixels.shape == (len(latents), 2) and reference.shape == latents.shape[1:]
    if not fits or pixels.dtype != torch.int64 or not isinstance(dtype, torch.dtype) or not len(latents):
        raise ValueError("sizes or types do not fit")
    if ids is not None and (len(ids) != len(latents) or not all(isinstance(name, str) for name in ids)):
        raise ValueError("ids do not fit")
    if not all(value.is_floating_point() and bool(value.isfinite().all()) for value in (latents, reference)):
        raise ValueError("latents are not finite numbers")
    if not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError("the images' shape is none")
    kept = {"asked": about["asked"] or None}
    return MemoryBank(latents, pixels, ids, shape, dtype, about["head"], about["fingerprint"], reference, kept)
