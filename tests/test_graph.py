"""Inspecting the generated graph."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from networks import small_vgg
from torch import nn

import agf_fx
from agf_fx.errors import InputError

IMAGES = torch.zeros(1, 3, 16, 16, dtype=torch.float64)


def test_text_is_deterministic_and_complete():
    texts = [str(agf_fx.compile(small_vgg(), IMAGES).graph) for _ in range(2)]
    assert texts[0] == texts[1]
    explanation = agf_fx.compile(small_vgg(), IMAGES).graph
    lines = texts[0].splitlines()
    assert lines[0] == (
        f"# explanation graph of TinyVGG by agf: (images f64[N, 3, 16, 16], target i64[N]) -> (maps, logits), "
        f"{len(explanation)} nodes"
    )
    assert len(lines) == len(explanation) + 2
    (line,) = [line for line in lines if line.startswith("%features_4_C_2 = ")]
    assert " ".join(line.split()) == (
        "%features_4_C_2 = conv2d(%features_4_C, %features_4_C_1, None, [1, 1], [1, 1], [1, 1], 1) f64[N, 6, 8, 8] "
        "relevance guided_convolution features.4 C = |x| ⊙ |L|ᵀ(Φ / |L||x|) (eq. 9)"
    )


def test_networkx_view():
    graph = agf_fx.compile(small_vgg(), IMAGES).graph
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


def test_shapes_follow_the_batch_symbol():
    graph = agf_fx.compile(small_vgg(), IMAGES).graph
    graph.infer_types()
    maps, logits = graph.graph.output_node().args[0]
    assert str(maps.meta["type"]) == "f64[N, 16, 16]"
    assert str(logits.meta["type"]) == "f64[N, 5]"


def test_a_graph_before_any_image_is_refused():
    with pytest.raises(InputError, match="explain a batch first"):
        _ = agf_fx.compile(nn.Linear(2, 2)).graph
