"""The metadata behind an ONNX model, with a digest of both: a flipped bit of a weight would be another weight.

A file is the model followed by one property, which protocol buffers read as one message; the digest covers the model's
bytes and the property's text. Neither writing nor checking needs the package onnx.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import IO

from agf_fx.exports.metadata import MEMBER

_BEGINNING = b"\x08"  # ModelProto.ir_version, which every model states first
_PROPERTY, _KEY, _VALUE = b"\x72", b"\x0a", b"\x12"  # ModelProto.metadata_props, and what an entry consists of
_DIGEST = re.compile(r', "digest": "([0-9a-f]{64})"\}$')
_LONGEST = 16 * 2**20  # of the metadata
_PIECE = 2**20


class Unsealed(Exception):
    """A file is no ONNX model of agf-fx, or has been changed."""


def sealed(model: bytes, metadata: str) -> bytes:
    """A model without properties, with its metadata and their digest behind it.

    Args:
        model: as protocol buffers write it.
        metadata: a JSON object with at least one entry.
    """
    digest = hashlib.sha256(model + metadata.encode()).hexdigest()
    return model + _tail(f'{metadata[:-1]}, "digest": "{digest}"}}')


def metadata_behind(file: IO[bytes], size: int) -> str | None:
    """The metadata of an ONNX file of ``size`` bytes; None if there is none.

    Raises:
        Unsealed: the digest is missing or wrong.
    """
    if file.read(1) != _BEGINNING:
        return None
    file.seek(max(0, size - _LONGEST))
    end = file.read(_LONGEST)
    start = end.rfind(_KEY + _length(len(MEMBER)) + MEMBER.encode() + _VALUE)
    if start < 0:
        return None
    text = _text(end[start:])
    tail = _tail(text)
    if not end.endswith(tail):
        raise Unsealed("there is something behind its metadata")
    found = _DIGEST.search(text)
    if found is None:
        raise Unsealed("it has no digest, as files of older versions")
    digest = hashlib.sha256()
    for piece in _pieces(file, size - len(tail)):
        digest.update(piece)
    digest.update((text[: found.start()] + "}").encode())
    if digest.hexdigest() != found[1]:
        raise Unsealed("its digest is wrong: it has been changed since it was exported")
    return text


def _text(entry: bytes) -> str:
    """The value of a property that begins with its key."""
    place = 2 + len(MEMBER) + 1
    length = shift = 0
    while True:
        if place >= len(entry) or shift > 28:
            raise Unsealed("its metadata is cut off")
        byte, place = entry[place], place + 1
        length, shift = length | (byte & 127) << shift, shift + 7
        if byte < 128:
            break
    if place + length > len(entry):
        raise Unsealed("its metadata is cut off")
    try:
        return entry[place : place + length].decode()
    except UnicodeDecodeError as error:
        raise Unsealed("its metadata is no text") from error


def _tail(text: str) -> bytes:
    """The metadata as a property of a model."""
    key, value = MEMBER.encode(), text.encode()
    entry = b"".join((_KEY, _length(len(key)), key, _VALUE, _length(len(value)), value))
    return b"".join((_PROPERTY, _length(len(entry)), entry))


def _length(number: int) -> bytes:
    """A number as protocol buffers write it: seven bits a byte, the lowest first."""
    digits = []
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])


def _pieces(file: IO[bytes], count: int) -> Iterator[bytes]:
    """The first ``count`` bytes of a file, a piece at a time."""
    file.seek(0)
    while count > 0:
        piece = file.read(min(_PIECE, count))
        if not piece:
            return
        count -= len(piece)
        yield piece
