"""Maps beside those of other libraries, in float64 on small networks; where one of them is wrong, its figure is here."""

from __future__ import annotations

import functools

import captum.attr
import numpy as np
import pytest
import pytorch_grad_cam
import torch
import zennit.attribution
import zennit.canonizers
import zennit.composites
import zennit.layer
import zennit.rules
import zennit.torchvision
import zennit.types
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

import agf_fx

TOLERANCE = 1e-6  # of the largest entry of a map
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()
TARGETS = torch.tensor([1, 3, 5])


def lively(model: nn.Module, eps: float) -> nn.Module:
    """A model in float64 whose norms and biases do something."""
    generator = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2, generator=generator)
        elif name.endswith(("bias", "running_mean")):
            value.normal_(0, 0.2, generator=generator)
        elif value.dim() == 1 and value.is_floating_point():
            value.normal_(1, 0.2, generator=generator)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = eps
    return model.double().eval()


def plain() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 12, 3, stride=2), nn.BatchNorm2d(12), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(12 * 9, 20), nn.ReLU(), nn.Linear(20, 7)),
    )


NETWORKS = {
    "plain": (plain, zennit.canonizers.SequentialMergeBatchNorm),
    "basic blocks": (lambda: ResNet(BasicBlock, [1, 1, 1, 1], 7), zennit.torchvision.ResNetCanonizer),
    "bottlenecks": (lambda: ResNet(Bottleneck, [1, 1, 1, 1], 7), zennit.torchvision.ResNetCanonizer),
}


@functools.cache
def network(name: str, eps: float = 1e-14) -> nn.Module:
    torch.manual_seed(0)
    return lively(NETWORKS[name][0](), eps)


def maps(model: nn.Module, method: str, **options) -> torch.Tensor:
    return agf_fx.compile(model, method=method, options=options).explain(IMAGES, TARGETS).maps[:, 0]


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


# --- Zennit ----------------------------------------------------------------------------------------------------------


def epsilon_everywhere(canonizers):
    types, rules = zennit.types, zennit.rules
    layer_map = [
        (types.Activation, rules.Pass()),
        (zennit.layer.Sum, rules.Norm()),
        (types.AvgPool, rules.Norm()),
        (types.Convolution, rules.Epsilon()),
        (nn.Linear, rules.Epsilon()),
    ]
    return zennit.composites.LayerMapComposite(layer_map, canonizers=canonizers)


def one_rule(rule, first=None):
    """A composite with one rule at layers, and perhaps another one at the first."""

    def make(canonizers):
        types, rules = zennit.types, zennit.rules
        base = [(types.Activation, rules.Pass()), (zennit.layer.Sum, rules.Norm()), (types.AvgPool, rules.Norm())]
        composite = zennit.composites.SpecialFirstLayerMapComposite
        first_map = [] if first is None else [(types.Linear, first())]
        return composite([*base, (types.Linear, rule())], first_map, canonizers=canonizers)

    return make


def of_zennits(name, **options):
    return lambda canonizers: getattr(zennit.composites, name)(canonizers=canonizers, **options)


def excitation(canonizers):
    """Without biases everywhere; activations pass."""
    types, rules = zennit.types, zennit.rules
    layer_map = [
        (types.Activation, rules.Pass()),
        (zennit.layer.Sum, rules.Norm()),
        (types.AvgPool, rules.Norm()),
        (types.Linear, rules.ZPlus(zero_params="bias")),
    ]
    return zennit.composites.LayerMapComposite(layer_map, canonizers=canonizers)


COMPOSITES = {
    "lrp-epsilon": epsilon_everywhere,
    "epsilon-plus-flat": of_zennits("EpsilonPlusFlat"),
    "epsilon-plus": of_zennits("EpsilonPlus"),
    "epsilon-alpha2-beta1": of_zennits("EpsilonAlpha2Beta1"),
    "epsilon-alpha2-beta1-flat": of_zennits("EpsilonAlpha2Beta1Flat"),
    "epsilon-gamma-box": of_zennits("EpsilonGammaBox", low=-3.0, high=3.0),
    "lrp-gamma": one_rule(zennit.rules.Gamma),
    "lrp-zplus": one_rule(zennit.rules.ZPlus),
    "lrp-w2": one_rule(zennit.rules.Epsilon, zennit.rules.WSquare),
    "lrp-flat": one_rule(zennit.rules.Epsilon, zennit.rules.Flat),
    "excitation-backprop": excitation,
}


def of_zennit(name: str, composite: str, eps: float) -> torch.Tensor:
    def relevance(logits):
        return torch.zeros_like(logits).scatter(1, TARGETS[:, None], logits.gather(1, TARGETS[:, None]))

    model = network(name, eps)
    with zennit.attribution.Gradient(model, COMPOSITES[composite]([NETWORKS[name][1]()])) as attribute:
        _, found = attribute(IMAGES.clone().requires_grad_(), relevance)
    return found.detach().sum(1)


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("name", NETWORKS)
def test_relevance_of_zennit(name, composite):
    assert difference(maps(network(name), composite), of_zennit(name, composite, 1e-14)) <= TOLERANCE


@pytest.mark.parametrize("composite", COMPOSITES)
def test_zennit_leaves_a_scale_behind_where_it_merges_norms(composite):
    """Merged norms become the identity but for eps: 1 / √(1 + eps) each, which ε = 0 of the norm shows."""
    ours, theirs = maps(network("bottlenecks", 1e-5), composite), of_zennit("bottlenecks", composite, 1e-5)
    assert 1e-6 < difference(ours, theirs) < 1e-2
    smaller = difference(maps(network("bottlenecks", 1e-7), composite), of_zennit("bottlenecks", composite, 1e-7))
    assert smaller < difference(ours, theirs) / 20


class Residual(nn.Module):
    """Functional additions, and a ReLU for every call."""

    def __init__(self):
        super().__init__()
        self.stem, self.relu = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()
        self.inner, self.inner_relu = nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
        self.outer, self.outer_relu, self.fc = nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Linear(8, 7)

    def forward(self, x):
        x = self.relu(self.stem(x))
        x = self.outer_relu(x + self.outer(self.inner_relu(self.inner(x))))
        return self.fc(x.mean((2, 3)))


def of_beta_smooth(model: nn.Module, beta: float) -> torch.Tensor:
    one = torch.nn.functional.one_hot(TARGETS, 7).double()
    with zennit.attribution.Gradient(model, zennit.composites.BetaSmooth(beta_smooth=beta)) as attribute:
        _, found = attribute(IMAGES.clone().requires_grad_(), one)
    return found.detach().sum(1)


@pytest.mark.parametrize("beta", [10.0, 0.7])
@pytest.mark.parametrize("make", [plain, Residual])
def test_smoothed_gradients_of_zennit(make, beta):
    torch.manual_seed(0)
    model = lively(make(), 1e-5)
    ours = maps(model, "beta-smooth", beta=beta)
    assert difference(ours, of_beta_smooth(model, beta)) <= 1e-12
    assert difference(maps(model, "gradient"), ours) > 1e-2


def test_zennit_smooths_the_last_call_of_a_shared_relu():
    """Its hook keeps one input for each module, so that earlier calls have the derivative of the last one's input."""
    torch.manual_seed(0)
    model = lively(Residual(), 1e-5)
    expected = of_beta_smooth(model, 10.0)
    model.relu = model.inner_relu = model.outer_relu
    assert difference(maps(model, "beta-smooth"), expected) <= 1e-12
    assert difference(of_beta_smooth(model, 10.0), expected) > 1e-2


# --- Captum ----------------------------------------------------------------------------------------------------------


def test_gradients_of_captum():
    model = network("plain")
    found = captum.attr.Saliency(model).attribute(IMAGES, TARGETS, abs=False).sum(1)
    assert difference(maps(model, "gradient"), found.detach()) <= TOLERANCE
    found = captum.attr.InputXGradient(model).attribute(IMAGES.clone(), TARGETS).sum(1)
    assert difference(maps(model, "gradient-x-input"), found.detach()) <= TOLERANCE
    found = captum.attr.GuidedBackprop(model).attribute(IMAGES.clone(), TARGETS).sum(1)
    assert difference(maps(model, "guided-backprop"), found.detach()) <= TOLERANCE
    found = captum.attr.Deconvolution(model).attribute(IMAGES.clone(), TARGETS).sum(1)
    assert difference(maps(model, "deconvnet"), found.detach()) <= TOLERANCE
    guided = captum.attr.GuidedGradCam(model, model[6])
    found = guided.attribute(IMAGES.clone(), TARGETS, interpolate_mode="bilinear").sum(1)
    assert difference(maps(model, "guided-gradcam", layer="6"), found.detach()) <= TOLERANCE


RULES = {
    "gauss-legendre": "gausslegendre",
    "left": "riemann_left",
    "right": "riemann_right",
    "middle": "riemann_middle",
}


def of_captum(rule: str, steps: int) -> torch.Tensor:
    integrate = captum.attr.IntegratedGradients(network("plain"))
    baseline = torch.full_like(IMAGES, 0.3)
    return integrate.attribute(IMAGES, baseline, TARGETS, n_steps=steps, method=rule).sum(1).detach()


@pytest.mark.parametrize("rule", RULES)
def test_integrated_gradients_of_captum(rule):
    found = maps(network("plain"), "integrated-gradients", rule=rule, steps=13, baseline=0.3)
    assert difference(found, of_captum(RULES[rule], 13)) <= TOLERANCE


def test_captums_trapezoids_lack_one_step():
    """Its weights sum to (steps - 1) / steps, so that completeness fails by that factor; ours sum to 1."""
    found = maps(network("plain"), "integrated-gradients", rule="trapezoid", steps=13, baseline=0.3)
    theirs = of_captum("riemann_trapezoid", 13)
    assert difference(found, theirs) == pytest.approx(1 / 12, rel=1e-5)
    assert difference(found, theirs * 13 / 12) <= TOLERANCE


# --- pytorch-grad-cam ------------------------------------------------------------------------------------------------


CAMS = {
    "gradcam": pytorch_grad_cam.GradCAM,
    "gradcam++": pytorch_grad_cam.GradCAMPlusPlus,
    "hirescam": pytorch_grad_cam.HiResCAM,
    "layercam": pytorch_grad_cam.LayerCAM,
}


@pytest.mark.parametrize(("name", "layer"), [("plain", "6"), ("plain", "0"), ("bottlenecks", "layer3")])
@pytest.mark.parametrize("method", CAMS)
def test_maps_of_pytorch_grad_cam(method, name, layer):
    model, wanted = network(name), [ClassifierOutputTarget(int(target)) for target in TARGETS]
    with CAMS[method](model, [model.get_submodule(layer)]) as cam:
        cam(IMAGES, wanted)
        activations, gradients = (
            values[0].numpy() for values in (cam.activations_and_grads.activations, cam.activations_and_grads.gradients)
        )
        raw = cam.get_cam_image(IMAGES, model.get_submodule(layer), wanted, activations, gradients, eigen_smooth=False)
    expected = torch.from_numpy(np.maximum(raw, 0))
    assert difference(maps(model, method, layer=layer, normalise=False, resize=False), expected) <= TOLERANCE


@pytest.mark.parametrize("layer", ["layer3", "layer1"])
def test_eigencam_of_pytorch_grad_cam(layer):
    """The peer centres channels, and leaves the sign to the decomposition; it computes in float32."""
    model = network("bottlenecks")
    with pytorch_grad_cam.EigenCAM(model, [model.get_submodule(layer)]) as cam:
        cam(IMAGES, [ClassifierOutputTarget(0)] * len(IMAGES))
        activations = cam.activations_and_grads.activations[0].numpy()
    theirs = torch.from_numpy(
        pytorch_grad_cam.utils.svd_on_activations.get_2d_projection(activations.astype(np.float64))
    )
    found = maps(model, "eigencam", layer=layer, centre=True, relu=False, normalise=False, resize=False)
    for one, expected in zip(found, theirs, strict=True):
        assert min(difference(one, expected), difference(one, -expected)) <= TOLERANCE
