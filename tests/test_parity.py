"""Parity with the published code, in float64 and float32, on every file of reference data."""

from __future__ import annotations

import functools
from collections import defaultdict

import pytest
import torch
from emission import weights
from networks import golden_names, load_golden

from agf_fx.emit import interpret
from agf_fx.frontend.capture import capture
from agf_fx.ir.vocabulary import Family, family_of
from agf_fx.methods.agf import attribution_guided_factorization
from agf_fx.options import AGFOptions
from agf_fx.pipeline import lower, verify_step
from agf_fx.rules import agf
from agf_fx.rules.numerics import channel_mean
from agf_fx.rules.propagation import absolute_influence
from agf_fx.rules.site import Site
from agf_fx.runtime.program import Program

# Float64. What is left (4e-10 at most) comes from writing 1 / (1 + exp(-C)) as a sigmoid, where the published code
# adds 1e-9 to the denominator.
TOLERANCE = 1e-7
TOLERANCE_FLOAT32 = 1e-3
TARGETS = ("top1", "other")
ABLATIONS = {
    "agf": AGFOptions(),
    "ablation/no_fx": AGFOptions(factorise_input=False),
    "ablation/no_m": AGFOptions(input_gradient=False),
    "ablation/no_reg": AGFOptions(regulariser=False),
    "ablation/no_fdx": AGFOptions(factorise_gradient=False),
    "ablation/no_a": AGFOptions(input_agnostic=False),
    "ablation/gradcam": AGFOptions(numerator="gradcam"),
    "ablation/only_c": AGFOptions().only_c(),
}

load = functools.cache(load_golden)


@functools.cache
def captured(name):
    golden = load(name)
    return capture(golden.model, golden.tensors["input"])


def difference(found, expected):
    assert found.shape == expected.shape
    scale = expected.abs().max()
    return ((found - expected).abs().max() / (scale if scale > 0 else 1)).item()


def targets(golden):
    """Both targets of the files at once: (N, K)."""
    return torch.stack([golden.tensors[f"targets/{target}"] for target in TARGETS], 1)


def stored_maps(golden, switch):
    """The maps of both targets: (N, K, H, W)."""
    return torch.cat([golden.tensors[f"{switch}/{target}"] for target in TARGETS], 1)


@pytest.mark.parametrize("name", golden_names())
@pytest.mark.parametrize("switch", ABLATIONS)
def test_maps_and_logits(name, switch):
    golden, canonical = load(name), captured(name)
    method = attribution_guided_factorization(ABLATIONS[switch])
    images, classes, expected = golden.tensors["input"], targets(golden), stored_maps(golden, switch)
    emitted = Program(canonical, lower(canonical, method, verify_step, optimisations=()))
    optimised = Program(canonical, lower(canonical, method, verify_step if switch == "agf" else None))
    found = []
    with torch.inference_mode():
        for program in (emitted, optimised):
            maps, logits = program.run(images, classes, program.inputs(golden.model))
            found.append((maps, logits))
            assert difference(logits, golden.tensors["logits"]) <= TOLERANCE
            for k in range(len(TARGETS)):
                assert difference(maps[:, k], expected[:, k]) <= TOLERANCE
        eager = interpret(canonical, method, images, classes, weights(canonical, golden.model))
    assert torch.equal(found[0][0], eager.maps)
    assert torch.equal(found[0][1], eager.logits)


@pytest.mark.parametrize("name", golden_names())
def test_single_precision(name):
    golden = load(name)
    model = load_golden(name).model.float()
    images = golden.tensors["input"].float()
    canonical = capture(model, images)
    program = Program(canonical, lower(canonical, attribution_guided_factorization(AGFOptions())))
    maps, logits = program.run(images, targets(golden), program.inputs(model))
    expected = stored_maps(golden, "agf").float()
    assert difference(logits, golden.tensors["logits"].float()) <= TOLERANCE_FLOAT32
    for k in range(len(TARGETS)):
        assert difference(maps[:, k], expected[:, k]) <= TOLERANCE_FLOAT32


@functools.cache
def walk(name):
    """The streams for all images and both targets, the canonical calls of each module in order, and the weights."""
    golden, canonical = load(name), captured(name)
    method = attribution_guided_factorization(AGFOptions())
    lower(canonical, method, optimisations=())  # which analyses the canonical graph
    inputs = weights(canonical, golden.model)
    streams = interpret(canonical, method, golden.tensors["input"], targets(golden), inputs)
    calls = defaultdict(list)
    for node in canonical.calls:
        calls[node.meta["module"]].append(node)
    return streams, calls, inputs


@pytest.mark.parametrize("name", golden_names())
@pytest.mark.parametrize("target", TARGETS)
def test_every_stored_step_of_the_trace(name, target):
    trace = load(name).group(f"trace/{target}/")
    if not trace:
        assert name == "vgg_tiny_bn.in37x41" or (target == "other" and "in16" not in name)
        return
    streams, calls, _ = walk(name)
    for key, expected in trace.items():
        module, quantity = key.split("/")
        found = stored_step(streams, calls, module, quantity)[TARGETS.index(target)]
        assert difference(found[: len(expected)], expected) <= TOLERANCE, key


STREAMS = ("gradient", "relevance")


def stored_step(streams, calls, module, quantity):
    """What the step through ``module`` hands on, by the names of the trace: (K, N, ...)."""
    kind = 0 if quantity.startswith("grad") else 1
    if module.endswith(".clone"):  # both branches of a block merged: the block's input
        block = module.removesuffix(".clone")
        source = calls[f"{block}.conv1"][0].args[0]
        return (streams.gradient, streams.relevance)[kind][source.name]
    if module.endswith(".add"):
        merge = next(n for n in calls[module.removesuffix(".add")] if family_of(n) is Family.MERGE)
        return streams.handed[STREAMS[kind]][merge.name][int(quantity[-1])]
    if module.startswith("layer") and module[-1].isdigit() and module[:-1].endswith(".relu"):
        node = calls[module[:-1]][int(module[-1]) - 1]
    elif module not in calls:  # dropout, which is the identity: the step before
        stem, index = module.rsplit(".", 1)
        node = calls[f"{stem}.{int(index) + 1}"][0]
    else:
        node = calls[module][0]
    return streams.handed[STREAMS[kind]][node.name][0]


@pytest.mark.parametrize("name", golden_names())
def test_every_stored_part_of_a_layer(name):
    details = load(name).group("detail/top1/")
    if not details:
        assert name.endswith("in37x41")
        return
    streams, calls, inputs = walk(name)
    found = captured(name).forward(load(name).tensors["input"], inputs)
    values = {node.name: value for node, value in found.items()}
    for key, expected in details.items():
        module, symbol = key.split("/")
        found = part(calls[module][0], symbol, values, streams)[TARGETS.index("top1")]
        assert difference(found[: len(expected)], expected) <= TOLERANCE, key


def part(node, symbol, values, streams):
    """One part of a layer's rule, for all targets: (K, N, ...)."""
    site = Site(node, torch.fx.map_arg(node.args, lambda n: values[n.name]), values[node.name], len(TARGETS))
    phi, g_x, rank = streams.relevance[node.name], streams.handed["gradient"][node.name][0], site.x_type.rank
    C = absolute_influence(site, phi)
    if site.facts.flatten_boundary:
        return {"C": lambda: C, "M": lambda: agf.flattened_input_gradient(site, g_x, C)}[symbol]()
    guide = channel_mean(C, rank), "reference"
    return {
        "C": lambda: C,
        "A": lambda: agf.input_agnostic_influence(site, phi),
        "M": lambda: agf.input_gradient(site.x, g_x, rank),
        "F_x": lambda: agf.factorised_input(site, *guide),
        "F_dx": lambda: agf.factorised_gradient(site, g_x, *guide),
    }[symbol]()
