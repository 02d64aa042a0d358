"""Capture: what comes out, that the model is left alone, and what is refused."""

from __future__ import annotations

import math
import threading
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from emission import weights
from networks import basic_resnet, reuse, small_vgg
from torch import fx, nn

import agf_fx
import agf_fx.errors
from agf_fx.errors import CaptureError, InputError, UnsupportedOpError

IMAGES = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def logits_of(model, canonical, images=IMAGES):
    forward = fx.GraphModule(nn.Module(), canonical.graph)
    return forward(images, *weights(canonical, model).values())


def test_functional_in_place_and_reused_activations():
    model = reuse()
    canonical = agf_fx.capture(model, IMAGES)
    assert torch.equal(logits_of(model, canonical), model(IMAGES))
    assert [n.target for n in canonical.calls].count(torch.ops.aten.relu.default) == 3  # a ReLU of a ReLU is one
    assert agf_fx.compile(model)(IMAGES).isfinite().all()


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_every_batch_size(batch):
    model = basic_resnet()
    canonical = agf_fx.capture(model, torch.zeros(1, 3, 32, 32, dtype=torch.float64))
    images = torch.randn(batch, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(logits_of(model, canonical, images), model(images), rtol=1e-12, atol=1e-12)


def test_text_is_deterministic_and_readable():
    first, second = (str(agf_fx.capture(reuse(), IMAGES)) for _ in range(2))
    assert first == second
    assert first == GOLDEN_TEXT


GOLDEN_TEXT = """\
# canonical graph of Reuse: f64[N, 3, 16, 16] -> f64[N, 5]
# node                                                                      type                                module  facts
%images = input                                                           f64[N, 3, 16, 16]
%conv1_conv2d = conv2d(%images, %p_conv1_weight, %p_conv1_bias, [1, 1], [1, 1], [1, 1], 1)  f64[N, 4, 16, 16]                   conv1
%bn_batch_norm = batch_norm(%conv1_conv2d, %p_bn_weight, %p_bn_bias, %b_bn_running_mean, %b_bn_running_var, False, 0.1, 1e-05, False)  f64[N, 4, 16, 16]                   bn
%act_relu = relu(%bn_batch_norm)                                          f64[N, 4, 16, 16]                   act
%conv2_conv2d = conv2d(%act_relu, %p_conv2_weight, %p_conv2_bias, [1, 1], [1, 1], [1, 1], 1)  f64[N, 4, 16, 16]                   conv2
%act_relu_1 = relu(%conv2_conv2d)                                         f64[N, 4, 16, 16]                   act
%add = add.Tensor(%act_relu_1, %act_relu)                                 f64[N, 4, 16, 16]
%act_relu_2 = relu(%add)                                                  f64[N, 4, 16, 16]                   act
%max_pool2d_with_indices = max_pool2d_with_indices(%act_relu_2, [2, 2], [2, 2], [0, 0], [1, 1], False)  (f64[N, 4, 8, 8], i64[N, 4, 8, 8])
%getitem = getitem(%max_pool2d_with_indices, 0)                           f64[N, 4, 8, 8]
%adaptive_avg_pool2d = adaptive_avg_pool2d(%getitem, [4, 4])              f64[N, 4, 4, 4]
%reshape = reshape(%adaptive_avg_pool2d, [-1, 64])                        f64[N, 64]
%fc_linear = linear(%reshape, %p_fc_weight, %p_fc_bias)                   f64[N, 5]                           fc
return %fc_linear                                                         -

# its 10 weights and constants
# node                        type             module           facts
%p_conv1_weight = input     f64[4, 3, 3, 3]  conv1.weight
%p_conv1_bias = input       f64[4]           conv1.bias
%p_bn_weight = input        f64[4]           bn.weight
%p_bn_bias = input          f64[4]           bn.bias
%p_conv2_weight = input     f64[4, 4, 3, 3]  conv2.weight
%p_conv2_bias = input       f64[4]           conv2.bias
%p_fc_weight = input        f64[5, 64]       fc.weight
%p_fc_bias = input          f64[5]           fc.bias
%b_bn_running_mean = input  f64[4]           bn.running_mean
%b_bn_running_var = input   f64[4]           bn.running_var
"""


def snapshot(model):
    return {
        "tensors": {k: (v, v._version, v.clone()) for k, v in model.state_dict(keep_vars=True).items()},
        "requires_grad": {k: p.requires_grad for k, p in model.named_parameters()},
        "grads": {k: p.grad for k, p in model.named_parameters()},
        "training": [m.training for m in model.modules()],
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), len(m._backward_pre_hooks))
            for m in model.modules()
        ],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "modules": list(model.modules()),
    }


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_exactly_as_it_was(training):
    model = reuse().train(training)
    model.act.eval()
    model.conv1.weight.requires_grad_(False)
    model.conv2.register_forward_hook(lambda *_: None)
    model.conv2.register_full_backward_hook(lambda *_: None)
    before = snapshot(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        explainer = agf_fx.compile(model, IMAGES)
        explainer(IMAGES)
    after = snapshot(model)
    for key in ("requires_grad", "grads", "training", "hooks", "attributes"):
        assert before[key] == after[key], key
    assert all(a is b for a, b in zip(before["modules"], after["modules"], strict=True))
    for name, (tensor, version, values) in before["tensors"].items():
        same, same_version, _ = after["tensors"][name]
        assert same is tensor
        assert same_version == version
        assert torch.equal(tensor, values)


def test_training_mode_means_evaluation_semantics_with_a_warning():
    model = small_vgg()
    expected = model(IMAGES)
    model.train()
    with pytest.warns(UserWarning, match="training mode"):
        canonical = agf_fx.capture(model, IMAGES)
    assert model.training
    assert torch.equal(logits_of(model, canonical), expected)


class Digamma(nn.Module):
    def forward(self, x):
        return torch.digamma(x * 0.1)  # the line that the error names


def test_an_operation_without_a_rule_is_refused_by_name_place_and_line():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(Digamma()), nn.Flatten(), nn.Linear(4 * 196, 3)).double()
    with pytest.raises(UnsupportedOpError) as caught:
        agf_fx.compile(model.eval(), IMAGES)
    error = caught.value
    assert error.op == "aten.digamma.default"
    assert error.module_path == "1.0"
    assert "test_capture.py" in error.source
    assert "torch.digamma(x * 0.1)  # the line that the error names" in error.source
    for part in (error.op, "'1.0'", error.source, "agf_fx.register_rule(torch.ops.aten.digamma.default"):
        assert part in str(error)


class Base(nn.Module):
    """What the networks below are made of."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4 * 196, 3)


class DynamicWeight(Base):
    def forward(self, x):
        return F.linear(x.flatten(1)[:, :4], x.flatten(1)[:, :4])


class BatchStatistics(Base):
    def forward(self, x):
        return self.fc(F.batch_norm(self.conv(x), None, None, training=True).flatten(1))


@pytest.mark.parametrize("network", [DynamicWeight, BatchStatistics])
def test_uses_that_no_rule_covers_are_refused(network):
    with pytest.raises(CaptureError, match=r"no relevance rule|must return|mean and variance of the batch"):
        agf_fx.compile(network().double().eval(), IMAGES)


class FixedBatch(Base):
    def forward(self, x):
        return self.fc(self.conv(x).reshape(2, -1))


class TwoOutputs(Base):
    def forward(self, x):
        y = self.fc(self.conv(x).flatten(1))
        return y, y


class TwoInputs(Base):
    def forward(self, x, y):
        return self.fc(self.conv(x + y).flatten(1))


class SkipsIntoLogits(Base):
    def forward(self, x):
        features = self.conv(x).flatten(1)
        return self.fc(features) + features[:, :3]


class NoLayer(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (FixedBatch, "batch size"),
        (TwoOutputs, "must return one tensor"),
        (TwoInputs, "TwoInputs"),
        (NoLayer, "no convolution or linear layer"),
    ],
)
def test_models_that_cannot_be_explained_say_why(network, message):
    with pytest.raises(agf_fx.errors.AgfFxError, match=message):
        agf_fx.compile(network().double().eval(), IMAGES)


class Trainer:
    """What training frameworks leave on a module: it refers back to it, and holds what cannot be copied."""

    def __init__(self, module):
        self.module, self.lock = module, threading.Lock()


class HoldsWhatCannotBeCopied(Base):
    def __init__(self):
        super().__init__()
        self.trainer, self.lock, self.np = Trainer(self), threading.Lock(), math
        self.batches = iter(torch.utils.data.DataLoader([1, 2]))
        self.parts = {"numbers": [(i for i in range(3)), 1.0]}

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).flatten(1)) * self.np.sqrt(4.0)


def test_what_cannot_be_copied_is_shared():
    model = HoldsWhatCannotBeCopied().double().eval()
    with Path(__file__).open() as model.file:
        canonical = agf_fx.capture(model, IMAGES)
    assert torch.equal(logits_of(model, canonical), model(IMAGES))


class PythonControlFlow(Base):
    """Control flow that symbolic tracing cannot follow and torch.export can: it depends on sizes only."""

    def forward(self, x):
        x = self.conv(x)
        for _ in range(len(x.shape)):
            x = torch.relu(x) if x.shape[1] == 4 else x
        return self.fc(x.flatten(1))


def test_what_symbolic_tracing_cannot_follow_goes_to_export():
    model = PythonControlFlow().double().eval()
    with pytest.raises(Exception, match=r".*"):
        torch.fx.symbolic_trace(model)
    canonical = agf_fx.capture(model, IMAGES)
    assert torch.equal(logits_of(model, canonical), model(IMAGES))
    assert {node.meta["module"] for node in canonical.calls} >= {"conv", "fc"}
    assert any("test_capture.py" in node.meta["source"] for node in canonical.calls)


class Constants(Base):
    """A normalisation written into the model, with tensors that are not buffers."""

    def __init__(self):
        super().__init__()
        self.mean = torch.full((1, 3, 1, 1), 0.5, dtype=torch.float64)

    def forward(self, x):
        x = (x - self.mean) / torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64).view(1, 3, 1, 1)
        return self.fc(torch.relu(self.conv(0.5 * x)).flatten(1))


def test_constants_of_the_code_are_kept():
    model = Constants().double().eval()
    canonical = agf_fx.capture(model, IMAGES)
    assert torch.equal(logits_of(model, canonical), model(IMAGES))
    assert agf_fx.compile(model)(IMAGES).isfinite().all()


@pytest.mark.parametrize(
    "example",
    [None, (), (IMAGES, IMAGES), torch.zeros(0, 3, 16, 16), torch.zeros(2, 3, 16, 16, dtype=torch.int64)],
)
def test_bad_examples_are_refused(example):
    with pytest.raises(InputError):
        agf_fx.capture(small_vgg(), example)


class Exported(nn.Module):
    """Tensors that forward() creates, with keyword arguments; only torch.export can follow it."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4 * 196, 3)
        self.register_buffer("scale", torch.tensor([1.5, 2.5]))

    def forward(self, x):
        x = self.conv(x)
        for _ in range(len(x.shape) - 3):
            x = x * torch.linspace(0, 2.7, 14, dtype=torch.float64).to(torch.int64)
        weight = torch.sum(self.scale.float(), 0, dtype=torch.float64)
        return self.fc((x * weight).flatten(1))


def test_tensors_that_the_code_creates_keep_their_keyword_arguments():
    model = Exported().double().eval()
    canonical = agf_fx.capture(model, IMAGES)
    torch.testing.assert_close(logits_of(model, canonical), model(IMAGES), rtol=1e-12, atol=1e-12)
    (constant,) = canonical.signature.constants.values()
    assert constant.tolist() == [0] * 5 + [1] * 5 + [2] * 4
    explainer = agf_fx.compile(model, IMAGES)
    assert explainer(IMAGES).isfinite().all()
    assert "[0], dtype=torch.float64)" in str(explainer.graph).replace("False, ", "")


class ExportedParts(Exported):
    """A constant that comes in parts."""

    def forward(self, x):
        x = self.conv(x)
        for _ in range(len(x.shape) - 3):
            _, column = torch.linspace(0, 2.7, 28, dtype=torch.float64).split(14)
            x = x * column
        return self.fc(x.flatten(1))


def test_constants_may_come_in_parts():
    model = ExportedParts().double().eval()
    canonical = agf_fx.capture(model, IMAGES)
    assert torch.equal(logits_of(model, canonical), model(IMAGES))
    (constant,) = canonical.signature.constants.values()
    assert constant.shape == (14,)


class Remembers(Base):
    """Keeps a value that autograd has made, in a container."""

    def __init__(self):
        super().__init__()
        self.scale, self.kept = nn.Parameter(torch.tensor(1.5)), {}

    def forward(self, x):
        if "scale" not in self.kept:
            self.kept["scale"] = self.scale * 2
        return self.fc((self.conv(x) * self.kept["scale"]).flatten(1))


def test_values_that_a_model_keeps_are_shared():
    model = Remembers().double().eval()
    fresh = agf_fx.capture(model, IMAGES)
    assert not model.kept
    assert "scale" in fresh.signature.weights.values()
    expected = model(IMAGES)
    canonical = agf_fx.capture(model, IMAGES)
    assert torch.equal(logits_of(model, canonical), expected)
    assert model.kept["scale"].grad_fn is not None


class MixesSamples(Base):
    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).flatten(1).t().reshape(-1, 4 * 196))


class ReshapesAndBack(Base):
    """The batch dimension counts other positions for a while, and stands last for another; samples stay apart."""

    def forward(self, x):
        x = torch.relu(self.conv(x)).reshape(-1, 2).reshape(-1, 4 * 196)
        return self.fc(torch.relu(x.transpose(0, 1)).transpose(0, 1))


class MasksTogether(Base):
    def forward(self, x):
        x = torch.relu(self.conv(x))
        return self.fc((x * (x > 0.2).to(x.dtype).mean(0, keepdim=True)).flatten(1))


class MasksApart(Base):
    def forward(self, x):
        x = torch.relu(self.conv(x))
        return self.fc((x * (x > 0.2).to(x.dtype).mean(1, keepdim=True)).flatten(1))


class BatchSizeAsNumber(Base):
    def forward(self, x):
        return self.fc((self.conv(x) * x.shape[0]).flatten(1))


@pytest.mark.parametrize("network", [MixesSamples, MasksTogether, BatchSizeAsNumber])
def test_samples_must_stay_apart(network):
    with pytest.raises(CaptureError, match=r"mixes samples|batch size"):
        agf_fx.capture(network().double().eval(), IMAGES)


def test_a_moving_batch_dimension_and_a_mask_are_no_mixing():
    for network in (ReshapesAndBack, MasksApart):
        model = network().double().eval()
        canonical = agf_fx.capture(model, IMAGES)
        assert torch.equal(logits_of(model, canonical), model(IMAGES))


class OptionalInputs(Base):
    """More inputs than images, all optional, and nested containers on the way."""

    def forward(self, x, *more, flag=False, mask=None, **options):
        x = self.conv(x)
        if flag:
            x = -x
        if mask is not None or more or options:
            x = x * mask
        parts = {"pair": [x[:, :2], (x[:, 2:],)]}
        first, (second,) = parts["pair"]
        return self.fc(torch.relu(torch.cat([first, second], 1)).flatten(1))


def test_optional_inputs_and_containers():
    model = OptionalInputs().double().eval()
    canonical = agf_fx.capture(model, IMAGES)
    assert torch.equal(logits_of(model, canonical), model(IMAGES))


class IfOnValues(Base):
    def forward(self, x):
        x = self.conv(x)
        if x.sum() > 0:  # the line that decides
            x = -x
        return self.fc(x.flatten(1))


class NumberOfValues(Base):
    def forward(self, x):
        x = self.conv(x)
        x = x * (1 if x.max().item() > 3 else 2)  # the line that decides
        return self.fc(x.flatten(1))


class LoopOnValues(Base):
    def forward(self, x):
        x = self.conv(x)
        for _ in range(int(x.abs().amax())):  # the line that decides
            x = torch.relu(x)
        return self.fc(x.flatten(1))


@pytest.mark.parametrize("network", [IfOnValues, NumberOfValues, LoopOnValues])
def test_control_flow_on_values_is_refused_with_place_and_advice(network):
    with pytest.raises(CaptureError, match="must be removed or moved out") as caught:
        agf_fx.capture(network().double().eval(), IMAGES)
    message = str(caught.value)
    assert f"{__file__}:" in message
    assert "# the line that decides" in message
    assert "torch.where" in message


class DictInput(Base):
    def forward(self, batch):
        return self.fc(self.conv(batch["images"]).flatten(1))


def test_a_dictionary_of_inputs_is_refused_with_advice():
    with pytest.raises(InputError, match="a module whose forward takes the images"):
        agf_fx.capture(DictInput().double().eval(), {"images": IMAGES})
    with pytest.raises(CaptureError, match=r"test_capture.py:\d+: return self.fc"):
        agf_fx.capture(DictInput().double().eval(), IMAGES)


class AugmentedOnAnAlias(nn.Module):
    """``c += y`` changes what ``a`` names."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 3)

    def forward(self, x):
        a = self.a(x)
        c = a
        c += self.b(x)
        c *= 2.0
        c -= 0.5
        c /= 3.0
        return self.fc((a * 2.0).flatten(1))


def test_augmented_assignment_reaches_every_name_of_a_tensor():
    model, images = AugmentedOnAnAlias().eval(), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(agf_fx.compile(model).explain(images).logits, model(images), rtol=1e-5, atol=1e-6)


class Prototypes(nn.Module):
    """Distances from learnt features as logits."""

    def __init__(self):
        super().__init__()
        self.conv, self.prototypes = nn.Conv2d(3, 4, 3), nn.Parameter(torch.randn(5, 4))

    def forward(self, x):
        return -torch.cdist(torch.relu(self.conv(x)).mean((2, 3)), self.prototypes)


def test_distances_are_captured_for_every_batch_size():
    torch.manual_seed(0)
    model = Prototypes().double().eval()
    explainer = agf_fx.compile(model, method="gradient")
    for count in (1, 40):  # PyTorch takes another way from 26 rows on
        images = torch.randn(count, 3, 8, 8, dtype=torch.float64, requires_grad=True)
        (expected,) = torch.autograd.grad(model(images)[:, 1].sum(), images)
        torch.testing.assert_close(explainer(images.detach(), 1), expected.sum(1))
    assert explainer.counters.captures <= 1


def test_quantised_models_are_refused_in_words():
    class Quantised(nn.Module):
        def forward(self, x):
            return torch.fake_quantize_per_tensor_affine(x, 0.1, 0, 0, 255).mean((2, 3))

    with pytest.raises(CaptureError, match=r"Quantised quantises what it computes .* has no derivative but 0"):
        agf_fx.capture(Quantised().eval(), torch.randn(2, 3, 8, 8))
