"""Random small networks through every execution of their explanation; `random_networks` says what must hold."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from random_networks import Case, check, graph_equals_model, network_source, optimised_equals_emitted_graph

from agf_fx.errors import UnsupportedOpError

SEEDS = range(72)

FEATURES = (  # regular expressions
    # Convolutions
    r"Conv2d\(1, ",
    r"Conv2d\(4, ",
    r"Conv2d\(\d+, \d+, 2",
    r"Conv2d\(\d+, \d+, 4",
    r"Conv2d\(\d+, \d+, 5",
    r"Conv2d\(\d+, \d+, \(1, 3\)",
    r"Conv2d\(\d+, \d+, \(5, 1\)",
    r"Conv2d\(.*stride=3",
    r"Conv2d\(.*stride=\(2, 1\)",
    r"padding='same'",
    r"padding='valid'",
    r"Conv2d\(.*dilation=2",
    r"dilation=\(1, 2\)",
    r"Conv2d\((\d), .*groups=\1",
    r"Conv2d\([46], .*groups=2",
    r"Conv2d\(.*bias=False",
    # Batch norm
    r"BatchNorm2d\(\d+\)",
    r"BatchNorm1d\(",
    r"affine=False",
    r"zeros_\(layer\.weight",
    # ReLU
    r"self\.act\(.*(.|\n)*self\.act\(",
    r"nn\.ReLU\(\)",
    r"F\.relu\(x\d+\)",
    r"F\.relu\(x\d+, inplace=True\)",
    r"torch\.relu\(x\d+\)",
    r"\.relu_\(\)",
    # Pooling
    r"MaxPool2d\(3.*stride=[12]",
    r"MaxPool2d\(.*padding",
    r"MaxPool2d\(.*dilation",
    r"MaxPool2d\(.*ceil_mode=True",
    r"AvgPool2d\(.*ceil_mode=True",
    r"AvgPool2d\(.*padding=1.*count_include_pad=False",
    r"divisor_override=3",
    r"AdaptiveAvgPool2d\(1\)",
    r"AdaptiveAvgPool2d\(\(2, 3\)\)",
    # Merges, fan-outs and data movement
    r"x\d+ \+= x",
    r"x\d+ \+ x\d+ \+ x",
    r"x\d+ - x",
    r"torch\.add\(",
    r"alpha=0\.5",
    r"torch\.cat\(\[",
    r"transpose\(1, 2\)",
    r"permute\(0, 1, 3, 2\)",
    r"permute\(0, 2, 3, 1\)\.flatten\(1\)",
    r"permute\(0, 3, 1, 2\)",
    r"nn\.Parameter\(torch\.rand\(",
    r"view\(-1, 1, 1\)",
    # Heads
    r"\.mean\(\(2, 3\)\)",
    r"nn\.Linear.*\n(.*nn\.(ReLU|Dropout|Identity).*\n)*.*nn\.Linear.*\n(.*\n)?.*nn\.Linear",
    r"nn\.Dropout\(",
    r"F\.adaptive_avg_pool2d\(",
)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_execution_agrees(seed):
    check(network_source(seed))


def test_the_networks_are_small_differ_and_cover_every_feature():
    sources = [network_source(seed) for seed in SEEDS]
    assert sources == [network_source(seed) for seed in SEEDS]
    assert len(set(sources)) == len(sources)
    assert max(source.count("nn.Conv2d(") for source in sources) <= 12
    everything = "\n".join(sources)
    missing = [feature for feature in FEATURES if not re.search(feature, everything)]
    assert missing == []


def test_most_networks_are_alive():
    alive = 0
    for seed in SEEDS[:8]:
        maps, _ = Case.of(network_source(seed)).explain()
        alive += bool(torch.any(maps))
    assert alive >= 6


def test_a_failure_can_be_pasted():
    broken = network_source(0).replace("Network().double()", "nn.Sequential(Network(), nn.GELU()).double()")
    with pytest.raises(AssertionError, match=r"no relevance rule for aten[.]gelu") as caught:
        check(broken)
    pasted = str(caught.value)[str(caught.value).index("import torch\n") :]
    with pytest.raises(UnsupportedOpError, match="gelu"):
        exec(pasted, {})


@pytest.mark.parametrize("check_one", [graph_equals_model, optimised_equals_emitted_graph])
def test_the_checks_notice_a_difference(check_one):
    case = Case.of(network_source(0))
    check_one(case)
    weights = {name: weight * 1.0001 for name, weight in case.weights.items()}
    with pytest.raises(AssertionError, match=r"differ from|change the maps"):
        check_one(replace(case, weights=weights))
