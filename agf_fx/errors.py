"""Every error that agf-fx raises on purpose. Each message ends with what to do next."""

from __future__ import annotations


class AgfFxError(Exception):
    """Base class of all errors raised on purpose by agf-fx."""


class CaptureError(AgfFxError):
    """The model could not be turned into a canonical graph."""


class UnsupportedOpError(CaptureError):
    """The model uses an operation for which no relevance rule is registered.

    Attributes:
        op: name of the operation, as in ``aten.digamma.default``.
        module_path: dotted path of the module that uses it (empty for the root module).
        source: the user's source line, ``file:line`` with its text, or an empty string.
    """

    def __init__(self, message: str, *, op: str = "", module_path: str = "", source: str = "") -> None:
        super().__init__(message)
        self.op = op
        self.module_path = module_path
        self.source = source


class VerifyError(AgfFxError):
    """A graph breaks a promise of its stage: a bug in a pass or in a registered rule."""


class OptionsError(AgfFxError, ValueError):
    """An option has a value it cannot have, or two options contradict each other."""


class InputError(AgfFxError, ValueError):
    """Images have the wrong rank, type, device or resolution."""


class NonFiniteInputError(InputError):
    """Images contain NaN or infinite pixels.

    Attributes:
        indices: positions in the batch of the images concerned.
    """

    def __init__(self, message: str, *, indices: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.indices = indices


class ArchitectureError(InputError):
    """A model is not of the architecture that was compiled."""


class PicklingError(AgfFxError, TypeError):
    """Explainers are exported, not pickled."""


class MemoryLimitError(AgfFxError):
    """Explaining even one image for one target takes more memory than allowed, or than there is."""


class TargetError(InputError):
    """A target class is out of range, of the wrong type or shape, or an unknown class name."""


class ImageError(AgfFxError):
    """An image file is missing, empty, truncated, not an image, or too large."""


class DatasetError(AgfFxError):
    """A dataset's files are missing, damaged, or not laid out as its kind is."""


class ExampleError(DatasetError):
    """One example of a dataset cannot be read; the others can.

    Attributes:
        name: the example's name in its dataset.
    """

    def __init__(self, message: str, *, name: str = "") -> None:
        super().__init__(message)
        self.name = name


class ModelLoadError(AgfFxError):
    """A model could not be found, built or downloaded."""


class CheckpointError(ModelLoadError):
    """A checkpoint file is missing, damaged, or does not fit the model."""


class ExportError(AgfFxError):
    """An explainer could not be written in the requested format."""


class ExportLoadError(AgfFxError):
    """A file is no exported explainer, is damaged, or does not fit this machine or this version of PyTorch."""


class MissingDependencyError(AgfFxError, ImportError):
    """An optional package is needed for what was asked."""
