"""The whole compiler after capture, in one glance: a tuple of named steps from canonical to explanation graph."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from agf_fx.emit import emit
from agf_fx.ir.graph import CanonicalGraph, ExplanationGraph, LayerOutput
from agf_fx.ir.verify import verify_canonical, verify_explanation
from agf_fx.methods.method import Method
from agf_fx.passes.baseline_input import add_baseline
from agf_fx.passes.batch_norms import fold_batch_norms
from agf_fx.passes.buffer_reuse import reuse_buffers
from agf_fx.passes.channels_last import keep_channels_last
from agf_fx.passes.class_dimension import check_class_dimension
from agf_fx.passes.common_subexpressions import eliminate_common_subexpressions
from agf_fx.passes.conversions import convert_dtypes
from agf_fx.passes.dead_code import eliminate_dead_code
from agf_fx.passes.depths import mark_depths
from agf_fx.passes.flatten_boundaries import mark_flatten_boundaries
from agf_fx.passes.gates import mark_gates
from agf_fx.passes.gradient_masks import drop_gradient_masks
from agf_fx.passes.heads import mark_heads
from agf_fx.passes.image_channels import mark_image_channels
from agf_fx.passes.input_layers import mark_input_layers
from agf_fx.passes.input_signs import mark_nonnegative_inputs
from agf_fx.passes.nonnegative_values import simplify_nonnegative_values
from agf_fx.passes.open_merges import mark_open_merges
from agf_fx.passes.product_precision import reduce_product_precision
from agf_fx.passes.relu_masks import drop_relu_masks
from agf_fx.passes.residual_convolutions import mark_residual_convolutions
from agf_fx.passes.residual_merges import mark_residual_merges
from agf_fx.passes.sibling_products import stack_sibling_products
from agf_fx.passes.weight_constants import hoist_weight_constants

Graph = CanonicalGraph | ExplanationGraph
Step = Callable[[Graph], Graph]

ANALYSES: tuple[Step, ...] = (
    mark_heads,
    check_class_dimension,
    mark_gates,
    mark_input_layers,
    mark_nonnegative_inputs,
    mark_image_channels,
    mark_residual_merges,
    mark_residual_convolutions,
    mark_flatten_boundaries,
    mark_open_merges,
    mark_depths,
)

SIMPLIFICATIONS: tuple[Step, ...] = (
    eliminate_common_subexpressions,
    drop_gradient_masks,
    eliminate_dead_code,
    fold_batch_norms,
    simplify_nonnegative_values,
    drop_relu_masks,
    eliminate_common_subexpressions,
    eliminate_dead_code,
    stack_sibling_products,
)

OPTIMISATIONS: tuple[Step, ...] = (*SIMPLIFICATIONS, hoist_weight_constants)


def optimisations(
    precision: torch.dtype | None = None,
    *,
    dtype: torch.dtype | None = None,
    channels_last: bool = False,
    in_place: bool = False,
) -> tuple[Step, ...]:
    """The optimisations for a way of running.

    Args:
        precision: of the products of relevances and gradients; None: that of everything.
        dtype: of everything; None: that in which the model was captured.
        channels_last: whether tensors lie in channels-last.
        in_place: whether memory is reused.
    """
    return (
        *((functools.partial(convert_dtypes, dtype=dtype),) if dtype is not None else ()),
        *SIMPLIFICATIONS,
        *((keep_channels_last, eliminate_dead_code) if channels_last else ()),
        *((functools.partial(reduce_product_precision, dtype=precision),) if precision is not None else ()),
        hoist_weight_constants,
        *((reuse_buffers,) if in_place else ()),
    )


def pipeline(
    method: Method, optimisations: tuple[Step, ...] = OPTIMISATIONS, layers: Sequence[LayerOutput] = ()
) -> tuple[Step, ...]:
    """The steps for a method: analyses, what it asks of a network and changes in it, emission, optimisations."""
    fitting = functools.partial(check_needs, method=method), functools.partial(canonise, method=method)
    return (*ANALYSES, *fitting, functools.partial(emit, method=method, layers=layers), *optimisations)


def check_needs(canonical: CanonicalGraph, method: Method) -> CanonicalGraph:
    """Refuse a network that ``method`` cannot explain.

    Raises:
        CaptureError: as the method's needs say.
    """
    for need in method.needs:
        need(canonical)
    return canonical


def canonise(canonical: CanonicalGraph, method: Method) -> CanonicalGraph:
    """An analysed graph as ``method`` wants it; itself where the method asks for nothing, or has it already.

    Raises:
        OptionsError: a baseline of another shape than the images.
    """
    for step in method.canonisers:
        canonical = step(canonical)
    if method.baseline is not None:
        canonical = add_baseline(canonical, method.baseline.images(canonical.image_type)[:1])
    return canonical


def analyse(canonical: CanonicalGraph) -> CanonicalGraph:
    """Write all facts on a captured graph.

    Raises:
        CaptureError: relevance cannot pass an operation.
    """
    for step in () if canonical.analysed else ANALYSES:
        canonical = step(canonical)
    return replace(canonical, analysed=True)


def lower(
    canonical: CanonicalGraph,
    method: Method,
    after_step: Callable[[str, Graph], None] | None = None,
    *,
    optimisations: tuple[Step, ...] = OPTIMISATIONS,
    layers: Sequence[LayerOutput] = (),
) -> ExplanationGraph:
    """Run the pipeline.

    Args:
        canonical: a captured model.
        method: the method to compile.
        after_step: called with the step's name and the graph after every step. By default the environment variable
            ``AGF_FX_DEBUG`` decides: 1 verifies every graph, ``print`` also writes its text to standard error.
        optimisations: the passes after emission; ``()`` leaves the graph as it is emitted.
        layers: what the graph also returns.

    Raises:
        CaptureError: the model has fewer logits than the method needs.
        VerifyError: a step broke a promise of its stage.
    """
    if after_step is None:
        after_step = {"1": verify_step, "print": print_step}.get(os.environ.get("AGF_FX_DEBUG", ""))
    graph: Graph = canonical
    for step in pipeline(method, optimisations, layers):
        if step in ANALYSES and canonical.analysed:
            continue
        graph = step(graph)
        if after_step:
            after_step(getattr(step, "func", step).__name__, graph)
    graph.module.recompile()  # passes leave that to the end
    return graph


def verify_step(name: str, graph: Graph) -> None:
    """Verify the graph after a step; the error says after which."""
    (verify_canonical if isinstance(graph, CanonicalGraph) else verify_explanation)(graph)


def print_step(name: str, graph: Graph) -> None:
    """Verify the graph after a step, and write it to standard error under the step's name."""
    verify_step(name, graph)
    print(f"=== after {name}\n{graph}", file=sys.stderr)
