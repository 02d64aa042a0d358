"""Inspecting the generated graph."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from emission import unoptimised, weights
from networks import small_vgg
from torch import fx, nn

import agf_fx
from agf_fx.errors import InputError
from agf_fx.ir.types import carried_type

IMAGES = torch.zeros(1, 3, 16, 16, dtype=torch.float64)


TITLE = "# explanation graph of TinyVGG by agf: (images f64[N, 3, 16, 16], target i64[N, K]) -> (maps, logits)"


def test_text_is_deterministic_and_complete():
    texts = [str(unoptimised(small_vgg(), 16)[0]) for _ in range(2)]
    assert texts[0] == texts[1]
    explanation, _ = unoptimised(small_vgg(), 16)
    lines = texts[0].splitlines()
    assert lines[0] == f"{TITLE}, {len(explanation)} nodes"
    assert len(lines) == len(explanation) + 2
    (line,) = [line for line in lines if line.startswith("%features_4_C_2 = ")]
    assert " ".join(line.split()) == (
        "%features_4_C_2 = conv2d(%features_4_C, %features_4_C_1, None, [1, 1], [1, 1], [1, 1], 1) f64[N, 6, 8, 8] "
        "relevance guided_convolution features.4 C = |x| ⊙ |L|ᵀ(Φ / |L||x|) (eq. 9)"
    )


def test_text_of_an_optimised_graph_is_one_page_for_the_weights_and_one_for_the_images():
    texts = [str(agf_fx.compile(small_vgg(), IMAGES).graph) for _ in range(2)]
    assert texts[0] == texts[1]
    explanation = agf_fx.compile(small_vgg(), IMAGES).graph
    count = len(explanation.prepare.graph.nodes)
    first, second = (page.splitlines() for page in texts[0].split("\n\n"))
    assert first[0] == f"# prepared once per set of weights: weights -> prepared constants, {count} nodes"
    assert len(first) == count + 2
    assert second[0] == f"{TITLE}, {len(explanation)} nodes"
    assert len(second) == len(explanation) + 2


def test_networkx_view():
    graph, _ = unoptimised(small_vgg(), 16)
    view = graph.to_networkx()
    assert nx.is_directed_acyclic_graph(view)
    assert len(view) == len(graph)
    node = view.nodes["features_4_C_2"]
    assert node["op"] == "conv2d"
    assert node["shape"] == "[N, 6, 8, 8]"
    assert node["dtype"] == "float64"
    assert node["stream"] == "relevance"
    assert nx.has_path(view, "images", "output")
    assert nx.has_path(view, "target", "output")
    nx.node_link_data(view)  # every attribute can be serialised


def test_networkx_view_of_an_optimised_graph_leads_from_every_weight_to_the_output():
    graph = agf_fx.compile(small_vgg(), IMAGES).graph
    view = graph.to_networkx()
    assert nx.is_directed_acyclic_graph(view)
    assert set(view) == {node.name for g in (graph.graph, graph.prepare.graph) for node in g.nodes}
    for source in ("images", "target", *graph.canonical.signature.weights):
        assert nx.has_path(view, source, "output")
    nx.node_link_data(view)


def types(graph):
    graph.infer_types()
    return {node.name: str(node.meta["type"]) for node in graph.graph.nodes if node.op != "output"}


def test_shapes_follow_the_batch_and_the_target_symbol():
    for graph in (unoptimised(small_vgg(), 16)[0], agf_fx.compile(small_vgg(), IMAGES).graph):
        found = types(graph)
        maps, logits = graph.graph.output_node().args[0]
        assert found["target"] == "i64[N, K]"
        assert found["K"] == "K"
        assert found[maps.name] == "f64[N, K, 16, 16]"
        assert found[logits.name] == "f64[N, 5]"


def test_streams_have_the_targets_in_front_of_the_type_of_their_value():
    graph, _ = unoptimised(small_vgg(), 16)
    found, canonical = types(graph), {node.name: node for node in graph.canonical.graph.nodes}
    streams = [(node.name, name) for node in graph.graph.nodes for name in node.meta.get("stream_of", ())]
    assert len(streams) > len(graph.canonical.calls)
    for stream, name in streams:
        kind = carried_type(canonical[name])
        assert found[stream] == f"f64[K, {', '.join(map(str, kind.shape))}]"
    assert found["features_4_C_13"] == "f64[K*N, 6, 8, 8]"  # targets as further images, for the transposed convolution


def test_types_are_those_of_the_values():
    """With as many images and targets as no other size has."""
    graph, _ = unoptimised(small_vgg(), 16)
    found, shapes = types(graph), {}

    class Recorder(fx.Interpreter):
        def run_node(self, node):
            shapes[node.name] = value = super().run_node(node)
            return value

    given = [torch.zeros(7, 3, 16, 16, dtype=torch.float64), torch.zeros(7, 11, dtype=torch.int64)]
    Recorder(graph.module).run(*given, *weights(graph.canonical, small_vgg()).values())
    symbols = {"N": 7, "K": 11, "K*N": 77}
    for name, value in shapes.items():
        if isinstance(value, torch.Tensor):
            sizes = found[name].split("[")[1].rstrip("]").split(", ")
            assert [symbols.get(size) or int(size) for size in sizes if size] == list(value.shape), name


def test_a_graph_before_any_image_is_refused():
    with pytest.raises(InputError, match="explain a batch first"):
        _ = agf_fx.compile(nn.Linear(2, 2)).graph
