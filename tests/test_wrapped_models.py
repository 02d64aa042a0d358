"""Wrappers around models, and states of models: what is explained as the model inside, and what is refused."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from networks import small_vgg
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import agf_fx
from agf_fx.errors import CaptureError, InputError

IMAGES = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def maps_of(model, images=IMAGES, target=1, **more):
    return agf_fx.compile(model, **more)(images, target)


def distributed(model):
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    return nn.parallel.DistributedDataParallel(model)


@pytest.fixture(autouse=True)
def _process_group():
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def compiled_in_place(model):
    model.compile()
    return model


def inner(wrap):
    def build(model):
        model.features[0] = wrap(model.features[0])
        return model

    return build


WRAPPERS = {
    "torch.compile": torch.compile,
    "DataParallel": nn.DataParallel,
    "DistributedDataParallel": distributed,
    "several": lambda model: torch.compile(nn.DataParallel(torch.compile(model))),
    "Module.compile": compiled_in_place,
    "torch.compile inside": inner(torch.compile),
    "DataParallel inside": inner(nn.DataParallel),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrappers_are_taken_off(wrap):
    model, expected = wrap(small_vgg()), small_vgg()
    before = [id(module) for module in model.modules()]
    explainer = agf_fx.compile(model)
    assert torch.equal(explainer(IMAGES, 1), maps_of(expected))
    with torch.no_grad():  # the wrapper's weights are the model's
        for weight in (next(model.parameters()), next(expected.parameters())):
            weight.mul_(1.5)
    assert torch.equal(explainer(IMAGES, 1), maps_of(expected))
    assert before == [id(module) for module in model.modules()]


def test_paths_are_those_of_the_model_inside():
    canonical = agf_fx.capture(nn.DataParallel(small_vgg()), IMAGES)
    assert canonical.name == "TinyVGG"
    assert set(canonical.signature.weights.values()) <= set(small_vgg().state_dict())


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning", "ignore:.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda model: torch.jit.trace(model, IMAGES), "already TorchScript; give the torch.nn.Module"),
        (lambda model: nn.Sequential(torch.jit.trace(model, IMAGES)), "module '0' of the model is already TorchScript"),
        (lambda model: model.forward, "give a torch.nn.Module"),
        (lambda model: model.to("meta"), "features.0.weight is on the meta device"),
        (
            lambda model: torch.ao.quantization.quantize_dynamic(model.float(), {nn.Linear}, dtype=torch.qint8),
            r"module 'classifier.0' of the model is quantised \(Linear\); give the floating-point model",
        ),
    ],
)
def test_what_cannot_be_captured_is_refused_in_one_line(make, message):
    with pytest.raises(CaptureError, match=message) as caught:
        agf_fx.compile(make(small_vgg()))
    assert "\n" not in str(caught.value)


class FullyShardedDataParallel(nn.Module):
    """By name the real one, which needs several devices."""


def test_sharded_models_are_refused():
    with pytest.raises(CaptureError, match="shards of its weights; load the full state_dict"):
        agf_fx.compile(nn.Sequential(FullyShardedDataParallel()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_models_are_explained_in_single_precision(dtype):
    model = small_vgg().to(dtype)
    images = IMAGES.to(dtype)
    explainer = agf_fx.compile(model)
    result = explainer.explain(images, 1)
    expected = agf_fx.compile(copy.deepcopy(model).float()).explain(images.float(), 1)
    assert result.maps.dtype is result.logits.dtype is torch.float32
    assert result.maps.any()
    assert torch.equal(result.maps, expected.maps)
    assert torch.equal(result.logits, expected.logits)
    torch.testing.assert_close(result.logits, model(images).float(), rtol=0.1, atol=0.1)
    assert all(parameter.dtype is dtype for parameter in model.parameters())
    with torch.no_grad():
        model.features[0].weight.mul_(2)
    changed = copy.deepcopy(model).float()
    assert torch.equal(explainer(images, 1), agf_fx.compile(changed)(images.float(), 1))
    with pytest.raises(InputError, match=r"images are torch.float32.*use images.to"):
        explainer(images.float())


def test_half_precision_models_in_double_precision():
    model = small_vgg().half()
    maps = agf_fx.compile(model, precision="float64")(IMAGES.half(), 1)
    expected = agf_fx.compile(copy.deepcopy(model).double())(IMAGES.half().double(), 1)
    torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-12)


def test_mixed_precision_models():
    model = small_vgg().half()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.float()
    expected = copy.deepcopy(model).float()
    assert torch.equal(maps_of(model, IMAGES.half()), maps_of(expected, IMAGES.half().float()))


def test_a_model_that_changes_its_dtype_is_captured_anew():
    model = small_vgg()
    explainer = agf_fx.compile(model)
    in_double = explainer(IMAGES, 1)
    in_single = explainer.model.float() and explainer(IMAGES.float(), 1)
    torch.testing.assert_close(in_single.double(), in_double, rtol=1e-2, atol=1e-3)
    assert torch.equal(explainer.model.half() and explainer(IMAGES.half(), 1), maps_of(model, IMAGES.half()))


class LowRank(nn.Module):
    """W + BA, as LoRA has it."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.randn(2, weight[0].numel()))
        self.B = nn.Parameter(torch.randn(len(weight), 2) * 0.1)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.B @ self.A).reshape(weight.shape)


def low_rank(layer):
    return parametrize.register_parametrization(layer, "weight", LowRank(layer.weight))


PARAMETRISATIONS = {
    "weight_norm": (parametrizations.weight_norm, "original0"),
    "spectral_norm": (parametrizations.spectral_norm, "original"),
    "low rank": (low_rank, "0.B"),
    "both": (lambda layer: low_rank(parametrizations.weight_norm(layer)), "original0"),
}


@pytest.mark.parametrize("name", PARAMETRISATIONS)
def test_parametrised_weights_are_computed_at_the_call(name):
    parametrise, path = PARAMETRISATIONS[name]
    model = small_vgg()
    for layer in (model.features[0], model.features[4], model.classifier[-1]):
        parametrise(layer).double()
    model.eval()

    def baked():
        """The same weights without parametrisation."""
        twin = small_vgg()
        for target, source in (
            (twin.features[0], model.features[0]),
            (twin.features[4], model.features[4]),
            (twin.classifier[-1], model.classifier[-1]),
        ):
            target.weight = nn.Parameter(source.weight.detach().clone())
        return twin

    explainer = agf_fx.compile(model, IMAGES)
    torch.testing.assert_close(explainer(IMAGES, 1), maps_of(baked()), rtol=1e-9, atol=1e-11)
    before = explainer(IMAGES, 1)
    with torch.no_grad():
        model.get_parameter(f"features.4.parametrizations.weight.{path}").add_(0.3)
    assert not torch.allclose(explainer(IMAGES, 1), before)
    torch.testing.assert_close(explainer(IMAGES, 1), maps_of(baked()), rtol=1e-9, atol=1e-11)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated", "ignore:maps of images .* are zero")
@pytest.mark.parametrize("parametrise", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_weights_computed_by_hooks(parametrise):
    """The older form: a hook before forward() computes the weight and leaves it as an attribute."""
    model = small_vgg()
    parametrise(model.features[4]).double()
    model.eval()
    explainer = agf_fx.compile(model, IMAGES)
    torch.testing.assert_close(explainer.explain(IMAGES).logits, model(IMAGES).detach(), rtol=1e-9, atol=1e-11)
    with torch.no_grad():
        next(model.features[4].parameters()).add_(0.1)
    torch.testing.assert_close(explainer.explain(IMAGES).logits, model(IMAGES).detach(), rtol=1e-9, atol=1e-11)


def test_forward_hooks_are_part_of_the_model():
    model = small_vgg()
    model.features[0].register_forward_hook(lambda module, inputs, y: y * 0.5)
    model.features[2].register_forward_pre_hook(lambda module, inputs: (inputs[0] + 0.25,))
    model.classifier.register_forward_hook(lambda module, inputs, y: y - 1.0)
    result = agf_fx.compile(model).explain(IMAGES, 1)
    torch.testing.assert_close(result.logits, model(IMAGES).detach(), rtol=1e-9, atol=1e-12)


class Shared(nn.Module):
    """One block used three times, a convolution that shares its weight with another, a head tied to features."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 4, bias=False)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.again = self.block
        self.twin = nn.Conv2d(4, 4, 3, padding=1)
        self.twin.weight = self.block[0].weight
        self.embed = nn.Linear(4, 4)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.block(self.block(torch.relu(self.stem(x)))))
        x = F.relu(self.embed(torch.relu(self.twin(x)).mean((2, 3))))
        return self.head(x)


def test_shared_modules_and_tied_weights():
    torch.manual_seed(0)
    model = Shared().double().eval()
    explainer = agf_fx.compile(model, IMAGES)
    untied = copy.deepcopy(model)
    untied.again = copy.deepcopy(model.block)
    untied.twin.weight = nn.Parameter(model.twin.weight.detach().clone())
    untied.head.weight = nn.Parameter(model.head.weight.detach().clone())
    torch.testing.assert_close(explainer(IMAGES, 1), maps_of(untied), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(explainer.explain(IMAGES).logits, model(IMAGES).detach(), rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        model.embed.weight.mul_(2)
        untied.embed.weight.mul_(2)
        untied.head.weight.mul_(2)
    torch.testing.assert_close(explainer(IMAGES, 1), maps_of(untied), rtol=1e-9, atol=1e-12)


def test_a_replaced_layer_is_noticed_and_replaced_weights_are_read():
    model = small_vgg()
    explainer = agf_fx.compile(model, IMAGES)
    model.features[0] = copy.deepcopy(small_vgg(seed=1).features[0])
    assert torch.equal(explainer(IMAGES, 1), maps_of(model))
    model.features[0] = nn.Identity()
    with pytest.raises(CaptureError, match="running_mean should contain 3 elements"):  # no longer a model that runs
        explainer(IMAGES, 1)


def test_layers_that_were_fused_in_floating_point_are_explained():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    images = torch.randn(2, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecation
        fused = torch.ao.quantization.fuse_modules(copy.deepcopy(model), [["0", "1", "2"]])
    torch.testing.assert_close(agf_fx.compile(fused)(images, 1), agf_fx.compile(model)(images, 1))
