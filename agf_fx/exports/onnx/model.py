"""The ONNX model: inputs, outputs, metadata; checked and saved."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import onnx
from onnx import ModelProto, NodeProto, ValueInfoProto, helper

from agf_fx.errors import ExportError
from agf_fx.exports.metadata import MEMBER
from agf_fx.exports.onnx.lowering import INPUTS, lower
from agf_fx.exports.onnx.sealing import sealed
from agf_fx.exports.onnx.sizes import Type
from agf_fx.exports.onnx.values import Writer, onnx_dtype, to_proto
from agf_fx.exports.standalone import Standalone

OPSET, IR_VERSION = 18, 8  # the first with sums in ScatterElements, and the file layout of its time
OUTPUTS = ("maps", "logits")
_HIDE_SHAPES = {"Reshape", "Expand", "Slice", "Split", "MatMul"}  # operators behind which shapes are not known
LIMIT = 2**31 - 2**20  # bytes of weights: protocol buffers end at 2 GB


def onnx_model(explainer: Standalone, metadata: str) -> ModelProto:
    """An explainer as an ONNX model.

    Args:
        explainer: what to write.
        metadata: stored among the properties of the model.

    Raises:
        ExportError: an operation has no ONNX form, or the weights are too large.
    """
    writer = Writer(reserved=(*INPUTS, *OUTPUTS))
    inputs, outputs = lower(explainer, writer)
    named = [writer.named(value, name) for value, name in zip(outputs, OUTPUTS, strict=True)]
    nodes = _used(writer.nodes, {value.name for value in named})
    read = {name for node in nodes for name in node.input}
    constants = {name: tensor for name, tensor in writer.constants.items() if name in read}
    size = sum(tensor.nbytes for tensor in constants.values())
    if size > LIMIT:
        raise ExportError(
            f"the weights take {size / 1e9:.1f} GB, and an ONNX file holds 2 GB at most. Use another format, such as "
            '"export" or "torchscript".'
        )
    graph = helper.make_graph(
        nodes,
        "explanation",
        [_info(value.name, value.kind) for value in inputs],
        [_info(value.name, value.kind) for value in named],
        [to_proto(name, tensor) for name, tensor in constants.items()],
        value_info=_shapes(nodes, writer.shapes),
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="agf-fx"
    )
    helper.set_model_props(model, {MEMBER: metadata})
    return model


def save(model: ModelProto, path: str | os.PathLike[str]) -> None:
    """Check a model and write it, with a digest of it and of its metadata; see `agf_fx.exports.onnx.sealing`.

    Raises:
        ExportError: the checker finds a mistake, such as a sum of two dtypes.
        OSError: it cannot be written.
    """
    (metadata,) = model.metadata_props
    model.ClearField("metadata_props")
    content = sealed(model.SerializeToString(), metadata.value)
    try:
        onnx.checker.check_model(content, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = " ".join(str(error).split())
        raise ExportError(
            f'the explainer is no valid ONNX model: {reason}. Use another format, such as "export" or "torchscript".'
        ) from error
    with open(path, "wb") as file:
        file.write(content)


def _info(name: str, kind: Type) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx_dtype(kind.dtype), kind.shape)


def _shapes(nodes: Iterable[NodeProto], known: Mapping[str, Type]) -> list[ValueInfoProto]:
    """The shapes that runtimes do not find themselves. Without them, onnxruntime plans memory for minutes."""
    names = [name for node in nodes if node.op_type in _HIDE_SHAPES for name in node.output]
    return [_info(name, known[name]) for name in names if name in known]


def _used(nodes: Iterable[NodeProto], wanted: set[str]) -> list[NodeProto]:
    """The nodes that ``wanted`` depends on; results that nobody reads are left out at the end of a node's list."""
    kept = []
    for node in reversed(list(nodes)):
        if wanted.isdisjoint(node.output):
            continue
        while node.output[-1] not in wanted:
            node.output.pop()
        wanted |= set(node.input)
        kept.append(node)
    return kept[::-1]
