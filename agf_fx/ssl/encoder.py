"""Latent vectors of images, and logits of latent vectors, read off a model's graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from agf_fx.ambient import check_concrete, shielded, without_tf32
from agf_fx.errors import CaptureError, NonFiniteInputError
from agf_fx.frontend.outputs import Output
from agf_fx.ir.graph import CanonicalGraph, tensor_at
from agf_fx.methods.patterns import weights_digest
from agf_fx.runtime.explainer import compile
from agf_fx.runtime.inputs import as_batch, check_pixels
from agf_fx.runtime.weights import TensorState
from agf_fx.ssl.heads import Split, split

AT_ONCE = 64  # images that features are computed of at once
_AGREE = 1e-3  # of the largest logit: how far φ_τ(φ_F(I)) may be from M(I) by rounding


class Encoder:
    """φ_F and φ_τ of a model M = φ_τ ∘ φ_F, in evaluation mode; the model is not touched.

    Args:
        model: a classifier, as `agf_fx.compile` takes it.
        head: path of the linear layer whose input is the latent vector; None for the last layer.
        output, unknown_ops: see `agf_fx.capture`.
    """

    def __init__(
        self, model: nn.Module, *, head: str | None = None, output: Output = None, unknown_ops: str = "refuse"
    ) -> None:
        self.asked = (head, output, unknown_ops)
        self._head = head
        self._reader = compile(model, method="gradient", output=output, unknown_ops=unknown_ops)
        self._canonical: CanonicalGraph | None = None
        self._split: Split | None = None
        self._digest: tuple[TensorState, str] | None = None

    @property
    def model(self) -> nn.Module:
        """The model."""
        return self._reader.model

    def latents(self, images: Tensor) -> Tensor:
        """The latent vectors of images (N, C, H, W): (N, D), in their dtype, or float32 where that is shorter.

        Raises:
            InputError, NonFiniteInputError: images that are none, or that the network makes NaN or infinite latents of;
                ``indices`` says which.
            CaptureError, UnsupportedOpError: the model cannot be captured, or has no linear head; see `split`.
            OptionsError: it has no layer of the name.
        """
        images = as_batch(images)
        check_concrete(images)
        self._look(images)
        check_pixels(images)
        with shielded(), without_tf32():
            found = torch.cat([self._run(part) for part in images.split(AT_ONCE)])
        bad = torch.nonzero(~found.isfinite().all(1)).flatten().tolist()
        if bad:
            raise NonFiniteInputError(
                f"the network's latent vectors of images {bad} of the batch are NaN or infinite; leave these out, or "
                "use a network in a wider dtype.",
                indices=tuple(bad),
            )
        return found

    def logits(self, latents: Tensor) -> Tensor:
        """φ_τ of latent vectors (N, D): (N, classes), biases included; images have to come before."""
        with shielded(), without_tf32():
            return self._split.head(latents, self._given(latents)).flatten(1)

    @property
    def like(self) -> Tensor:
        """A tensor of the dtype and on the device of the images that the model takes."""
        return next((weight for weight in self.model.parameters() if weight.is_floating_point()), torch.empty(0))

    @property
    def split(self) -> Split:
        """How the network is cut, for the images seen last."""
        return self._split

    def fingerprint(self) -> str:
        """What identifies the weights of φ_F: a digest of their values."""
        paths = self._canonical.signature.weights
        used = {paths[name] for name in self._split.features.inputs if name in paths}
        tensors = {path: tensor_at(self.model, path) for path in sorted(used)}
        state = TensorState.of(tensors.values())
        if self._digest is None or not self._digest[0].same_as(state):
            self._digest = (state, weights_digest(tensors))
        return self._digest[1]

    def reference(self, shape: Sequence[int]) -> Tensor:
        """The latent vector (D,) of a certain picture of noise, which tells networks with equal weights apart."""
        noise = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
        return self.latents(noise.to(self.like))[0]

    def _look(self, images: Tensor) -> None:
        """Cut the graph for these images, if it is another one than before, and try whether the parts make the whole.

        Raises:
            CaptureError: they do not.
        """
        canonical = self._reader.prepare(images).graph.canonical
        if canonical is self._canonical:
            return
        found = split(canonical, self._head)
        self._canonical, self._split = canonical, found
        few = images[:2]
        if not bool(few.isfinite().all()):
            few = torch.zeros_like(few)
        with shielded(), without_tf32():
            latents = self._run(few)
            given = self._given(latents)
            whole = canonical.forward(few.to(latents.dtype), given)[canonical.logits]
            parts = found.head(latents, given).flatten(1)
        apart = float((whole - parts).abs().max() / whole.abs().max().clamp_min(1e-30))
        if apart > _AGREE:
            self._canonical = None
            raise CaptureError(
                f"the logits of {canonical.name} are not those of the head {found.name} on its latent vectors (they "
                f"differ by {apart:.1g} of the largest); name another layer: head='path.of.the.layer'."
            )

    def _run(self, images: Tensor) -> Tensor:
        wide = images.to(torch.float32) if images.dtype.itemsize < 4 else images
        value = self._split.features(wide, self._given(wide))
        dims = self._split.position_dims
        return (value.mean(dims) if dims else value).reshape(len(images), self._split.size)

    def _given(self, like: Tensor) -> dict[str, Tensor]:
        """Weights and constants by placeholder name, as they are now, where and in the dtype in which a value is."""
        signature = self._canonical.signature
        found = {name: tensor_at(self.model, path).detach() for name, path in signature.weights.items()}
        found |= {name: value.to(like.device) for name, value in signature.constants.items()}
        return {name: value.to(like.dtype) if value.is_floating_point() else value for name, value in found.items()}
