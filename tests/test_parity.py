"""Parity with the published code, in float64 and float32, on every file of reference data."""

from __future__ import annotations

import functools
from collections import defaultdict

import pytest
import torch
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


@pytest.mark.parametrize("name", golden_names())
@pytest.mark.parametrize("switch", ABLATIONS)
def test_maps_and_logits(name, switch):
    golden, canonical = load(name), captured(name)
    method = attribution_guided_factorization(ABLATIONS[switch])
    program = Program(canonical, lower(canonical, method, verify_step))
    inputs = program.inputs(golden.model)
    for target in TARGETS:
        images, classes = golden.tensors["input"], golden.tensors[f"targets/{target}"]
        with torch.inference_mode():
            maps, logits = program.explanation.module(images, classes, *inputs)
            eager = interpret(canonical, method, images, classes, dict(zip(program.shapes, inputs, strict=True)))
        assert difference(logits, golden.tensors["logits"]) <= TOLERANCE
        assert difference(maps, golden.tensors[f"{switch}/{target}"][:, 0]) <= TOLERANCE
        assert torch.equal(maps, eager.maps)
        assert torch.equal(logits, eager.logits)


@pytest.mark.parametrize("name", golden_names())
def test_single_precision(name):
    golden = load(name)
    model = load_golden(name).model.float()
    images = golden.tensors["input"].float()
    canonical = capture(model, images)
    program = Program(canonical, lower(canonical, attribution_guided_factorization(AGFOptions())))
    for target in TARGETS:
        maps, logits = program.explanation.module(images, golden.tensors[f"targets/{target}"], *program.inputs(model))
        assert difference(logits, golden.tensors["logits"].float()) <= TOLERANCE_FLOAT32
        assert difference(maps, golden.tensors[f"agf/{target}"][:, 0].float()) <= TOLERANCE_FLOAT32


def walk(name, target):
    """The streams for the images that the trace holds, and the canonical calls of each module in order."""
    golden, canonical = load(name), captured(name)
    method = attribution_guided_factorization(AGFOptions())
    program = Program(canonical, lower(canonical, method))
    inputs = dict(zip(program.shapes, program.inputs(golden.model), strict=True))
    streams = interpret(canonical, method, golden.tensors["input"], golden.tensors[f"targets/{target}"], inputs)
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
    streams, calls, _ = walk(name, target)
    for key, expected in trace.items():
        module, quantity = key.split("/")
        found = stored_step(streams, calls, module, quantity)
        assert difference(found[: len(expected)], expected) <= TOLERANCE, key


def stored_step(streams, calls, module, quantity):
    """What the step through ``module`` hands on, by the names of the trace."""
    kind = 0 if quantity.startswith("grad") else 1
    if module.endswith(".clone"):  # both branches of a block merged: the block's input
        block = module.removesuffix(".clone")
        source = calls[f"{block}.conv1"][0].args[0]
        return (streams.gradient, streams.relevance)[kind][source.name]
    if module.endswith(".add"):
        merge = next(n for n in calls[module.removesuffix(".add")] if family_of(n) is Family.MERGE)
        return streams.handed[merge.name][kind][int(quantity[-1])]
    if module.startswith("layer") and module[-1].isdigit() and module[:-1].endswith(".relu"):
        node = calls[module[:-1]][int(module[-1]) - 1]
    elif module not in calls:  # dropout, which is the identity: the step before
        stem, index = module.rsplit(".", 1)
        node = calls[f"{stem}.{int(index) + 1}"][0]
    else:
        node = calls[module][0]
    return streams.handed[node.name][kind][0]


@pytest.mark.parametrize("name", golden_names())
def test_every_stored_part_of_a_layer(name):
    details = load(name).group("detail/top1/")
    if not details:
        assert name.endswith("in37x41")
        return
    streams, calls, inputs = walk(name, "top1")
    values = forward_values(captured(name), load(name).tensors["input"], inputs)
    for key, expected in details.items():
        module, symbol = key.split("/")
        node = calls[module][0]
        found = part(node, symbol, values, streams)
        assert difference(found[: len(expected)], expected) <= TOLERANCE, key


def forward_values(canonical, images, inputs):
    values = dict(inputs) | {canonical.images.name: images}
    for node in canonical.calls:
        values[node.name] = node.target(*torch.fx.map_arg(node.args, lambda n: values[n.name]))
    return values


def part(node, symbol, values, streams):
    site = Site(node, torch.fx.map_arg(node.args, lambda n: values[n.name]), values[node.name])
    phi, g_x = streams.relevance[node.name], streams.handed[node.name][0][0]
    C = absolute_influence(site, phi)
    if site.facts.flatten_boundary:
        return {"C": lambda: C, "M": lambda: agf.flattened_input_gradient(site, g_x, C)}[symbol]()
    spatial = site.x_type.sample_shape[1:]
    guide = channel_mean(C), spatial, "reference"
    return {
        "C": lambda: C,
        "A": lambda: agf.input_agnostic_influence(site, phi),
        "M": lambda: agf.input_gradient(site.x, g_x, site.x_type.rank),
        "F_x": lambda: agf.factorised_input(site.x, *guide),
        "F_dx": lambda: agf.factorised_gradient(g_x, *guide),
    }[symbol]()
