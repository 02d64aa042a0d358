"""An AOTInductor package: compiled to machine code, for ``torch._inductor.aoti_load_package`` and C++."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._inductor import config
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import CppCompileError, InvalidCxxCompiler
from torch._inductor.package import package_aoti

from agf_fx.errors import ExportError
from agf_fx.exports.archives import compressed
from agf_fx.exports.exported_program import to_exported_program
from agf_fx.exports.metadata import MEMBER
from agf_fx.exports.standalone import Standalone

_OPTIONS = {
    "aot_inductor.package": True,
    # |W|, folded batch norms and the like: computed once for each loaded package, not at every call and not stored.
    "aot_inductor.use_runtime_constant_folding": True,
    # Line numbers of the generated source: three quarters of the library's size.
    "aot_inductor.enable_line_tables": False,
    # Under AOTI_RUNTIME_CHECK_INPUTS=1, a package would refuse a single target: PyTorch takes sizes of 1 for special.
    "aot_inductor.check_lowerbound": False,
    # Precompiled headers pay from the fourth export on, and stay behind.
    "aot_inductor.precompile_headers": False,
    # As many threads as the process that loads it has, not the one that wrote it.
    "cpp.dynamic_threads": True,
    # As in agf_fx.runtime.backends: not every four-dimensional tensor is a batch of images.
    "layout_optimization": False,
}


def write(explainer: Standalone, metadata: str, path: str | os.PathLike[str]) -> None:
    """Compile, and write an AOTInductor package.

    Args:
        explainer: what to write.
        metadata: JSON, in the package's own metadata.
        path: the file to write.

    Raises:
        ExportError: there is no C++ compiler, or it fails.
        OSError: the file cannot be written.
    """
    _require_compiler()
    program = to_exported_program(explainer).module(check_guards=False)
    example = (explainer.images, explainer.target)
    with compressed(path) as archive, _quiet(), torch.no_grad():
        options = _known(_OPTIONS) | {
            "aot_inductor.metadata": {MEMBER: metadata},
            "aot_inductor.output_path": str(archive.parent / "build"),
        }
        try:
            files = torch._inductor.aot_compile(program, example, options=options)
        except CppCompileError as error:
            raise ExportError(
                "the C++ compiler failed on the generated code; format='export' needs none. "
                f"The end of what it says:\n{str(error)[-2000:]}"
            ) from error
        package_aoti(archive, files)


def _require_compiler() -> None:
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ExportError(
            "format='aoti' compiles C++ and finds no compiler: install one (on Debian or Ubuntu: apt install g++), or "
            "name it in the environment variable CXX. format='export' needs none."
        ) from error


def _known(options: dict[str, Any]) -> dict[str, Any]:
    """Those options that this PyTorch has."""
    names = set(config.get_config_copy())
    return {name: value for name, value in options.items() if name in names}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what PyTorch says of itself.

    It looks for CUDA to compile with, and logs a warning where CUDA is installed without a device; and some versions
    warn of deprecated parts that only they use.
    """
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in (r".*torch\.jit\..*deprecated", r".*LeafSpec.*deprecated"):
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        logger.setLevel(level)
