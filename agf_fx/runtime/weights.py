"""The weights of a model as an explanation graph takes them, prepared once for each state of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from agf_fx.ambient import shielded, without_tf32
from agf_fx.errors import InputError
from agf_fx.ir.graph import BASELINE, CanonicalGraph, ExplanationGraph, tensor_at
from agf_fx.ir.types import TensorType
from agf_fx.store.locks import Lock

REDUCED = {"bfloat16": torch.bfloat16, "float16": torch.float16}  # precisions of products in the reverse walk only
_SAMPLE = 4096
_WHOLE_NUMBERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_WHOLE = {"float32": torch.float32, "tf32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Placement:
    """How the graph's inputs lie in memory.

    Attributes:
        dtype: of weights, images and arithmetic.
        channels_last: whether four-dimensional tensors are stored with their channels innermost.
        tf32: whether products run in TF32 where PyTorch's settings and the device allow it.
    """

    dtype: torch.dtype
    channels_last: bool
    tf32: bool = False

    def cast(self, tensor: Tensor) -> Tensor:
        """``tensor`` in this dtype, if it holds floating-point numbers."""
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def arrange(self, tensor: Tensor) -> Tensor:
        """``tensor`` in this memory format, its dtype kept; itself if it is so already."""
        if self.channels_last and tensor.dim() == 4:
            strides = torch.empty_like(tensor, device="meta", memory_format=torch.channels_last).stride()
            if tensor.stride() != strides:  # contiguous() leaves those of 1×1 kernels, from which no format can be told
                return torch.empty_like(tensor, memory_format=torch.channels_last).copy_(tensor)
            return tensor
        return tensor.contiguous()


def place(model: torch.dtype, precision: str | None, memory_format: str, device: torch.device) -> Placement:
    """The placement for a model of dtype ``model`` and the options of `agf_fx.compile`."""
    dtype = torch.float32 if precision in REDUCED else _WHOLE.get(precision, model)
    if memory_format == "auto":
        # Convolutions in channels-last: oneDNN has them for single precision and below, cuDNN's fast ones are for half.
        suited = dtype is torch.float32 if device.type == "cpu" else precision in REDUCED
        return Placement(dtype, suited, precision == "tf32")
    return Placement(dtype, memory_format == "channels_last", precision == "tf32")


class WeightInputs:
    """Reads a model's weights, prepares what depends on them alone, and keeps that until a weight changes.

    A change is seen by the identity and the version counter of every parameter and buffer, and, as fused optimisers,
    batch norms in training and edits through ``.data`` do not advance it, by a sum over a sample of their entries: all
    of small tensors. Who edits single entries of a large one through ``.data`` calls `forget`. Weights without a
    version counter (made under inference mode) are prepared anew at every call.
    """

    def __init__(
        self,
        canonical: CanonicalGraph,
        explanation: ExplanationGraph,
        on_prepare: Callable[[], None] = lambda: None,
        accepts: Callable[[dict[str, Tensor]], None] | None = None,
    ) -> None:
        self.canonical = canonical
        self.explanation = explanation
        self._on_prepare = on_prepare
        self._accepts = accepts
        self._accepted: TensorState | None = None
        self._constants: tuple[torch.device | None, dict[str, Tensor]] | None = None
        self._lock = Lock()
        placeholders = [node for node in canonical.graph.nodes if node.op == "placeholder"][1:]
        self.shapes = {node.name: tuple(node.meta["type"].shape) for node in placeholders}
        self._kept: tuple[TensorState, Placement, list[Tensor]] | None = None

    def current(self, model: nn.Module) -> dict[str, Tensor]:
        """Weights and constants by placeholder name, as they are in the model at this moment.

        Raises:
            InputError: the model has lost or changed the shape of a parameter since it was captured, or the method was
                not made for these weights.
        """
        paths = self.canonical.signature.weights
        weights = {name: self._weight(model, name, path) for name, path in paths.items()}
        if self._accepts is not None:
            state = TensorState.of(weights.values())
            if self._accepted is None or not self._accepted.same_as(state):
                self._accepts({paths[name]: weight for name, weight in weights.items()})
                self._accepted = state
        return weights | self._constants_on(next((weight.device for weight in weights.values()), None))

    def _constants_on(self, device: torch.device | None) -> dict[str, Tensor]:
        """The constants on the device of the weights, where they stay."""
        kept = self._constants
        if kept is None or kept[0] != device:
            constants = self.canonical.signature.constants
            kept = (device, {name: value if device is None else value.to(device) for name, value in constants.items()})
            self._constants = kept
        return kept[1]

    def prepared(
        self, weights: dict[str, Tensor], placement: Placement, baseline: Tensor | None = None
    ) -> list[Tensor]:
        """What the explanation graph takes after images and target, in order.

        Args:
            weights: from `current`.
            placement: dtype and memory format of the result.
            baseline: (1, *image), in the place of the method's first one; what is prepared for it is not kept.

        Raises:
            InputError: a parameter is NaN or infinite, or a buffer NaN.
        """
        if baseline is not None:
            return self.prepared_apart(weights, placement, baseline)
        state = TensorState.of(weights.values())
        found = self._known(state, placement)
        if found is None:
            with self._lock:  # several threads that see a change prepare once
                found = self._known(state, placement)
                if found is None:
                    found = self._prepare(weights, placement)
                    self._kept = (state, placement, found)
        return found

    def prepared_apart(
        self, weights: dict[str, Tensor], placement: Placement, baseline: Tensor | None = None
    ) -> list[Tensor]:
        """Like `prepared`, and nothing is kept: for weights that are not the model's."""
        return self._prepare(weights if baseline is None else weights | {BASELINE: baseline}, placement)

    def _known(self, state: TensorState, placement: Placement) -> list[Tensor] | None:
        kept = self._kept
        return kept[2] if kept and kept[0].same_as(state) and kept[1] == placement else None

    def forget(self) -> None:
        """Check and prepare anew at the next call, whatever the version counters say."""
        self._kept = self._accepted = None

    def _prepare(self, weights: dict[str, Tensor], placement: Placement) -> list[Tensor]:
        self._on_prepare()
        with shielded(), without_tf32():
            found = {name: placement.cast(weight.detach()) for name, weight in weights.items()}
            self._check_finite(weights, found)
            if self.explanation.prepare:
                constants = self.explanation.prepare.forward(*(found[name] for name in self.shapes))
                found |= dict(zip(self.explanation.prepared, constants, strict=True))
            return [placement.arrange(found[name]) for name in self.explanation.inputs]

    def _check_finite(self, weights: dict[str, Tensor], cast: dict[str, Tensor]) -> None:
        """Refuse what makes every map NaN. Buffers may be infinite, as masks are."""
        for name, value in cast.items():
            if not value.is_floating_point():
                continue
            wrong = ~value.isfinite() if isinstance(weights[name], nn.Parameter) else value.isnan()
            if bool(wrong.any()):
                path, dtype = self.canonical.signature.weights.get(name, name), str(value.dtype).removeprefix("torch.")
                raise InputError(
                    f"{path} of {self.canonical.name} is NaN or infinite as {dtype}, in {int(wrong.sum())} of "
                    f"{value.numel()} entries, and so would be every map. Load finite weights."
                )

    def _weight(self, model: nn.Module, name: str, path: str) -> Tensor:
        weight = tensor_at(model, path)
        if weight is None or tuple(weight.shape) != self.shapes[name]:
            raise InputError(
                f"{path} of {self.canonical.name} is no longer a tensor of shape {self.shapes[name]}; the model has "
                "changed since it was compiled. Compile it again."
            )
        return weight


@dataclass(frozen=True)
class TensorState:
    """Which tensors there are, in which version, and a digest of what they hold; nothing refers to them."""

    identities: tuple[int, ...]
    versions: tuple[int | None, ...]
    addresses: tuple[int, ...]
    digest: tuple[int, ...]

    @staticmethod
    def of(found: Iterable[Tensor]) -> TensorState:
        """The state of some tensors now."""
        tensors = tuple(found)
        return TensorState(
            tuple(map(id, tensors)),
            tuple(None if tensor.is_inference() else tensor._version for tensor in tensors),
            tuple(tensor.data_ptr() for tensor in tensors),
            sampled_sums(tensors),
        )

    def same_as(self, other: TensorState) -> bool:
        """Whether these are the same tensors, unchanged. Tensors without a version counter never are."""
        return None not in self.versions and self == other


def sampled_sums(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """The sums of the bits of up to `_SAMPLE` entries of each tensor, spread over it, as whole numbers: one a dtype."""
    by_kind: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    with torch.no_grad():
        for tensor in tensors:
            bits = _bits(tensor.detach())
            by_kind.setdefault((bits.dtype, bits.device), []).append(bits[:: max(1, len(bits) // _SAMPLE)])
        return tuple(int(torch.cat(parts).sum(dtype=torch.int64)) for parts in by_kind.values())


def sampling_bytes(kinds: Iterable[TensorType]) -> int:
    """Bytes that `sampled_sums` takes at its peak, for tensors of these types: a copy, and one as 64-bit numbers."""
    by_dtype: dict[torch.dtype, int] = {}
    for kind in kinds:
        count = -(-kind.entries // max(1, kind.entries // _SAMPLE))
        by_dtype[kind.dtype] = by_dtype.get(kind.dtype, 0) + count * (kind.dtype.itemsize + torch.int64.itemsize)
    return max(by_dtype.values(), default=0)


def _bits(tensor: Tensor) -> Tensor:
    """The entries of a tensor in the order of memory, as whole numbers, without copying where that can be."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    dense = tensor.is_contiguous() or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last))
    flat = tensor.as_strided((tensor.numel(),), (1,)) if dense else tensor.flatten()
    return flat.view(_WHOLE_NUMBERS[flat.dtype.itemsize]) if flat.is_floating_point() else flat
