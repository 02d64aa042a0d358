"""The registry, options, parity with the published code, and what every method must do."""

from __future__ import annotations

import dataclasses
import functools

import networks
import pytest
import torch
import torch.nn.functional as F
from networks import golden_names, load_golden
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import agf_fx
from agf_fx.errors import CaptureError, OptionsError
from agf_fx.ir.vocabulary import Family
from agf_fx.methods import REGISTRY
from agf_fx.methods.lrp import LRPTwoSidedOptions, between_layers, epsilon_table, first_layer, relevance_method
from agf_fx.methods.table import RuleTable, depth, fact, family
from agf_fx.rules import lrp
from agf_fx.rules.rule import Promise, Rule

load = functools.cache(load_golden)
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
TARGETS = torch.tensor([[0, 1], [2, 3], [4, 0]])
COMPARING = ("agf", "clrp", "sglrp", "rise", "meaningful-perturbation", "meta")


@functools.cache
def vgg():
    return networks.small_vgg().eval()


@functools.cache
def explainer(method: str, **options):
    return agf_fx.compile(vgg(), IMAGES, method=method, options=options or None)


def few(name):
    """Options under which a method looks at few points."""
    known = [field.name for field in dataclasses.fields(REGISTRY[name].options)]
    return {option: 5 for option in ("steps", "samples") if option in known}


def in_single_precision(name, model=None):
    """Options under which single precision is enough: with ε = 1e-6, LRP-ε divides by values close to zero."""
    if issubclass(REGISTRY[name].options, agf_fx.methods.patterns.PatternOptions):
        return networks.options_of(name, model)
    if getattr(REGISTRY[name].options(), "epsilon", None) == lrp.EPSILON:
        return {"epsilon": 1e-2}
    return few(name) or None


def is_unwritable(name):
    """Whether a method draws points at random, searches, or moves weights, so that no file holds it."""
    method = REGISTRY[name].make(REGISTRY[name].options())
    moving = method.step is not None or method.search is not None
    return moving or (method.points is not None and bool(method.points.unwritable))


def difference(found, expected):
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


# --- registry and options --------------------------------------------------------------------------------------------


def test_an_entry_says_what_its_method_is():
    for name, entry in REGISTRY.items():
        method = entry.make(entry.options())
        assert entry.name == name == method.name
        assert name == name.lower().replace("_", "-")
        assert min(map(len, (entry.title, entry.citation, method.scale))) > 5
        reads_gradients = method.stream("gradient") is not None
        assert entry.properties.gradients == reads_gradients
        assert entry.properties.attribution == (method.stream("relevance") is not None)
        for stream in method.streams:
            for _, rule in stream.rules:
                assert min(map(len, (rule.name, rule.symbol, rule.equation))) > 0, rule
                assert rule.promise != "unknown", rule


def test_options_are_documented():
    for entry in REGISTRY.values():
        for name in vars(entry.options()):
            assert f"        {name}" in entry.options.__doc__, (entry.name, name)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("lrp", None, "no method 'lrp' .did you mean 'lrp-epsilon' or 'lrp-0' or .*There are 'agf', "),
        ("lrp_epsilom", None, "did you mean 'lrp-epsilon'"),
        (3, None, "method is 3; give a name"),
        ("lrp-epsilon", {"epsilom": 1}, "no option 'epsilom'.*did you mean 'epsilon'.*it has epsilon, bias"),
        ("lrp-epsilon", {"epsilon": 0}, "epsilon is 0; give a number above 0"),
        ("lrp-epsilon", {"epsilon": "1"}, "epsilon is '1'"),
        ("lrp-epsilon", {"epsilon": 2**2000}, "epsilon is a whole number beyond"),
        ("rise", {"cells": 2**70}, "cells is a whole number beyond"),
        ("extremal-perturbation", {"width": 1e30}, "width is 1e.30; give a number above 0 and of 65536 or less"),
        ("epsilon-gamma-box", {"bounds": "layer"}, "bounds is 'layer'; choose one of 'images', 'first-layer'"),
        ("deeplift", {"baseline": "missing.npy"}, "missing.npy', and there is no such file"),
        ("lrp-epsilon", {"bias": 1}, "bias is 1; give True or False"),
        ("lrp-epsilon", LRPTwoSidedOptions(lossless=True), "options is a LRPTwoSidedOptions; .* takes LRPOptions"),
        ("epsilon-gamma-box", {"low": "1"}, "low is '1'; give a finite number"),
        ("epsilon-gamma-box", {"low": 1, "high": 1}, "high is 1; give a number above 1"),
        ("smoothgrad", {"seed": 2**50}, "seed is 1125899906842624; give a whole number below"),
        ("lrp-epsilon", agf_fx.AGFOptions(), "options is a AGFOptions; 'lrp-epsilon' takes LRPOptions"),
        ("lrp-alphabeta", {"alpha": 2, "beta": 2}, "alpha - beta is 0; it must be 1"),
        ("lrp-alphabeta", {"alpha": 0.5}, "alpha is 0.5; give a number of 1 or more"),
        ("gradient", {"steps": 3}, "'gradient' has no option 'steps'; it has no options"),
        ("gradient", agf_fx.AGFOptions(), "takes none"),
        ("beta-smooth", {"beta": 0}, "beta is 0; give a number above 0"),
        ("gradcam", {"layer": 3}, "layer is 3"),
        ("gradcam", {"relu": None}, "relu is None"),
        ("integrated-gradients", {"steps": 0}, "steps is 0; give a whole number of 1 or more"),
        ("integrated-gradients", {"steps": 10**6}, "gauss-legendre is for up to 2000"),
        ("integrated-gradients", {"rule": "simpson"}, "choose one of 'gauss-legendre'"),
        ("integrated-gradients", {"baseline": float("nan")}, "give a finite number"),
        ("integrated-gradients", {"steps": 1, "rule": "trapezoid"}, "of 2 or more"),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(method, options, message):
    with pytest.raises(OptionsError, match=f"(?s){message}"):
        agf_fx.compile(vgg(), method=method, options=options)


def test_options_as_a_mapping_are_the_options():
    by_class = agf_fx.compile(vgg(), method="lrp-epsilon", options=agf_fx.LRPOptions(epsilon=0.1))
    by_name = agf_fx.compile(vgg(), method="lrp_epsilon", options={"epsilon": 0.1})
    assert torch.equal(by_class(IMAGES, 1), by_name(IMAGES, 1))
    assert by_class.fingerprint == by_name.fingerprint != explainer("lrp-epsilon").fingerprint
    assert not torch.equal(by_class(IMAGES, 1), explainer("lrp-epsilon")(IMAGES, 1))


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("lrp-epsilon", ["epsilon=0.1", "bias=false"], {"epsilon": 0.1, "bias": False}),
        ("lrp-alphabeta", ["alpha=2", "beta=none"], {"alpha": 2.0, "beta": None}),
        ("gradcam", ["layer=features.3"], {"layer": "features.3"}),
        ("gradcam", ["layer=none"], {"layer": None}),
        ("integrated-gradients", ["steps = 7", "rule=left"], {"steps": 7, "rule": "left"}),
        ("agf", ["flat-convolutions=none"], {"flat_convolutions": "none"}),
    ],
)
def test_options_from_words(name, words, expected):
    entry = REGISTRY[name]
    assert entry.parsed(words) == entry.options(**expected)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["epsilon"], "option 'epsilon' has no value; write epsilon=VALUE"),
        (["epsilon=much"], "option epsilon is 'much'; give a value of type float"),
        (["bias=maybe"], "option bias is 'maybe'; give a value of type bool"),
        (["gamma=1"], "'lrp-epsilon' has no option 'gamma'"),
    ],
)
def test_words_that_are_no_options(words, message):
    with pytest.raises(OptionsError, match=message):
        REGISTRY["lrp-epsilon"].parsed(words)


# --- parity with the published code ----------------------------------------------------------------------------------

GOLDEN = {
    "lrp_a1": ("lrp-alphabeta", {}),
    "lrp_a2": ("lrp-alphabeta", {"alpha": 2.0}),
    "clrp": ("clrp", {}),
    "sglrp": ("sglrp", {}),
    "rap": ("rap", {}),
    "rap_onehot": ("rap", {"start": "one"}),
}


@pytest.mark.parametrize("name", golden_names())
@pytest.mark.parametrize("key", GOLDEN)
def test_relevance_of_the_published_code(key, name):
    golden = load(name)
    method, options = GOLDEN[key]
    targets = torch.stack([golden.tensors[f"targets/{target}"] for target in ("top1", "other")], 1)
    found = agf_fx.compile(golden.model, method=method, options=options)(golden.tensors["input"], targets)
    for k, target in enumerate(("top1", "other")):
        assert difference(found[:, k : k + 1], golden.tensors[f"{key}/{target}"]) <= 1e-7


@pytest.mark.parametrize("name", golden_names())
@pytest.mark.parametrize("form", ["gradcam", "gradcam_raw"])
def test_gradcam_of_the_published_code(form, name):
    golden = load(name)
    for key, expected in golden.group(f"{form}/").items():
        layer, target = key.split("/")
        whole = form == "gradcam"
        options = {"layer": layer, "resize": whole, "normalise": whole}
        explainer = agf_fx.compile(golden.model, method="gradcam", options=options)
        maps = explainer.explain(golden.tensors["input"], golden.tensors[f"targets/{target}"]).maps
        assert difference(maps, expected) <= 1e-12


# --- what every method must do ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*REGISTRY])
def test_maps_of_images_and_targets_do_not_see_each_other(name):
    options = few(name) or networks.options_of(name, vgg()) or {}
    compiled = explainer(name, **options)
    together = compiled(IMAGES, TARGETS)
    assert together.shape == (3, 2, 32, 32)
    assert together.isfinite().all()
    for row in range(3):
        for column in range(2):
            alone = compiled(IMAGES[row : row + 1], TARGETS[row : row + 1, column])
            torch.testing.assert_close(alone[0], together[row, column], rtol=1e-9, atol=1e-12)
    top = compiled.explain(IMAGES, top_k=2)
    assert torch.equal(top.target, top.logits.topk(2).indices)
    torch.testing.assert_close(top.maps, compiled(IMAGES, top.target), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [*REGISTRY])
def test_pieces_and_float64_give_the_same_maps(name):
    options = few(name) or networks.options_of(name, vgg())
    two = agf_fx.CompileOptions(max_batch=2)
    pieces = agf_fx.compile(vgg(), method=name, options=options, compile_options=two)(IMAGES, TARGETS)
    whole = explainer(name, **(options or {}))(IMAGES, TARGETS)
    torch.testing.assert_close(pieces, whole, rtol=1e-9, atol=1e-12)
    model = networks.small_vgg().eval().float()
    single = agf_fx.compile(model, method=name, options=in_single_precision(name, model))
    checked = single.explain(IMAGES.float(), TARGETS, check=True)
    assert checked.precision.max() < 1e-3


@pytest.mark.parametrize("name", [name for name in REGISTRY if not is_unwritable(name)])
@pytest.mark.parametrize("ending", ["pt", "onnx"])
def test_every_method_is_exported(name, ending, tmp_path):
    model = networks.small_vgg().eval().float()
    single = agf_fx.compile(model, method=name, options=in_single_precision(name, model))
    expected = single.explain(IMAGES.float(), top_k=2)
    single.export(tmp_path / f"explainer.{ending}")
    found = agf_fx.load(tmp_path / f"explainer.{ending}").explain(IMAGES.float(), top_k=2)
    assert torch.equal(found.target, expected.target)
    assert difference(found.maps, expected.maps) < 1e-4


@pytest.mark.parametrize("name", [name for name in REGISTRY if name not in COMPARING])
def test_one_logit_is_enough_where_classes_are_not_compared(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 1))
    model = model.double().eval()
    options = {"relu": False} if hasattr(REGISTRY[name].options, "relu") else networks.options_of(name, model)
    found = agf_fx.compile(model, method=name, options=options)(IMAGES, 0)
    assert found.abs().max() > 0 or name == "guided-gradcam"


@pytest.mark.parametrize("name", COMPARING)
def test_one_logit_is_refused_where_they_are(name):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 1))
    with pytest.raises(CaptureError, match="so it needs 2"):
        agf_fx.compile(model.double().eval(), method=name)(IMAGES, 0)


class NoHead(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.fc, self.function = nn.Linear(3, 3), (function,)

    def forward(self, x):
        return self.function[0](self, x.mean((2, 3)))


HEADLESS = {
    "fc(x) + x": lambda net, x: net.fc(x) + x,
    "no layer": lambda net, x: x * 2,
    "an inner log-softmax": lambda net, x: net.fc(torch.log_softmax(x, 1)),
}


@pytest.mark.parametrize("case", HEADLESS)
@pytest.mark.parametrize(
    "name", ["gradient", "gradient-x-input", "guided-backprop", "beta-smooth", "integrated-gradients"]
)
def test_methods_without_relevance_refuse_nothing_for_its_sake(name, case):
    model = NoHead(HEADLESS[case]).double().eval()
    assert agf_fx.compile(model, method=name)(IMAGES, 1).isfinite().all()
    if case != "an inner log-softmax":
        assert agf_fx.compile(model, method="lrp-epsilon")(IMAGES, 1).isfinite().all()
    with pytest.raises(CaptureError):
        agf_fx.compile(model)(IMAGES, 1)


# --- relevance -------------------------------------------------------------------------------------------------------


def without_biases(model):
    for module in model.modules():
        for name in ("bias", "running_mean"):
            if getattr(module, name, None) is not None:
                getattr(module, name).data.zero_()
    return model.eval()


@pytest.mark.parametrize("name", ["lrp-epsilon", "epsilon-plus-flat", "lrp-alphabeta", "rap"])
def test_relevance_is_conserved_without_biases(name):
    torch.manual_seed(0)  # wide enough that no active unit has inhibiting inputs alone, of which z⁺ keeps nothing
    structure = {"block": "BasicBlock", "base": 16, "layers": [1, 1, 1, 1], "ncls": 5}
    model = without_biases(networks._lively(networks.TinyResNet(structure)))
    compiled = agf_fx.compile(model, method=name, options={"epsilon": 1e-12})
    result = compiled.explain(IMAGES, TARGETS)
    logits = result.logits.gather(1, TARGETS)
    torch.testing.assert_close(result.maps.sum((2, 3)), logits, rtol=1e-6, atol=1e-9)
    report = compiled.conservation(IMAGES, TARGETS)
    torch.testing.assert_close(report.initial, logits, rtol=1e-9, atol=0)
    torch.testing.assert_close(report.final, result.maps.sum((2, 3)), rtol=1e-9, atol=1e-12)
    assert {flow.promise for flow in report.flows}


class Swish(nn.Module):
    """Values of either sign, and few contributions to an output: some outputs have contributions of one sign alone."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.depthwise = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 8, 2, groups=8, bias=False)
        self.fc = nn.Linear(8, 5, bias=False)

    def forward(self, x):
        x = F.silu(self.depthwise(F.silu(self.conv(x))))
        return self.fc(x.mean((2, 3)))


LOSSY = ("lrp-zplus", "epsilon-plus", "epsilon-alpha2-beta1", "lrp-alphabeta", "excitation-backprop")


@pytest.mark.parametrize("name", [*LOSSY, "rap"])
def test_relevance_of_outputs_whose_contributions_have_one_sign(name):
    model = Swish().double().eval()

    def loss(**options):
        compiled = agf_fx.compile(model, method=name, options={"epsilon": 1e-12, **options})
        result = compiled.explain(IMAGES, TARGETS)
        logits = result.logits.gather(1, TARGETS)
        return float(((result.maps.sum((2, 3)) - logits) / logits).abs().max())

    if name == "rap":
        assert loss() < 1e-6
        return
    assert loss() > 1e-3
    assert loss(lossless=True) < 1e-6
    promises = REGISTRY[name].make(REGISTRY[name].chosen({"lossless": True})).streams[0].rules
    assert any("lossless" in str(rule) and str(rule.promise).startswith("conserves") for _, rule in promises)


def test_lossless_changes_nothing_where_contributions_have_both_signs():
    torch.manual_seed(0)
    wide = nn.Sequential(
        nn.Conv2d(3, 16, 5), nn.ReLU(), nn.Conv2d(16, 16, 5), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)
    )
    images = IMAGES[..., :16, :16]
    wide = wide.double().eval()
    wide(images)
    for options in ({"alpha": 1.0}, {"alpha": 2.0}):
        plain, lossless = (
            agf_fx.compile(wide, method="lrp-alphabeta", options={**options, "lossless": flag})(images, TARGETS)
            for flag in (False, True)
        )
        assert difference(lossless, plain) < 1e-12


def test_contrast_sums_to_nothing():
    found = explainer("clrp")(IMAGES, TARGETS)
    assert found.sum((2, 3)).abs().max() < 1e-9 * found.abs().sum((2, 3)).min()


def test_gradients_of_the_simple_methods_are_autograds():
    x = IMAGES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(vgg()(x)[:, 1].sum(), x)
    torch.testing.assert_close(explainer("gradient")(IMAGES, 1), gradient.sum(1), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(explainer("gradient-x-input")(IMAGES, 1), (gradient * x).sum(1), rtol=1e-9, atol=1e-12)


class Guided(torch.autograd.Function):
    """ReLU6 with the backward pass of guided backpropagation, or of a deconvolution."""

    @staticmethod
    def forward(context, x, guided):
        context.save_for_backward(x)
        context.guided = guided
        return F.relu6(x)

    @staticmethod
    def backward(context, g):
        (x,) = context.saved_tensors
        return g.clamp(min=0) * (((x > 0) & (x < 6)) if context.guided else 1), None


@pytest.mark.parametrize("spelling", [F.relu6, lambda x: x.clamp(0, 6), lambda x: F.hardtanh(x, 0.0, 6.0)])
@pytest.mark.parametrize("name", ["guided-backprop", "deconvnet"])
def test_relu6_is_a_relu(name, spelling):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Linear(6, 5)
            self.act = (spelling,)

        def forward(self, x, act=None):
            act = act or self.act[0]
            return self.fc(act(self.b(act(8 * self.a(x)))).mean((2, 3)))

    model, x = Network().double().eval(), IMAGES[..., :12, :12].clone().requires_grad_()
    y = model(x, lambda z: Guided.apply(z, name == "guided-backprop"))
    (expected,) = torch.autograd.grad(y[:, 1].sum(), x)
    torch.testing.assert_close(agf_fx.compile(model, method=name)(x.detach(), 1), expected.sum(1))


@pytest.mark.parametrize("rule", ["gauss-legendre", "trapezoid", "middle", "left", "right"])
def test_integrated_gradients_sum_to_the_difference_of_logits(rule):
    smooth = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5))
    compiled = agf_fx.compile(
        smooth.double().eval(), method="integrated-gradients", options={"steps": 200, "rule": rule, "baseline": 0.5}
    )
    expected = smooth(IMAGES)[:, 1] - smooth(torch.full_like(IMAGES, 0.5))[:, 1]
    tolerance = 1e-9 if rule == "gauss-legendre" else 2e-2
    torch.testing.assert_close(compiled(IMAGES, 1).sum((1, 2)), expected, rtol=tolerance, atol=tolerance)


# --- methods of a user's own -----------------------------------------------------------------------------------------


def test_a_composite_of_ones_own_is_a_sum_of_tables():
    special = [(first_layer, lrp.flat()), (family(Family.CONVOLUTION), lrp.z_plus())]
    own = relevance_method("mine", RuleTable.of(special) + epsilon_table(1e-6))
    compiled = agf_fx.compile(vgg(), method=own)
    assert compiled.method == "mine"
    assert torch.equal(compiled(IMAGES, 1), explainer("epsilon-plus-flat")(IMAGES, 1))
    with pytest.raises(OptionsError, match="no options"):
        agf_fx.compile(vgg(), method=own, options={"epsilon": 1})


@pytest.mark.parametrize("rule", [lrp.z_plus(), lrp.flat(), lrp.gamma_rule(), lrp.w_square(), lrp.epsilon_rule()])
def test_a_rule_at_a_call_that_it_is_not_for_is_refused_with_advice(rule):
    everywhere = relevance_method("mine", RuleTable.of([(depth(0, 1), rule)]) + epsilon_table(1e-6))
    with pytest.raises(OptionsError, match=r"cannot be applied to %.*family\("):
        agf_fx.compile(vgg(), IMAGES, method=everywhere)


def returning(value):
    """LRP-ε with a rule of the user's own at convolutions, which returns ``value``."""
    own = Rule(lambda site, phi: value(site, phi), "mine", promise=Promise.NOTHING)
    return relevance_method("mine", RuleTable.of([(family(Family.CONVOLUTION), own)]) + epsilon_table(1e-6))


def twice():
    """A method with two streams of one name."""
    method = relevance_method("mine", epsilon_table(1.0))
    return dataclasses.replace(method, streams=method.streams * 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RuleTable.of([(first_layer, lrp.z_plus)]), "is no rule; where it makes one, call it"),
        (lambda: RuleTable.of([("layer1", lrp.flat())]), "'layer1' is no condition on calls; give family"),
        (lambda: first_layer & (lambda node: True), r"is no condition on calls.*as Where\(function"),
        (lambda: fact("first_layer"), "fact is 'first_layer'; choose one of 'input_layer'"),
        (lambda: epsilon_table(1e-6) + {}, "a dict is no table of rules"),
        (lambda: relevance_method("mine", [(first_layer, lrp.flat())]), "are a list; give RuleTable.of"),
        (lambda: lrp.gamma_rule(-3.0), "gamma is -3.0; give a number of 0 or more"),
        (lambda: lrp.alpha_beta(2.0, 2.0), "α is 2.0 and β is 2.0; give"),
        (lambda: epsilon_table(-1.0), "epsilon is -1.0; give a number of 0 or more"),
        (twice, "two streams of mine have one name"),
        (lambda: agf_fx.compile(vgg(), IMAGES, method=returning(lambda s, phi: phi)), "returns .*Proxy.*a tuple of 1"),
        (lambda: agf_fx.compile(vgg(), IMAGES, method=returning(lambda s, phi: (phi, phi))), "returns 2 messages"),
        (lambda: agf_fx.compile(vgg(), IMAGES, method=returning(lambda s, phi: (1 / s.x,))), r"truediv\(1, x\)"),
        (lambda: agf_fx.compile(vgg(), IMAGES, method=returning(lambda s, phi: (2 - s.x,))), r"sub\(2, x\)"),
    ],
)
def test_a_composite_that_is_none_is_told_what_to_do(make, message):
    with pytest.raises(OptionsError, match=f"(?s){message}"):
        make()


def test_nothing_passes_where_no_condition_holds():
    only_linear = RuleTable.of([(family(Family.LINEAR), lrp.epsilon_rule())]) + between_layers(lrp.norm())
    compiled = agf_fx.compile(vgg(), method=relevance_method("headless", only_linear))
    with pytest.raises(OptionsError, match="no relevance reaches the images"):
        compiled(IMAGES, 1)


def test_a_table_reads_like_one():
    text = str(REGISTRY["epsilon-plus-flat"].make(REGISTRY["epsilon-plus-flat"].options()).streams[0].rules)
    assert text.splitlines()[0].split("  ")[0] == "input layer"
    assert "flat(ε=1e-06)" in text
    assert "epsilon(ε=1e-06)" in text


# --- layers ----------------------------------------------------------------------------------------------------------


def test_an_unknown_layer_is_named_with_its_neighbours():
    for options in ({"layer": "features.33"}, {"layer": "feature"}):
        with pytest.raises(OptionsError, match=r"no layer .*features"):
            agf_fx.compile(vgg(), method="gradcam", options=options)(IMAGES, 1)
    with pytest.raises(OptionsError, match="is no feature map"):
        agf_fx.compile(vgg(), method="gradcam", options={"layer": "classifier.0"})(IMAGES, 1)


def test_the_layer_that_gradcam_takes_by_itself():
    resnet = networks.basic_resnet()
    images = IMAGES.repeat(1, 1, 2, 2)
    by_itself = agf_fx.compile(resnet, method="gradcam", options={"relu": False})(images, 1)
    named = agf_fx.compile(resnet, method="gradcam", options={"relu": False, "layer": "layer4"})(images, 1)
    assert by_itself.abs().max() > 0
    assert torch.equal(by_itself, named)


# --- equal functions -------------------------------------------------------------------------------------------------


class Spelled(nn.Module):
    def __init__(self, convolve, classify):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.functions = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5), (convolve, classify)

    def forward(self, x):
        convolve, classify = self.functions
        return classify(self, torch.relu(convolve(self, x)).mean((2, 3)))


def as_module(net, x):
    return net.conv(x)


SPELLINGS = {
    "added behind a convolution": (
        lambda net, x: F.conv2d(x, net.conv.weight, padding=1) + net.conv.bias[:, None, None],
        lambda net, x: net.fc(x),
    ),
    "added in front": (
        lambda net, x: net.conv.bias[None, :, None, None] + F.conv2d(x, net.conv.weight, padding=1),
        lambda net, x: net.fc(x),
    ),
    "addmm": (as_module, lambda net, x: torch.addmm(net.fc.bias, x, net.fc.weight.T)),
    "matmul": (as_module, lambda net, x: x @ net.fc.weight.T + net.fc.bias),
    "linear and sum": (as_module, lambda net, x: F.linear(x, net.fc.weight) + net.fc.bias),
    "products and sums": (as_module, lambda net, x: (x[:, None] * net.fc.weight).sum(-1) + net.fc.bias),
}


@pytest.mark.parametrize("case", SPELLINGS)
@pytest.mark.parametrize("name", ["agf", "lrp-epsilon", "epsilon-plus-flat", "lrp-w2"])
def test_a_bias_is_one_wherever_it_is_added(name, case):
    plain = Spelled(as_module, lambda net, x: net.fc(x)).double().eval()
    other = Spelled(*SPELLINGS[case]).double().eval()
    expected, found = (agf_fx.compile(model, method=name).explain(IMAGES, TARGETS) for model in (plain, other))
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-12, atol=1e-12)
    assert difference(found.maps, expected.maps) < 1e-9


def test_a_read_out_of_ones_own_is_told_what_it_may_call():
    def written(read):
        method = dataclasses.replace(REGISTRY["gradient"].make(None), name="mine", read_out=read)
        return agf_fx.compile(vgg(), method=method)(IMAGES, 1)

    by_method = written(lambda trace: trace.at_images("gradient").sum([2]))
    torch.testing.assert_close(by_method, explainer("gradient")(IMAGES, 1))
    with pytest.raises(OptionsError, match=r"calls cumsum, which is no function that graphs are made of; call an op"):
        written(lambda trace: torch.cumsum(trace.at_images("gradient"), 2))


@pytest.mark.parametrize("method", ["clrp", "sglrp", "lrp-alphabeta"])
def test_norms_are_folded_where_biases_take_a_part(method):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    model = nn.Sequential(*layers, nn.Linear(32, 5)).eval()
    with torch.no_grad():
        for tensor in (model[1].weight, model[1].bias, model[1].running_mean):
            tensor.normal_()
    folded = nn.Sequential(fuse_conv_bn_eval(model[0], model[1]), *model[2:]).eval().double()
    images, targets = torch.randn(2, 3, 8, 8, dtype=torch.float64), [[0, 1], [2, 3]]
    found, expected = (
        agf_fx.compile(each.double(), method=method, options={"bias": True}).explain(images, targets).maps
        for each in (model, folded)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


FOLDING = ("lrp-0", "lrp-epsilon", "lrp-gamma", "epsilon-plus-flat", "attnlrp", "fullgrad")


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_norms_are_folded_into_transposed_convolutions_of_any_groups(groups):
    torch.manual_seed(0)
    up, plain = (nn.ConvTranspose2d(6, 12, (3, 2), groups=groups).double() for _ in range(2))
    norm, further = nn.BatchNorm2d(12).double(), nn.Linear(12, 5)
    with torch.no_grad():
        norm.running_var.uniform_(0.5, 2)
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.normal_()
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()  # of each output
        for group, outputs in enumerate(torch.arange(12).chunk(groups)):
            inputs = torch.arange(6).chunk(groups)[group]
            plain.weight[inputs] = up.weight[inputs] * scale[outputs][:, None, None]
        plain.bias.copy_((up.bias - norm.running_mean) * scale + norm.bias)
    first, last = (nn.Conv2d(3, 6, 3), nn.ReLU()), (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), further)
    model = nn.Sequential(*first, up, norm, *last).double().eval()
    twin = nn.Sequential(*first, plain, *last).double().eval()
    images = torch.randn(2, 3, 8, 7, dtype=torch.float64)
    torch.testing.assert_close(model(images), twin(images))
    for method in FOLDING:
        found, expected = (agf_fx.compile(each, method=method)(images, 1) for each in (model, twin))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))


class Normalising(nn.Module):
    """Computes with its images before the first layer."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def forward(self, x):
        return self.inside((x - 0.45) / 0.225)


def test_bounds_are_those_of_the_images_or_of_what_the_first_layer_reads():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)
    inside = nn.Sequential(nn.ZeroPad2d(1), nn.MaxPool2d(2), *layers).double().eval()
    images = torch.rand(2, 3, 12, 12, dtype=torch.float64)
    low, high = -0.45 / 0.225, 0.55 / 0.225

    def maps(model, x, **options):
        return agf_fx.compile(model, method="epsilon-gamma-box", options=options)(x, 1)

    expected = maps(inside, (images - 0.45) / 0.225, low=low, high=high)
    model = Normalising(inside).eval()
    with pytest.raises(OptionsError, match=r"Normalising computes with them .* bounds='first-layer'"):
        maps(model, images, low=0.0, high=1.0)
    torch.testing.assert_close(maps(model, images, low=low, high=high, bounds="first-layer"), expected)
    with pytest.warns(UserWarning, match=r"images \[1\] reach from .* takes 0 and 1 for the bounds"):
        maps(inside, images + torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).double(), low=0.0, high=1.01 - 0.01)
