"""Random small networks through every execution of their explanation; `random_networks` says what must hold."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import pytest
import torch
from random_networks import TOGETHER, Case, cases, check, check_together, neighbours, network_source
from random_networks.checks import (
    gradient_equals_autograd,
    graph_equals_model,
    interpreter_equals_emitted_graph,
    optimised_equals_emitted_graph,
)
from random_networks.conserving import relevance_is_conserved

from agf_fx.errors import UnsupportedOpError
from agf_fx.rules.numerics import div

# The first networks, and a few later ones for what these do not have; tools/random_networks checks thousands.
SEEDS = (*range(100), 106, 122, 123, 150, 164, 167, 173, 176, 184, 187, 206, 217, 225, 242, 248, 274, 283, 348, 389)

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

FEATURES = (  # regular expressions
    # Images
    *(
        r"randn\(2, 1, \d+, \d+, d",
        r"randn\(2, 4, \d+, \d+, d",
        r"randn\(2, \d, \d+, d",
        r"randn\(2, \d, \d, \d, \d, d",
    ),
    # Convolutions
    *(r"Conv1d\(", r"Conv2d\(1, ", r"Conv2d\(4, ", r"Conv3d\(", r"Conv2d\(\d+, \d+, 2", r"Conv2d\(\d+, \d+, 4"),
    *(r"Conv2d\(\d+, \d+, \(1, 3\)", r"Conv2d\(\d+, \d+, \(5, 1\)", r"Conv\dd\(.*stride=3", r"stride=\(2, 1\)"),
    *(r"padding='same'", r"padding='valid'", r"Conv2d\(.*dilation=2", r"dilation=\(1, 2\)", r"bias=False"),
    *(r"Conv2d\((\d), .*groups=\1", r"Conv2d\([46], .*groups=2", r"'reflect'", r"'replicate'", r"'circular'"),
    *(r"ConvTranspose1d", r"ConvTranspose2d", r"ConvTranspose3d", r"output_padding=1"),
    *(r"F\.conv2d\(x\d+, self", r"F\.conv_transpose\dd\(", r"\.weight\[", r"\.std\(\)", r"transpose\(0, 1\), padding"),
    # Normalisations
    *(r"BatchNorm1d\(", r"BatchNorm2d\(", r"BatchNorm3d\(", r"affine=False", r"zeros_\(layer\.weight"),
    *(r"GroupNorm\(", r"InstanceNorm\dd\(", r"track_running_stats", r"LayerNorm\(\[", r"LayerNorm\(\d", r"RMSNorm"),
    # Activations
    *(r"self\.act\(.*(.|\n)*self\.act\(", r"nn\.ReLU\(\)", r"F\.relu\(x\d+, inplace=True\)", r"\.relu_\(\)"),
    *(r"GELU|gelu", r"'tanh'", r"SiLU|silu", r"Mish|mish", r"Hardswish|hardswish", r"ReLU6|relu6", r"PReLU\(\)"),
    *(r"PReLU\(\d", r"leaky_relu", r"ELU|elu", r"SELU|selu", r"CELU|celu", r"Softplus|softplus", r"Tanh|tanh"),
    *(
        r"Sigmoid|sigmoid",
        r"Hardsigmoid|hardsigmoid",
        r"clamp\(",
        r"clamp_\(",
        r"ardtanh",
        r"erf\(",
        r"LogSigmoid|logs",
    ),
    *(r"torch\.exp\(", r"expm1", r"torch\.log\(", r"log1p", r"sin\(", r"cos\(", r"\.abs\(\)$", r"\*\* 0\.75"),
    *(r"hardshrink", r"softshrink", r"torch\.sign", r"threshold\(.*0\.1", r"where\(x\d+ > 0", r"\* \(x\d+ > "),
    # Pooling and reductions
    *(r"MaxPool\dd\(.*dilation", r"MaxPool\dd\(.*ceil_mode=True", r"AvgPool\dd\(.*ceil_mode=True", r"divisor_override"),
    *(r"AvgPool\dd\(.*count_include_pad=False", r"AdaptiveAvgPool\dd\(", r"AdaptiveMaxPool\dd\(", r"amax\(", r"amin\("),
    *(r"\.max\(\d, ", r"\.sum\(\d, ", r"\.mean\(\d, "),
    # Data movement
    *(r"roll\(", r"flip\(", r"split\(", r"chunk\(", r"unbind\(", r"stack\(", r"\[:, 1:\]", r"::2\]", r"narrow\("),
    *(r"select\(", r"index_select\(", r"F\.pad\(", r"channel_shuffle", r"pixel_shuffle", r"pixel_unshuffle", r"rot90"),
    *(r"unfold\(", r"F\.unfold", r"repeat\(", r"repeat_interleave", r"expand\(", r"masked_fill", r"torch\.where"),
    *(r"tril|triu", r"diagonal", r"F\.fold\(", r"\.zero_\(\)", r"\] = x", r"\] \+= x", r"\] = 0", r"\[\.\.\., \["),
    *(r"'nearest'", r"'nearest-exact'", r"'bilinear'", r"'linear'", r"'trilinear'", r"align_corners=True"),
    # Several signals
    *(
        r"x\d+ \+= x",
        r"x\d+ \+ x\d+ \+ x",
        r"x\d+ - x",
        r"alpha=0\.5",
        r"torch\.cat\(\[",
        r"lerp",
        r"addcmul",
        r"addcdiv",
    ),
    *(r"x\d+ \* x\d+", r"F\.glu|GLU\(", r"maximum\(", r"minimum\(", r"F\.normalize", r"1 - x\d+", r"\.rsqrt|\.sqrt"),
    *(r"x\d+ / \(", r"\.var\(", r"\.norm\(", r"mean\(\d, keepdim=True\) [+-] "),
    # Tokens
    *(r"scaled_dot_product_attention", r"attn_mask", r"is_causal", r"scale=0\.4", r"MultiheadAttention", r"einsum\('b"),
    *(
        r"torch\.bmm",
        r"qkv|permute\(2, 0, 3, 1, 4\)",
        r"\[:, 0\]",
        r"\.mean\(1\)",
        r"softmax\(-1\)",
        r"Parameter.*\(1, 1,",
    ),
    # Heads
    *(
        r"\.mean\(\(2, 3\)\)",
        r"nn\.Linear.*\n(.*nn\.(?!Conv).*\n)*.*nn\.Linear.*\n(.*\n)?.*nn\.Linear",
        r"nn\.Dropout\(",
    ),
    *(r"F\.adaptive_avg_pool2d\(", r"log_softmax", r"\+ 0\.5 \* x"),
)


@pytest.mark.parametrize("seeds", list(neighbours(SEEDS)), ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_every_execution_agrees(seeds):
    errors = check_together([network_source(seed) for seed in seeds])
    assert not errors, "\n".join(f"seed {seeds[i]}: {error}" for i, error in errors.items())


def test_the_networks_are_small_differ_and_cover_every_feature():
    sources = [network_source(seed) for seed in SEEDS]
    assert sources == [network_source.__wrapped__(seed) for seed in SEEDS[:20]] + sources[20:]
    assert len(set(sources)) == len(sources)
    assert max(len(re.findall(r"    x\d+ = ", source)) for source in sources) <= 60
    everything = "\n".join(sources)
    missing = [feature for feature in FEATURES if not re.search(feature, everything, re.MULTILINE)]
    assert missing == []


@cache
def group(first: int) -> list[Case]:
    return cases([network_source(seed) for seed in range(first, first + TOGETHER)])


def test_most_networks_are_alive():
    alive = [bool(torch.any(maps)) for case in group(0) + group(TOGETHER) for maps in case.explain()[0]]
    assert sum(alive) >= len(alive) * 3 / 4


def test_capturing_networks_together_changes_nothing():
    for seed, case in zip(range(TOGETHER), group(0), strict=True):
        maps, logits = Case.of(network_source(seed)).explain()
        assert torch.equal(case.explain()[0], maps)
        assert torch.equal(case.explain()[1], logits)


def test_a_failure_can_be_pasted_and_spares_its_neighbours():
    sources = [network_source(seed) for seed in range(2)]
    sources[1] = re.sub(r"return (x\d+)", r"return torch.special.bessel_j0(\1)", sources[1])
    errors = check_together(sources)
    assert list(errors) == [1]
    assert "no relevance rule for aten.special_bessel_j0" in str(errors[1])
    pasted = str(errors[1])[str(errors[1]).index("import math\n") :]
    with pytest.raises(UnsupportedOpError, match="bessel_j0"):
        exec(pasted, {})


@pytest.mark.parametrize("check_one", [graph_equals_model, gradient_equals_autograd, optimised_equals_emitted_graph])
def test_the_checks_notice_other_weights(check_one):
    case = group(0)[0]
    check_one(case)
    weights = {name: weight * 1.0001 for name, weight in case.weights.items()}
    with pytest.raises(AssertionError, match=r"differ|change the maps"):
        check_one(replace(case, weights=weights))


def test_the_checks_notice_another_bit():
    case = replace(group(0)[0])
    interpreter_equals_emitted_graph(case)
    object.__setattr__(case, "images", case.images * (1 + 1e-15))  # the interpreter's streams are kept
    with pytest.raises(AssertionError, match="other bits"):
        interpreter_equals_emitted_graph(case)


def test_the_checks_notice_lost_relevance(monkeypatch):
    case = group(0)[0]
    relevance_is_conserved(case)
    monkeypatch.setattr("agf_fx.rules.propagation.div", lambda a, b: div(a, b) * (1 - 1e-7))
    with pytest.raises(AssertionError, match="promises: "):
        relevance_is_conserved(case)


def test_one_network_alone():
    check(network_source(0))
