"""What a file of the cache holds: data and tensors, compressed, and signed with the user's own key."""

from __future__ import annotations

import hashlib
import hmac
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

MOST_BYTES = 128 * 2**20  # of a file; larger ones are not written
_MOST_TEXT = 48 * 2**20  # of the data, decompressed: the largest networks of torchvision take 4 MB
_MAGIC = b"agf-fx cache 1\n"
_STORABLE = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool}
_DIGITS = 64


class Damaged(Exception):
    """A file is no entry of the cache, or not the one that was asked for."""


@dataclass(frozen=True)
class Entry:
    """The content of a file: plain data, and tensors."""

    data: dict[str, Any]
    tensors: Mapping[str, Tensor]


def packed(entry: Entry, key: str, secret: bytes) -> bytes | None:
    """An entry as the content of a file; None if it is too large, or holds tensors of unusual types.

    Args:
        entry: what to store.
        key: what it is stored under.
        secret: signs it, see `unpacked`.
    """
    text = json.dumps({"key": key, **entry.data}, allow_nan=False, separators=(",", ":")).encode()
    size = sum(tensor.nbytes for tensor in entry.tensors.values())
    unusual = any(tensor.dtype not in _STORABLE for tensor in entry.tensors.values())
    if unusual or len(text) > _MOST_TEXT or len(text) + size > MOST_BYTES // 2:
        return None
    graph = torch.frombuffer(bytearray(zlib.compress(text)), dtype=torch.uint8)
    tensors = {f"tensor.{name}": tensor.detach().cpu().contiguous().clone() for name, tensor in entry.tensors.items()}
    payload = safetensors.torch.save({"data": graph, **tensors})
    return b"".join((_MAGIC, _signature(payload, secret), b"\n", payload))


def unpacked(content: bytes, key: str, secret: bytes) -> Entry:
    """The inverse of `packed`.

    The signature says that a process that knows the user's key has written these very bytes: a file that was changed,
    or made by somebody else, is not looked into.

    Raises:
        Damaged: the signature is wrong, or the entry is of another version or belongs to another key.
        Exception: what safetensors, zlib or json raise on other content.
    """
    start = len(_MAGIC)
    if content[:start] != _MAGIC:
        raise Damaged("it is of another version, or no entry")
    signature, payload = content[start : start + _DIGITS], content[start + _DIGITS + 1 :]
    if not hmac.compare_digest(_signature(payload, secret), signature):
        raise Damaged("its checksum is wrong")
    tensors = safetensors.torch.load(payload)
    text = _decompressed(tensors.pop("data").numpy().tobytes())
    data = json.loads(text)
    if not isinstance(data, dict) or data.pop("key", None) != key:
        raise Damaged("it belongs to another key")
    if any(tensor.dtype not in _STORABLE for tensor in tensors.values()):
        raise Damaged("it holds tensors of another kind")
    return Entry(data, {name.removeprefix("tensor."): tensor for name, tensor in tensors.items()})


def _signature(payload: bytes, secret: bytes) -> bytes:
    return hmac.new(secret, payload, hashlib.sha256).hexdigest().encode()


def _decompressed(content: bytes) -> bytes:
    """The text in ``content``, of bounded length."""
    reader = zlib.decompressobj()
    text = reader.decompress(content, _MOST_TEXT)
    if not reader.eof or reader.unused_data:
        raise Damaged("its data is too long, or cut off")
    return text
