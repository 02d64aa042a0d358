"""Meta-saliency: the published maps, a step of torch.optim.SGD on a copy of the model, and what stays as it is."""

from __future__ import annotations

import copy

import networks
import pytest
import torch
import torch.nn.functional as F
from networks import golden_names, load_golden
from torch import nn

import agf_fx
from agf_fx.errors import CaptureError, ExportError, InputError, OptionsError
from agf_fx.methods import REGISTRY
from agf_fx.runtime import stepping

IMAGES = torch.randn(2, 3, 12, 11, generator=torch.Generator().manual_seed(0)).double()
TARGETS = torch.tensor([[0, 1], [2, 3]])
LR = 0.05


def model():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, bias=False), nn.ReLU()]
    return networks._lively(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5)))


def loss_of(net, image, target):
    return F.cross_entropy(net(image), target.reshape(1))


def by_hand(net, images, target, lr, method, options=None, loss=loss_of, **arguments):
    """Maps of copies of a model that one step of SGD has moved, one for each image and target."""
    rows = []
    for image, row in zip(images.split(1), target, strict=True):
        maps = []
        for code in row:
            other = copy.deepcopy(net).requires_grad_()
            optimiser = torch.optim.SGD(other.parameters(), lr=abs(lr), maximize=lr < 0)
            loss(other, image, code).backward()
            optimiser.step()
            maps.append(agf_fx.compile(other, method=method, options=options, **arguments).explain(image, code[None]))
        rows.append(torch.cat([each.maps for each in maps], 1))
    return torch.cat(rows)


def close(found, expected, tolerance=1e-10):
    assert found.shape == expected.shape
    assert float(expected.abs().max()) > 0
    assert float((found - expected).abs().max() / expected.abs().max()) <= tolerance


# --- parity ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", golden_names())
def test_meta_norm_grad_of_the_published_code(name):
    golden = load_golden(name)
    keys = {key.rpartition("/")[0] for key in golden.group("normgrad_tr/meta_norm_grad/")}
    assert keys
    targets = torch.stack([golden.tensors[f"targets/{target}"] for target in ("top1", "other")], 1)
    for layer in keys:
        options = {"layers": layer, "normalise": False, "resize": False}
        method = agf_fx.meta("normgrad", lr=float(golden.metadata["meta_norm_grad_lr"]), options=options)
        result = agf_fx.compile(golden.model, method=method).explain(golden.tensors["input"], targets)
        torch.testing.assert_close(result.logits, golden.tensors["logits"], rtol=1e-12, atol=1e-12)
        for k, target in enumerate(("top1", "other")):
            close(result.maps[:, k : k + 1], golden.tensors[f"normgrad_tr/meta_norm_grad/{layer}/{target}"], 1e-12)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("agf", None),
        ("gradient", None),
        ("lrp-epsilon", {"epsilon": 1e-3}),
        ("deep-shap", {"baseline": IMAGES.flip(0) / 2}),
        ("smoothgrad", {"samples": 3}),
        ("rise", {"samples": 5}),
    ],
)
def test_a_step_of_sgd_on_a_copy(method, options, sign):
    net = model()
    found = agf_fx.compile(net, method=agf_fx.meta(method, LR, sign, options=options))(IMAGES, TARGETS)
    close(found, by_hand(net, IMAGES, TARGETS, sign * LR, method, options))
    plain = agf_fx.compile(net, method=method, options=options)(IMAGES, TARGETS)
    assert float((found - plain).abs().max() / plain.abs().max()) > 1e-3


class Tied(nn.Module):
    """One kernel read twice, one that no logit reads, and a table of whole numbers."""

    def __init__(self, of_one_memory=False):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.conv, self.again = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
        self.again.weight = nn.Parameter(self.conv.weight.data) if of_one_memory else self.conv.weight
        self.unused, self.fc = nn.Linear(3, 3), nn.Linear(4, 5)
        self.order = nn.Parameter(torch.tensor([3, 1, 0, 2]), requires_grad=False)

    def forward(self, x):
        y = torch.relu(self.again(torch.relu(self.conv(self.first(x)))))
        return self.fc(y[:, self.order].mean((2, 3)))


@pytest.mark.parametrize("of_one_memory", [False, True])
def test_tied_weights_move_once_by_the_sum(of_one_memory):
    torch.set_default_dtype(torch.float64)  # as .double() would part the memory
    try:
        net = Tied(of_one_memory).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    assert net.again.weight.data_ptr() == net.conv.weight.data_ptr()
    found = agf_fx.compile(net, method=agf_fx.meta("gradient", LR))(IMAGES, TARGETS)
    rows = []
    for image, row in zip(IMAGES.split(1), TARGETS, strict=True):
        for target in row:
            other = copy.deepcopy(net)
            if of_one_memory:
                other.again.weight = nn.Parameter(other.conv.weight.data)  # which a copy of a parameter parts
            floating = [weight for weight in other.parameters() if weight.is_floating_point()]
            loss_of(other, image, target).backward()
            torch.optim.SGD(floating, lr=LR).step()
            rows.append(agf_fx.compile(other, method="gradient")(image, target[None]))
    close(found, torch.cat(rows).reshape(found.shape))


def test_parametrised_weights_move_by_their_own_parameters():
    net = model()
    nn.utils.parametrizations.weight_norm(net[0])
    found = agf_fx.compile(net, method=agf_fx.meta("gradient", LR))(IMAGES, TARGETS)
    close(found, by_hand(net, IMAGES, TARGETS, LR, "gradient"))


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 1)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)))


def test_dense_outputs_take_the_logits_that_a_target_looks_at():
    net = Dense().double().eval()
    found = agf_fx.compile(net, method=agf_fx.meta("gradient", LR))(IMAGES, TARGETS % 3)
    expected = by_hand(
        net, IMAGES, TARGETS % 3, LR, "gradient", loss=lambda f, x, t: F.cross_entropy(f(x).mean((2, 3)), t[None])
    )
    close(found, expected)
    place = torch.tensor([[[2, 1, 4]], [[0, 3, 3]]])  # class, row, column
    at = agf_fx.compile(net, method=agf_fx.meta("gradient", LR))(IMAGES, place)
    assert not torch.equal(at, agf_fx.compile(net, method="gradient")(IMAGES, place))


# --- what is returned ------------------------------------------------------------------------------------------------


def test_logits_and_ranks_are_those_of_the_model_as_it_is():
    net = model()
    result = agf_fx.compile(net, method=agf_fx.meta("gradient", lr=5.0, sign=-1)).explain(IMAGES, top_k=5)
    torch.testing.assert_close(result.logits, net(IMAGES).detach())
    assert torch.equal(result.target, net(IMAGES).argsort(1, descending=True))
    close(result.maps, agf_fx.compile(net, method=agf_fx.meta("gradient", 5.0, -1))(IMAGES, result.target))


def test_layers_are_those_behind_the_step():
    net = model()
    explainer = agf_fx.compile(net, method=agf_fx.meta("lrp-epsilon", LR))
    result = explainer.explain(IMAGES, TARGETS, layers=["2", "4"])
    assert [result.layers[name].shape for name in ("2", "4")] == [(2, 2, 6, 10, 9), (2, 2, 6, 8, 7)]
    other = copy.deepcopy(net)
    loss_of(other, IMAGES[1:], TARGETS[1, 0]).backward()
    torch.optim.SGD(other.parameters(), lr=LR).step()
    expected = agf_fx.compile(other, method="lrp-epsilon").explain(IMAGES[1:], 2, layers=["2"])
    close(result.layers["2"][1, 0], expected.layers["2"][0, 0])
    assert result.channels("2").channel.shape == (2, 2, 6)
    with pytest.raises(OptionsError, match="other values for each; ask for its relevance or gradient"):
        explainer.explain(IMAGES, TARGETS, layers=["2"], quantities=["relevance", "value"])


def test_single_precision_steps_in_the_precision_that_is_asked_for():
    net = model()
    exact = agf_fx.compile(net, method=agf_fx.meta("gradient", LR))(IMAGES, TARGETS)
    single = copy.deepcopy(net).float()
    found = agf_fx.compile(single, method=agf_fx.meta("gradient", LR), precision="float64")
    assert found(IMAGES.float(), TARGETS).dtype is torch.float64
    widened = copy.deepcopy(single).double()
    expected = agf_fx.compile(widened, method=agf_fx.meta("gradient", LR))(IMAGES.float().double(), TARGETS)
    close(found(IMAGES.float(), TARGETS), expected, 1e-12)
    checked = agf_fx.compile(single, method=agf_fx.meta("gradient", LR)).explain(IMAGES.float(), TARGETS, check=True)
    assert checked.precision.max() < 1e-4
    close(checked.maps.double(), exact, 1e-4)


def test_half_models_step_in_single_precision():
    half, images = model().half(), IMAGES.half()
    found = agf_fx.compile(half, method=agf_fx.meta("gradient", LR))(images, TARGETS)
    close(found, agf_fx.compile(model().half().float(), method=agf_fx.meta("gradient", LR))(images.float(), TARGETS))
    assert found.dtype is torch.float32


# --- what stays ------------------------------------------------------------------------------------------------------


def test_the_model_stays_as_it_is():
    net = model()
    loss_of(net, IMAGES[:1], TARGETS[0, 0]).backward()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    gradients = [weight.grad.clone() for weight in net.parameters()]
    versions = [value._version for value in net.state_dict().values()]
    agf_fx.compile(net, method=agf_fx.meta("agf", LR)).explain(IMAGES, TARGETS, check=True, layers=["2"])
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(torch.equal(weight.grad, grad) for weight, grad in zip(net.parameters(), gradients, strict=True))
    assert versions == [value._version for value in net.state_dict().values()]
    assert all(weight.requires_grad for weight in net.parameters())
    assert not any(module.training for module in net.modules())


def test_what_the_caller_has_set_changes_nothing():
    net = model()
    expected = agf_fx.compile(net, method=agf_fx.meta("gradient", LR))(IMAGES, TARGETS)
    frozen = agf_fx.compile(model().requires_grad_(False), method=agf_fx.meta("gradient", LR))
    assert torch.equal(frozen(IMAGES, TARGETS), expected)
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            assert torch.equal(frozen(IMAGES.clone(), TARGETS), expected)
            assert torch.equal(agf_fx.compile(model(), method=agf_fx.meta("gradient", LR))(IMAGES, TARGETS), expected)
    assert not frozen(IMAGES.clone().requires_grad_(), TARGETS).requires_grad


def test_weights_that_change_are_seen():
    net = model()
    explainer = agf_fx.compile(net, method=agf_fx.meta("gradient", LR))
    before = explainer(IMAGES, TARGETS)
    with torch.no_grad():
        net[0].weight.mul_(1.5)
    after = explainer(IMAGES, TARGETS)
    assert not torch.equal(before, after)
    close(after, by_hand(net, IMAGES, TARGETS, LR, "gradient"))
    close(explainer.bind(model())(IMAGES, TARGETS), before)


def test_batches_of_other_sizes_and_numbers():
    net = model()
    explainer = agf_fx.compile(net, method=agf_fx.meta("gradient", LR))
    batches = [IMAGES[:1], IMAGES, IMAGES[:, :, 2:], IMAGES[:, :, 2:, 3:].repeat(2, 1, 1, 1), IMAGES]
    for batch in batches:
        row = torch.arange(len(batch)).reshape(-1, 1)
        close(explainer(batch, row), by_hand(net, batch, row, LR, "gradient"))


def test_many_maps_say_how_far_they_are_and_one_what_it_looks_at(monkeypatch):
    said = []

    def follow(starts, total, what):
        said.append((total, what))
        return iter(starts)

    monkeypatch.setattr(stepping, "followed", follow)
    explainer = agf_fx.compile(model(), method=agf_fx.meta("smoothgrad", options={"samples": 4}))
    explainer(IMAGES, TARGETS)
    assert said == [(4, "maps")]
    explainer(IMAGES[:1], 1)
    assert said == [(4, "maps"), (4, "points")]


def test_limits_hold_for_each_map_alone():
    whole = agf_fx.compile(model(), method=agf_fx.meta("smoothgrad", LR, options={"samples": 4}))(IMAGES, TARGETS)
    for options in (agf_fx.CompileOptions(max_batch=1), agf_fx.CompileOptions(memory_limit=60_000)):
        method = agf_fx.meta("smoothgrad", LR, options={"samples": 4})
        close(agf_fx.compile(model(), method=method, compile_options=options)(IMAGES, TARGETS), whole)
    little = agf_fx.CompileOptions(memory_limit=100)
    with pytest.raises(agf_fx.errors.MemoryLimitError):
        agf_fx.compile(model(), method=agf_fx.meta("gradient"), compile_options=little)(IMAGES, TARGETS)


def test_memory_that_runs_out_in_the_step_is_said(monkeypatch):
    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    explainer = agf_fx.compile(model(), method=agf_fx.meta("gradient"))
    explainer.prepare(IMAGES)
    monkeypatch.setattr(torch.autograd, "grad", fail)
    with pytest.raises(agf_fx.errors.MemoryLimitError, match="the gradient of one image by the weights"):
        explainer(IMAGES, TARGETS)


# --- the graph -------------------------------------------------------------------------------------------------------


def test_the_graph_is_that_of_the_method_inside():
    agf_fx.cache.forget()
    options = agf_fx.CompileOptions(cache="memory")
    plain = agf_fx.compile(model(), IMAGES, method="lrp-epsilon", compile_options=options)
    found = agf_fx.compile(model(), IMAGES, method=agf_fx.meta("lrp-epsilon"), compile_options=options)
    assert (plain.counters.emissions, found.counters.emissions) == (1, 0)
    assert str(found.graph) == str(plain.graph)
    other = agf_fx.compile(model(), IMAGES, method=agf_fx.meta("lrp-epsilon", 0.5), compile_options=options)
    assert len({each.fingerprint for each in (plain, found, other)}) == 3
    agf_fx.cache.forget()
    agf_fx.compile(model(), IMAGES, method=agf_fx.meta("lrp-epsilon"), compile_options=options)
    again = agf_fx.compile(model(), IMAGES, method="lrp-epsilon", compile_options=options)
    assert again.counters.emissions == 0
    assert again.graph.method == "lrp-epsilon"


def test_ways_to_name_it_are_one():
    by_function = agf_fx.compile(model(), method=agf_fx.meta("lrp_epsilon", LR, options={"epsilon": 0.1}))
    options = {"method": "lrp-epsilon", "lr": LR, "options": {"epsilon": 0.1}}
    by_name = agf_fx.compile(model(), method="meta", options=options)
    words = REGISTRY["meta"].parsed(["method=lrp-epsilon", f"lr={LR}", "sign=1", "options=epsilon=0.1,bias=true"])
    by_words = agf_fx.compile(model(), method="meta", options=words)
    assert by_function.method == by_name.method == "meta"
    assert words == agf_fx.MetaOptions("lrp-epsilon", LR, options=agf_fx.LRPOptions(epsilon=0.1))
    assert torch.equal(by_function(IMAGES, 1), by_name(IMAGES, 1))
    assert torch.equal(by_function(IMAGES, 1), by_words(IMAGES, 1))
    own = REGISTRY["lrp-epsilon"].make(agf_fx.LRPOptions(epsilon=0.1))
    assert torch.equal(by_function(IMAGES, 1), agf_fx.compile(model(), method=agf_fx.meta(own, LR))(IMAGES, 1))
    several = REGISTRY["meta"].parsed(["options=layers=2,4,combine=linear"])
    assert several.options == agf_fx.methods.extract.NormGradOptions(layers=("2", "4"), combine="linear")


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "meta"}, "takes one step, and the method inside is meta, too"),
        ({"method": REGISTRY["meta"].make(agf_fx.MetaOptions())}, "takes one step, and the method inside is meta, too"),
        ({"method": "lrp"}, "no method 'lrp'"),
        ({"method": None}, "method is None; give a name"),
        ({"method": "lrp-epsilon", "options": {"epsilom": 1}}, "did you mean 'epsilon'"),
        ({"method": "lrp-epsilon", "options": (1,)}, "give a mapping, or words such as 'epsilon=0.1'"),
        ({"method": "lrp-epsilon", "options": ("epsilon",)}, "write epsilon=VALUE"),
        ({"method": REGISTRY["gradient"].make(None), "options": {}}, "Method of your own has no options"),
        ({"lr": 0}, "lr is 0; give a number above 0"),
        ({"lr": float("inf")}, "lr is inf"),
        ({"sign": 2}, "sign is 2; choose one of 1, -1"),
    ],
)
def test_what_is_no_option(arguments, message):
    with pytest.raises(OptionsError) as error:
        agf_fx.meta(**arguments)
    assert message in str(error.value)


def test_options_are_given_in_one_place():
    with pytest.raises(OptionsError, match=r"give options of the method inside to it: agf_fx.meta"):
        agf_fx.compile(model(), method=agf_fx.meta("lrp-epsilon"), options={"epsilon": 1})


def test_patterns_are_of_weights_that_do_not_move():
    patterns = networks.options_of("pattern-net", model(), 12)
    with pytest.raises(OptionsError, match="pattern-net was fitted to the weights of the model, which a step moves"):
        agf_fx.compile(model(), method=agf_fx.meta("pattern-net", options=patterns))


def test_one_set_of_weights_is_needed_for_files_and_conservation(tmp_path):
    explainer = agf_fx.compile(model(), IMAGES, method=agf_fx.meta("lrp-epsilon"))
    with pytest.raises(ExportError, match="moves the weights by a gradient at every call, which no file can"):
        explainer.export(tmp_path / "explainer.onnx")
    with pytest.raises(OptionsError, match="compile the method inside"):
        explainer.conservation(IMAGES, 1)


def test_one_logit_is_refused_though_the_graph_is_known():
    net = nn.Sequential(model(), nn.Linear(5, 1)).double().eval()
    agf_fx.compile(net, method="gradient")(IMAGES, 0)
    with pytest.raises(CaptureError, match="so it needs 2"):
        agf_fx.compile(net, method=agf_fx.meta("gradient"))(IMAGES, 0)


def test_a_step_that_leads_nowhere_is_said():
    class Sums(nn.Module):
        def forward(self, x):
            return x.mean((2, 3))

    with pytest.raises(InputError, match="depend on no parameter"):
        agf_fx.compile(Sums().eval(), method=agf_fx.meta("gradient"))(IMAGES, 1)
    images = torch.cat([IMAGES[:1], IMAGES[:1] * 1e200])
    with pytest.raises(InputError, match="step of image 1 towards class 1 has no finite gradient"):
        agf_fx.compile(nn.Sequential(Squares(), model()).eval(), method=agf_fx.meta("gradient"))(images, 1)


class Squares(nn.Module):
    def forward(self, x):
        return x * x


@torch.library.custom_op("meta_tests::half", mutates_args=())
def half(x: torch.Tensor) -> torch.Tensor:
    return x / 2


half.register_fake(torch.empty_like)
LIBRARY = torch.library.Library("meta_tests", "FRAGMENT")
LIBRARY.define("third(Tensor x) -> Tensor")
LIBRARY.impl("third", lambda x: x / 3, "CPU")
torch.library.register_fake("meta_tests::third", torch.empty_like, lib=LIBRARY)


class With(nn.Module):
    def __init__(self, op):
        super().__init__()
        self.model, self.op = model(), op

    def forward(self, x):
        return self.op(self.model(x))


@pytest.mark.parametrize("name", ["half", "third"])
def test_operations_without_a_gradient_of_pytorchs_are_named(name):
    op = getattr(torch.ops.meta_tests, name)
    agf_fx.register_rule(op.default, "pass-through", vjp=lambda site, gradient: (gradient / 2,))
    net = With(op).eval()
    agf_fx.compile(net, method="gradient")(IMAGES, 1)
    with pytest.raises(CaptureError, match=f"meta_tests.{name} has none; give it one by torch.library.register_aut"):
        agf_fx.compile(net, method=agf_fx.meta("gradient"))(IMAGES, 1)


def test_a_registered_gradient_is_used():
    op = torch.library.custom_op("meta_tests::fifth", lambda x: x / 5, mutates_args=(), schema="(Tensor x) -> Tensor")
    op.register_fake(torch.empty_like)
    op.register_autograd(lambda ctx, gradient: gradient / 5)
    agf_fx.register_rule(torch.ops.meta_tests.fifth.default, "pass-through", vjp=lambda site, gradient: (gradient / 5,))
    net = With(torch.ops.meta_tests.fifth).eval()
    found = agf_fx.compile(net, method=agf_fx.meta("gradient", LR))(IMAGES, TARGETS)
    close(found, by_hand(net, IMAGES, TARGETS, LR, "gradient"))


class Step(nn.Module):
    """v where v > 0, by an operation that PyTorch has no derivative of."""

    def forward(self, v):
        return v * torch.heaviside(v, torch.zeros((), dtype=v.dtype))


def test_operations_of_pytorch_without_a_derivative_are_named():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), Step(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    model = nn.Sequential(*layers, nn.Linear(4, 5)).double().eval()
    images = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    assert agf_fx.compile(model, method="gradcam")(images, 1).shape == (1, 8, 8)
    with pytest.raises(CaptureError, match="meta moves weights by PyTorch's gradient, and aten::heaviside has none"):
        agf_fx.compile(model, method="meta")(images, 1)
