"""nn.Module -> canonical graph.

The front end is ``torch.fx`` symbolic tracing; what it cannot trace goes to ``torch.export`` as it is. Either way
the program is exported with a symbolic batch size, functionalised (no in-place operation survives, and a module
used twice is two calls), and every call is written in one canonical spelling.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from agf_fx.ambient import autocast_left_out, capturing
from agf_fx.errors import CaptureError
from agf_fx.frontend.adopt import adopt
from agf_fx.frontend.apart import check_samples_apart
from agf_fx.frontend.baked import Places, places
from agf_fx.frontend.canonicalise import canonicalise
from agf_fx.frontend.chance import Draws, refuse_random
from agf_fx.frontend.copying import structural_copy, widened
from agf_fx.frontend.examples import check_placement, doubled, only_batch, telling
from agf_fx.frontend.final import explained_from_logits, warn_of_final
from agf_fx.frontend.gradient_hooks import GradientHooksIgnored
from agf_fx.frontend.identity import trace_digest
from agf_fx.frontend.made import check_layers_made, check_layers_made_by_running
from agf_fx.frontend.outputs import Output, Root, check_output
from agf_fx.frontend.tracing import export, trace
from agf_fx.frontend.trust import check_program, check_single, check_widened
from agf_fx.frontend.unknown import Teacher, warn_of_captured
from agf_fx.frontend.widening import is_reduced, narrow, widening
from agf_fx.frontend.wrappers import unwrapped
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.verify import verify_canonical
from agf_fx.notices import warn
from agf_fx.options import require_one_of

UNKNOWN_OPS = ("refuse", "gradient")


def capture(
    model: nn.Module,
    example_inputs: Tensor | tuple[Tensor],
    *,
    output: Output = None,
    unknown_ops: str = "refuse",
) -> CanonicalGraph:
    """Capture a classifier as a canonical graph.

    The model is not touched: tracing runs on a structural copy that shares its parameters. ``detach`` and
    ``no_grad`` in its forward pass are looked through: the graph is the function that the model computes.

    Args:
        model: a module that maps images (N, C, H, W) to logits (N, classes). A model in training mode is captured
            with evaluation semantics, with a warning. ``torch.compile``, DataParallel and DistributedDataParallel
            around it are taken off. One in float16 or bfloat16 is captured as a model in float32 with these weights.
        example_inputs: an image batch (N, C, H, W), or a tuple with just that; any N ≥ 1, floating dtype, on the
            device of the model. Only shape, dtype and device matter. The graph serves every batch size.
        output: which part of the return value holds the logits, where that is not one tensor: a key, an attribute, an
            index, a dotted path of these (``"heads.0"``), or a function of the return value.
        unknown_ops: ``"refuse"`` operations that have no rule, or explain them by their ``"gradient"``: by PyTorch's
            vector-Jacobian product f' of the operation, and relevance x ⊙ f'(Φ / f(x)), with a warning for each.

    Returns:
        The canonical graph. ``print`` it: the text is deterministic.

    Raises:
        CaptureError: the model cannot be traced, does not return (N, classes) logits, or fixes the batch size.
        UnsupportedOpError: the model uses an operation without a rule.
        InputError: ``example_inputs`` is not one floating batch of images.
        OptionsError: ``output`` or ``unknown_ops`` has no meaning.
    """
    with capturing():
        subject = Subject.of(model, example_inputs, output, unknown_ops)
        canonical = subject.capture()
    subject.warn()
    warn_of_captured(canonical)
    warn_of_final(canonical)
    return canonical


@dataclass(frozen=True)
class Subject:
    """A model about to be captured: checked, copied and traced, which takes a small part of a capture's time.

    Attributes:
        model: the user's model.
        root: a private copy with its choice of logits.
        traced: the copy, traced symbolically; None where it cannot be.
        images: an example batch of two equal images.
        telling: two images to try the model with.
        dtype: of the images before they were widened.
        unknown_ops: see `capture`.
        baked: where the model keeps tensors whose values the graph may contain.
        autocasts: dtypes to which the forward pass casts by itself, which is left out.
        drawing: the user's lines that drew random numbers meanwhile.
    """

    model: nn.Module
    root: Root
    traced: fx.GraphModule | None
    images: Tensor
    telling: Tensor
    dtype: torch.dtype
    unknown_ops: str
    baked: Places
    autocasts: list[str]
    drawing: list[str]

    @staticmethod
    def of(model: nn.Module, example_inputs: Tensor | tuple[Tensor], output: Output, unknown_ops: str) -> Subject:
        """Check and trace; arguments and errors as for `capture`."""
        check_output(output)
        require_one_of("unknown_ops", unknown_ops, UNKNOWN_OPS)
        model = unwrapped(model)
        _check_statistics(model)
        images = only_batch(example_inputs, model)
        check_placement(images, model.parameters(), type(model).__name__)
        root = Root(structural_copy(model), output)
        before = places(model, buffers=False, output=output)
        with autocast_left_out() as autocasts, Draws() as draws:
            traced, read_buffers = trace(root)
        check_layers_made(model, root.model)
        baked = places(model, buffers=True, output=output) if read_buffers else before
        example, samples = widened(doubled(images)), widened(telling(images))
        return Subject(model, root, traced, example, samples, images.dtype, unknown_ops, baked, autocasts, draws.lines)

    @property
    def reduced(self) -> bool:
        """Whether the model is one in half precision, and explained in float32."""
        return is_reduced(self.model.parameters())

    def digest(self) -> str | None:
        """What identifies the graph that would be captured; None where only capturing tells."""
        if self.traced is None:
            return None
        digest = trace_digest(self.traced, self.root.model, self.baked.tensors(self.model), self.images)
        return digest and f"{digest}-{self.unknown_ops}-{self.reduced}"

    def capture(self) -> CanonicalGraph:
        """Capture; errors as for `capture`."""
        with autocast_left_out() as autocasts, widening(self.reduced):
            canonical = self._captured()
        self.autocasts.extend(autocasts)
        if self.reduced:
            own = structural_copy(self.model, own_tensors=True, widen=False)
            check_widened(canonical, self.root.model, Root(own, self.root.output), self.telling, self.dtype)
        return explained_from_logits(canonical)

    def exported(self) -> CanonicalGraph:
        """The model as it is exported, in its own spelling, before anything is rewritten; errors as for `capture`."""
        with autocast_left_out(), widening(self.reduced):
            return self._adopted()

    def _captured(self) -> CanonicalGraph:
        twin = self.root.model
        adopted = self._adopted()
        teach = Teacher(adopted, twin, self.images.device).teach if self.unknown_ops == "gradient" else None
        canonical = canonicalise(adopted, teach)
        verify_canonical(canonical)
        check_samples_apart(canonical, twin, self.images)
        self._look(canonical)
        return canonical

    def _adopted(self) -> CanonicalGraph:
        try:
            exported = export(self.root, self.traced, self.images)
            refuse_random(exported, type(self.model).__name__)  # layers made in forward() are drawn, too
        except CaptureError:
            check_layers_made_by_running(self.model, self.telling)
            raise
        return narrow(adopt(exported, self.model))

    def _look(self, canonical: CanonicalGraph) -> None:
        """`check_program` on one image; on two where that fails, as a model may treat a single one in its own way."""
        failure: Exception | None = None
        for images in (self.telling[:1], self.telling):
            # Tracing may have left values in the copy that was traced, and this one writes where it likes.
            untraced = Root(structural_copy(self.model, own_tensors=True), self.root.output)
            try:
                with GradientHooksIgnored():
                    check_program(canonical, untraced, images, self.drawing)
                    if failure is not None:
                        check_single(canonical, untraced, self.telling[:1])
                    return None
            except Exception as error:  # whatever the model raises
                failure = error
        if isinstance(failure, CaptureError):
            raise failure
        reason = " ".join(f"{type(failure).__name__}: {failure}".split())[:300]
        raise CaptureError(
            f"{canonical.name} was traced, and fails when it is called on images of shape "
            f"{tuple(self.images.shape[1:])} ({reason}). Check that model(images) works."
        ) from failure

    def warn(self) -> None:
        """Warn if the model is in training mode, or casts by itself."""
        if self.autocasts:
            dtypes = " and ".join(sorted({*self.autocasts}))
            warn(
                f"{type(self.model).__name__} runs parts of its forward pass in {dtypes} by torch.autocast; it is "
                "explained without that, in the precision of its weights.",
                UserWarning,
            )
        if self.model.training:
            warn(
                f"{type(self.model).__name__} is in training mode; it is captured with evaluation semantics "
                "(dropout off, stored batch-norm statistics). Call model.eval() to silence this.",
                UserWarning,
            )
        elif inside := [path for path, module in self.model.named_modules() if module.training and _trains(module)]:
            warn(
                f"{type(self.model).__name__} is in evaluation mode, and parts of it are in training mode "
                f"({', '.join(inside[:3])}{', …' if len(inside) > 3 else ''}); all of it is captured with evaluation "
                "semantics (dropout off, stored batch-norm statistics). Call model.eval() to silence this.",
                UserWarning,
            )


def _check_statistics(model: nn.Module) -> None:
    """Refuse a model in evaluation mode with norms in training mode, which is another function than either mode alone.

    Raises:
        CaptureError: which norm it is.
    """
    for path, module in () if model.training else model.named_modules():
        if module.training and isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise CaptureError(
                f"{type(model).__name__} is in evaluation mode, and its batch norm {path!r} in training mode, in which "
                "it mixes the images of a batch. Call model.eval(), which reaches all of it."
            )


def _trains(module: nn.Module) -> bool:
    """Whether training mode may make a module another function: not of containers and the like of PyTorch's."""
    if type(module).__module__.startswith("torch.nn."):
        return isinstance(module, nn.modules.dropout._DropoutNd | nn.RReLU)
    return True
