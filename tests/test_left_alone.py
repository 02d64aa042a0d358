"""What a model and its user hold is left alone by captures; what cannot be told from outside is refused."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import agf_fx
from agf_fx.errors import CaptureError, InputError

IMAGES = torch.randn(2, 3, 12, 10, generator=torch.Generator().manual_seed(0)).double()


class Net(nn.Module):
    """A small classifier whose images pass a function first."""

    def __init__(self, function, **parts):
        super().__init__()
        torch.manual_seed(0)
        self.function = (function,)
        self.conv, self.norm, self.fc = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 4)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        x = self.function[0](self, x)
        return self.fc(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


def net(function=lambda self, x: x, **parts):
    return Net(function, **parts).double().eval()


def only_exported(x):
    """Images that symbolic tracing cannot follow any further."""
    return x if len([*x.shape]) == 4 else -x


RANDOM = {
    "rand": lambda s, x: x * torch.rand(1),
    "randperm": lambda s, x: x[:, torch.randperm(3)] * torch.randperm(9)[0],
    "decided by": lambda s, x: x if torch.rand(()) > 0.5 else -x,
    "Python's": lambda s, x: x * random.random(),
    "NumPy's": lambda s, x: x * float(np.random.rand()),
}


@pytest.mark.parametrize("name", RANDOM)
def test_lines_that_draw_constants_are_named_and_no_numbers_used_up(name):
    model = net(RANDOM[name])
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[2]
    with pytest.raises(CaptureError, match="draws at random") as caught:
        agf_fx.capture(model, IMAGES, unknown_ops="gradient")
    assert "training=self.training" in str(caught.value)
    if name not in ("Python's", "NumPy's"):
        assert f"{__file__}:" in str(caught.value)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[2]) == states[1:]


@pytest.mark.parametrize(
    "harmless",
    [
        lambda s, x: F.dropout(x, training=s.training),
        lambda s, x: F.dropout(x, 0.0),
        lambda s, x: F.rrelu(x),
        lambda s, x: (torch.rand_like(x), x)[1],
        lambda s, x: x + torch.randn_like(x) if s.training else x,
    ],
)
def test_noise_for_training_is_no_obstacle(harmless):
    model = net(harmless)
    torch.testing.assert_close(agf_fx.compile(model).explain(IMAGES).logits, model(IMAGES).detach())


def test_a_model_that_changes_its_state_is_refused():
    def counting(self, x):
        self.count.add_(1)
        return x * self.count

    for function, parts in [
        (counting, {"count": nn.Buffer(torch.zeros(()))}),
        (lambda s, x: x * len(s.kept.append(0) or s.kept), {"kept": []}),
    ]:
        with pytest.raises(CaptureError, match="changes what it reads"):
            agf_fx.capture(net(function, **parts), IMAGES)


def test_what_tracing_does_not_see_is_refused():
    def watched(self, x):
        return x if type(x) is torch.Tensor else -x

    with pytest.raises(CaptureError, match="gives other logits than the model itself"):
        agf_fx.capture(net(watched), IMAGES)


def test_the_look_takes_one_capture_and_leaves_the_model_alone():
    calls = []

    def function(self, x):
        if type(x) is torch.Tensor:
            calls.append(tuple(x.shape))
        return x

    model = net(function)
    for example in (torch.zeros(1, 3, 12, 10), torch.full((64, 3, 12, 10), float("nan")), IMAGES):
        calls.clear()
        agf_fx.compile(model, example.double(), compile_options=agf_fx.CompileOptions(cache="memory"))
    assert not calls  # the last of three is known
    agf_fx.compile(model, IMAGES.repeat(20, 1, 1, 1), compile_options=agf_fx.CompileOptions(cache="off"))
    assert calls == [(1, 3, 12, 10)] * 2


def writes_to_images(self, x):
    x /= 2
    x += 1
    return x.relu_()


def counts_its_calls(self, x):
    self.calls.add_(1)
    self.mean.mul_(0.9).add_(x.mean((0, 2, 3)).detach(), alpha=0.1)
    return x


@pytest.mark.parametrize(
    ("writing", "twin"),
    [
        (writes_to_images, lambda s, x: torch.relu(x / 2 + 1)),
        (lambda s, x: x.float().div_(2).double(), lambda s, x: x.float().div(2).double()),
        (lambda s, x: x.sub_(1).mul_(3).clamp_(-2, 2), lambda s, x: ((x - 1) * 3).clamp(-2, 2)),
        (counts_its_calls, lambda s, x: x),
        (lambda s, x: counts_its_calls(s, only_exported(x)), lambda s, x: x),
        (lambda s, x: s.plain.add_(1) * 0 + x, lambda s, x: x),
    ],
)
def test_what_forward_writes_to_is_left_alone(writing, twin):
    parts = {"calls": nn.Buffer(torch.tensor(0)), "mean": nn.Buffer(torch.zeros(3)), "plain": torch.zeros(())}
    model, images = net(writing, **parts), IMAGES.clone()
    explainer = agf_fx.compile(model)
    found, expected = explainer.explain(images, 1), agf_fx.compile(net(twin)).explain(IMAGES, 1)
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.maps, expected.maps)
    assert torch.equal(images, IMAGES)
    assert model.calls == 0
    assert not model.mean.any()
    assert not model.plain.any()


def batch_norm_in_training(self, x):
    self.norm.train()
    return x


@pytest.mark.parametrize(
    "model",
    [
        net(batch_norm_in_training),
        net(lambda s, x: F.batch_norm(x, s.mean, s.var, training=True), mean=torch.zeros(3), var=torch.ones(3)),
        net(lambda s, x: s.own(x), own=nn.BatchNorm2d(3, track_running_stats=False)),
    ],
)
def test_statistics_of_the_batch_are_refused_though_the_rest_is_known(model):
    agf_fx.compile(net(), IMAGES)
    with pytest.raises(CaptureError, match="mean and variance of the batch"):
        agf_fx.compile(model, IMAGES)


def test_hooks_that_store_activations_keep_theirs():
    model, stored, listed = net(), {}, []

    class Recorder:
        def __init__(self):
            self.seen = [[]]

        def hook(self, module, inputs, y):
            self.seen[0].append(y)

    recorder = Recorder()
    model.conv.register_forward_hook(lambda module, inputs, y: listed.append(y))
    model.norm.register_forward_hook(lambda module, inputs, y: stored.update(norm=y))
    model.register_forward_pre_hook(lambda module, inputs: STORE.setdefault("images", []).append(inputs[0]))
    model.fc.register_forward_hook(recorder.hook)
    model.fc.register_forward_hook(lambda module, inputs, y: y + 1)
    expected = model(IMAGES).detach()
    before = [listed[0], stored["norm"], STORE["images"][0], recorder.seen[0][0]]
    for unreached in (lambda x: x, only_exported):
        model.function = (lambda s, x, unreached=unreached: unreached(x),)
        torch.testing.assert_close(agf_fx.compile(model).explain(IMAGES).logits, expected)
    (after,) = zip(listed, [stored["norm"]], STORE["images"], recorder.seen[0], strict=True)
    assert all(one is other for one, other in zip(before, after, strict=True))


STORE = {}


class Mixed(nn.Module):
    """A body in bfloat16, a head in float32."""

    def __init__(self, first=torch.bfloat16):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Conv2d(3, 6, 3).to(first), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(torch.relu(self.body(x.to(torch.bfloat16))).mean((2, 3)).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_of_mixed_precision_are_explained_in_float32(dtype):
    images = IMAGES.to(dtype)
    found, wide = agf_fx.compile(Mixed()).explain(images, 1), Mixed().float()
    wide.body.weight.data = Mixed().body.weight.detach().float()
    wide.body.bias.data = Mixed().body.bias.detach().float()
    wide.forward = lambda x: wide.head(torch.relu(wide.body(x)).mean((2, 3)))
    expected = agf_fx.compile(wide).explain(images.float(), 1)
    assert found.maps.dtype is torch.float32
    assert torch.equal(found.maps, expected.maps)
    assert torch.equal(found.logits, expected.logits)
    with pytest.raises(InputError, match=r"use images.to"):
        agf_fx.compile(Mixed())(images.double())


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = net()

    def forward(self, x, meta=None):
        return self.body(x) if meta is None else self.body(x) + meta


def test_further_inputs_are_refused_by_name():
    meta = torch.zeros(2, 4).double()
    for example in ((IMAGES, meta), [IMAGES, meta]):
        with pytest.raises(InputError, match=r"holds 2 inputs.*'meta' of TwoInputs\.forward"):
            agf_fx.compile(TwoInputs().eval(), example)
    for given in (meta, meta.bool(), {"meta": meta}):
        with pytest.raises(InputError, match=r"'meta' of TwoInputs\.forward"):
            agf_fx.compile(TwoInputs().eval())(IMAGES, given)


def test_whole_numbers_are_no_images():
    for given in (IMAGES.to(torch.uint8), IMAGES.long()):
        with pytest.raises(InputError, match=r"images.float\(\)"):
            agf_fx.compile(net())(given)


def test_models_made_under_inference_mode():
    images = IMAGES.clone()
    with torch.inference_mode():
        model = net()
        found = agf_fx.compile(model).explain(IMAGES.clone(), 1)
    assert not any(tensor.is_inference() for tensor in (found.maps, found.logits, found.target))
    assert torch.equal(agf_fx.compile(model).explain(images, 1).maps, found.maps)
    assert torch.equal(agf_fx.compile(net()).explain(images, 1).maps, found.maps)
    found.maps.requires_grad_().square().sum().backward()


def test_images_without_numbers_are_refused():
    with pytest.raises(InputError, match="without numbers"):
        agf_fx.compile(net(), IMAGES)(IMAGES.to("meta"), 1)


class MakesLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), None

    def forward(self, x):
        x = torch.relu(self.conv(x)).flatten(1)
        if self.fc is None:
            self.fc = nn.Linear(x.shape[1], 4, dtype=x.dtype)
        return self.fc(x)


@pytest.mark.filterwarnings("ignore:.*[Ll]azy")
@pytest.mark.parametrize(
    "model", [MakesLayers(), nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))]
)
def test_layers_without_weights_as_yet(model):
    model = model.double().eval()
    with pytest.raises(CaptureError, match="once on a batch"):
        agf_fx.compile(model, IMAGES)
    expected = model(IMAGES).detach()
    torch.testing.assert_close(agf_fx.compile(model).explain(IMAGES, 1).logits, expected)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_programs_exported_for_one_batch_size(batch):
    program = torch.export.export(net(), (IMAGES[:1].repeat(batch, 1, 1, 1),)).module()
    with pytest.raises(CaptureError, match=r"Export it with dynamic_shapes=\(\{0"):
        agf_fx.compile(program, IMAGES)


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, g):  # the line that is named
        return g


def test_a_function_with_a_backward_of_its_own_is_no_hit_in_the_cache():
    agf_fx.compile(net(lambda s, x: x.sign() + x), IMAGES)
    with pytest.raises(CaptureError, match=r"test_left_alone.py:\d+: Sign.backward"):
        agf_fx.compile(net(lambda s, x: Sign.apply(x) + x), IMAGES)


def test_a_part_that_stops_gradients_is_looked_through_and_said():
    with pytest.warns(UserWarning, match="stops gradients in a part"):
        agf_fx.capture(net(lambda s, x: x + s.side(x).detach(), side=nn.Conv2d(3, 3, 3, padding=1)), IMAGES)


def test_a_model_that_takes_single_images_in_its_own_way():
    model = net(lambda s, x: x)
    model.forward = lambda x: Net.forward(model, x).squeeze()
    logits = agf_fx.compile(model).explain(IMAGES, 1).logits
    torch.testing.assert_close(logits, model(IMAGES).detach())


def test_a_model_that_gives_a_single_image_other_numbers():
    model = net(lambda s, x: x)
    model.forward = lambda x: Net.forward(model, x) * (-1 if x.shape[0] == 1 else 1)
    with pytest.raises(CaptureError, match="a single image other logits than the same image in a batch"):
        agf_fx.compile(model)(IMAGES, 1)


BY_NUMBER = {
    "a comparison": lambda s, x: x * (x.shape[0] > 4),
    "a product": lambda s, x: x * len(x),
    "padding": lambda s, x: F.pad(x, (0, 0, 0, 0, 0, 0, 0, -x.shape[0] % 4))[: x.shape[0]],
}


@pytest.mark.parametrize("name", BY_NUMBER)
def test_what_depends_on_the_number_of_images_is_refused(name):
    with pytest.raises(CaptureError, match="batch"):
        agf_fx.compile(net(BY_NUMBER[name]))(IMAGES, 1)


class Recorder:
    """A hook that is an object, and keeps what it has seen."""

    def __init__(self):
        self.seen = []

    def __call__(self, module, args, output):
        self.seen.append(output)

    def method(self, module, args, output):
        self.seen.append(output)


@pytest.mark.parametrize("kind", ["object", "method"])
def test_hooks_that_are_objects_see_nothing_of_a_capture(kind):
    model, recorder = net(), Recorder()
    model.conv.register_forward_hook(recorder if kind == "object" else recorder.method)
    result = agf_fx.compile(model).explain(IMAGES, 1)
    assert not [value for value in recorder.seen if type(value) is not torch.Tensor]
    seen = len(recorder.seen)
    torch.testing.assert_close(result.logits, model(IMAGES).detach())
    assert len(recorder.seen) == seen + 1


def test_images_without_pixels_are_refused():
    with pytest.raises(InputError, match="pixels"):
        agf_fx.compile(net(), torch.zeros(2, 3, 0, 10).double())
    with pytest.raises(InputError, match="pixels"):
        agf_fx.compile(net(), IMAGES).explain(torch.zeros(2, 3, 12, 0).double(), 1)
    with pytest.raises(InputError, match="nested"):
        agf_fx.compile(net(), IMAGES).explain(torch.nested.nested_tensor([*IMAGES]), 1)


def doubled_when(case, model):
    """Hook something that doubles into a model, or into all; what takes it off again."""
    if case == "forward":
        return model.conv.register_forward_hook(lambda module, args, y: y * 2)
    if case == "before":
        return model.norm.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    if case == "root":
        return model.register_forward_hook(lambda module, args, y: y * 2)
    return nn.modules.module.register_module_forward_hook(
        lambda module, args, y: y * 2 if isinstance(module, nn.BatchNorm2d) else None
    )


@pytest.mark.parametrize("case", ["forward", "before", "root", "all modules"])
def test_hooks_that_come_and_go_are_noticed(case):
    model = net()
    explainer = agf_fx.compile(model)
    before = explainer.explain(IMAGES, 1)
    handle = doubled_when(case, model)
    try:
        hooked = explainer.explain(IMAGES, 1)
        torch.testing.assert_close(hooked.logits, model(IMAGES).detach())
        assert not torch.allclose(hooked.logits, before.logits)
        torch.testing.assert_close(agf_fx.compile(model).explain(IMAGES, 1).maps, hooked.maps)
    finally:
        handle.remove()
    after = explainer.explain(IMAGES, 1)
    torch.testing.assert_close(after.maps, before.maps)
    torch.testing.assert_close(after.logits, before.logits)


def test_weights_that_are_tied_no_more_are_read_apart():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.fc = (nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 4))
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.fc(torch.relu(self.b(torch.relu(self.a(x)))).mean((2, 3)))

    model = Tied().double().eval()
    explainer = agf_fx.compile(model)
    explainer(IMAGES, 1)
    model.b.weight = nn.Parameter(torch.randn_like(model.a.weight))
    found = explainer.explain(IMAGES, 1)
    torch.testing.assert_close(found.logits, model(IMAGES).detach())
    torch.testing.assert_close(found.maps, agf_fx.compile(model).explain(IMAGES, 1).maps)
    model.b.weight = model.a.weight
    torch.testing.assert_close(explainer.explain(IMAGES, 1).logits, model(IMAGES).detach())


def test_values_of_classes_that_change_are_noticed():
    class Scaled(Net):
        scale = 2.0
        shift = torch.ones(4).double()

        def forward(self, x):
            return super().forward(x) * self.scale + self.shift

    model = Scaled(lambda self, x: x).double().eval()
    explainer = agf_fx.compile(model)
    explainer(IMAGES, 1)
    Scaled.scale = 3.0
    torch.testing.assert_close(explainer.explain(IMAGES, 1).logits, model(IMAGES).detach())
    Scaled.shift = torch.arange(4).double()
    torch.testing.assert_close(explainer.explain(IMAGES, 1).logits, model(IMAGES).detach())
