"""Zip archives as PyTorch reads them, with all but tensors compressed."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

_COMPRESSED = (".json", ".cpp", ".so")  # graphs, sources and machine code; PyTorch writes them as they are


@contextmanager
def compressed(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name for an archive, whose members are copied to ``path`` when the block ends without an error.

    PyTorch's readers take compressed members like others. A graph shrinks to a tenth, machine code to a third; the
    tensors of an exported program are stored as they are.

    Args:
        path: the file to write, in a folder with room for the archive.

    Yields:
        A path that ends in ``.pt2``, in a folder of its own, where further files may be left; it goes at the end.

    Raises:
        OSError: ``path`` cannot be written.
    """
    with TemporaryDirectory(prefix=".agf-fx-", dir=Path(path).parent) as folder:
        whole = Path(folder) / "explainer.pt2"
        yield whole
        with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
            for member in source.infolist():
                _copy(member.filename, source, target)


def _copy(name: str, source: zipfile.ZipFile, target: zipfile.ZipFile) -> None:
    member = zipfile.ZipInfo(name)
    member.compress_type = zipfile.ZIP_DEFLATED if name.endswith(_COMPRESSED) else zipfile.ZIP_STORED
    member.file_size = source.getinfo(name).file_size  # decides on 64-bit sizes
    with source.open(name) as reader, target.open(member, "w") as writer:
        shutil.copyfileobj(reader, writer, 2**20)
