"""PatternNet and PatternAttribution: what is estimated, what goes back, and whose patterns they are."""

from __future__ import annotations

import copy
import json
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import agf_fx
from agf_fx.errors import CheckpointError, InputError, NonFiniteInputError, OptionsError
from agf_fx.methods import REGISTRY
from agf_fx.runtime.fitting import PatternsWarning

IMAGES = torch.randn(24, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
METHODS = ("pattern-net", "pattern-attribution")


class Net(nn.Module):
    """Convolutions of all kinds, a norm behind one, a residual sum, and a convolution that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.twice = nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=3)
        self.up = nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2, padding=1)
        self.down, self.fc = nn.Conv2d(4, 5, 3, stride=2, bias=False), nn.Linear(5, 4)

    def forward(self, x):
        x = F.max_pool2d(torch.relu(self.norm(self.stem(x))), 2)
        x = torch.relu(x + self.twice(torch.relu(self.twice(x))))
        x = torch.relu(self.down(torch.relu(self.up(x))))
        return self.fc(x.mean((2, 3)))


def net() -> Net:
    torch.manual_seed(0)
    model = Net().double().eval()
    for name, value in model.state_dict().items():
        if name in ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"):
            value.uniform_(0.5, 1.5)
        elif name.endswith("bias"):
            value.normal_(0, 0.2)
    return model


LAYERS = ("stem", "twice", "twice#2", "up", "down", "fc")


def folded(model: Net) -> tuple[nn.Conv2d, Tensor]:
    """The first layer with its norm: weight and bias."""
    scale = model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt()
    bias = (model.stem.bias - model.norm.running_mean) * scale + model.norm.bias
    return (model.stem.weight * scale[:, None, None, None]).detach(), bias.detach()


def applied(model: Net, layer: str, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A layer with another weight."""
    name = layer.partition("#")[0]
    made = getattr(model, name)
    if name == "fc":
        return F.linear(x, weight, bias)
    if name == "up":
        return F.conv_transpose2d(x, weight, bias, made.stride, made.padding, groups=made.groups)
    return F.conv2d(x, weight, bias, made.stride, made.padding, made.dilation, made.groups)


def weight_of(model: Net, layer: str) -> tuple[Tensor, Tensor | None]:
    if layer == "stem":
        return folded(model)
    made = getattr(model, layer.partition("#")[0])
    return made.weight.detach(), None if made.bias is None else made.bias.detach()


def forward(model: Net, images: Tensor, layer) -> Tensor:
    """The model, with ``layer(name, x)`` for its convolutions and linear layers, norms folded."""
    x = F.max_pool2d(torch.relu(layer("stem", images)), 2)
    x = torch.relu(x + layer("twice#2", torch.relu(layer("twice", x))))
    x = torch.relu(layer("down", torch.relu(layer("up", x))))
    return layer("fc", x.mean((2, 3)))


def seen(model: Net, images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Input and output of every layer."""
    found = {}

    def layer(name, x):
        found[name] = x, applied(model, name, x, *weight_of(model, name))
        return found[name][1]

    torch.testing.assert_close(forward(model, images, layer), model(images))
    return {name: (x.detach(), y.detach()) for name, (x, y) in found.items()}


def fitted(model: nn.Module, images: Tensor = IMAGES, **options) -> agf_fx.Patterns:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PatternsWarning)
        return agf_fx.fit_patterns(model, images.split(7), **options)


def difference(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


# --- estimators --------------------------------------------------------------------------------------------------------


def dense(model: Net, layer: str, x: Tensor, y: Tensor, regime: str) -> Tensor:
    """A pattern from the definition: every neuron by itself, every place of it a sample, means of explicit patches."""
    weight, _ = weight_of(model, layer)
    jacobian = torch.autograd.functional.jacobian(lambda w: applied(model, layer, x, w), weight)  # patches, as y = J w
    channels_last = layer == "fc"
    jacobian = jacobian if channels_last else jacobian.movedim(1, y.dim() - 1)
    outputs = y if channels_last else y.movedim(1, -1)
    neurons = outputs.shape[-1]
    found = torch.zeros_like(weight)
    for neuron in range(neurons):
        patches = jacobian[..., neuron, *[slice(None)] * weight.dim()].reshape(-1, weight.numel())
        values = outputs[..., neuron].flatten()
        inside = {"above": values > 0, "below": values <= 0, "all": values == values}[regime]
        if inside.sum() < 2:
            continue
        products = (patches * values[:, None])[inside].mean(0)
        covariance = products - patches[inside].mean(0) * values.mean()
        found += (covariance / (covariance @ weight.flatten())).reshape(weight.shape)
    return found


def test_two_components_are_those_of_the_definition():
    model = net()
    patterns, values = fitted(model), seen(model, IMAGES)
    assert list(patterns.above) == list(LAYERS)
    assert set(patterns.below) == {"twice#2", "fc"}  # the others are read by ReLUs alone
    assert patterns.images == len(IMAGES)
    for layer in LAYERS:
        assert difference(patterns.above[layer], dense(model, layer, *values[layer], "above")) <= 1e-9, layer
    for layer, pattern in patterns.below.items():
        assert difference(pattern, dense(model, layer, *values[layer], "below")) <= 1e-9, layer


def test_the_linear_estimator_is_that_of_the_definition():
    model = net()
    patterns, values = fitted(model, estimator="linear"), seen(model, IMAGES)
    assert not patterns.below
    for layer in LAYERS:
        assert difference(patterns.above[layer], dense(model, layer, *values[layer], "all")) <= 1e-9, layer


@pytest.mark.parametrize("estimator", ["linear", "two-component"])
def test_a_weight_times_its_pattern_is_1(estimator):
    model = net()
    patterns = fitted(model, estimator=estimator)
    for side in (patterns.above, patterns.below):
        for layer, pattern in side.items():
            product = weight_of(model, layer)[0] * pattern
            if layer == "up":  # (inputs, neurons of a group, ...)
                sums = torch.cat([part.sum((0, 2, 3)) for part in product.chunk(2)])
            else:
                sums = product.flatten(1).sum(1)
            ones = (sums != 0).double()  # a neuron that is never active has no pattern
            torch.testing.assert_close(sums, ones, rtol=0, atol=1e-9)
            assert ones.any()


def test_batches_and_sizes_do_not_matter():
    model = net()
    whole = fitted(model)
    for batches in (IMAGES.split(1), IMAGES.split(24), [(part, 0) for part in IMAGES.split(5)]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PatternsWarning)
            found = agf_fx.fit_patterns(model, batches)
        for layer, pattern in whole.above.items():
            assert difference(found.above[layer], pattern) <= 1e-9
    loader = DataLoader(TensorDataset(IMAGES.float(), torch.zeros(24)), batch_size=5)  # as the model's dtype
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PatternsWarning)
        other = agf_fx.fit_patterns(model, loader)
        mixed = agf_fx.fit_patterns(model, [IMAGES[:12], IMAGES[12:, :, :8, :7]])
    assert 0 < difference(other.above["fc"], whole.above["fc"]) <= 1e-3
    assert list(mixed.above) == list(LAYERS)


@pytest.mark.parametrize("bias", [0.0, 0.3])
@pytest.mark.parametrize("estimator", ["linear", "two-component"])
def test_the_direction_of_the_signal_is_found_behind_a_distractor(estimator, bias):
    """y = wᵀx, x = s a_s + ε a_d (the example of the paper): w filters the distractor out, and is not a_s."""
    signal, distractor = torch.tensor([1.0, 0.2]).double(), torch.tensor([1.0, 1.0]).double()
    weight = torch.stack([distractor[1], -distractor[0]])
    weight = weight / (weight @ signal)
    s, noise = torch.meshgrid(torch.linspace(-2, 2, 8).double(), torch.tensor([-3.0, 3.0]).double(), indexing="ij")
    images = (s.flatten()[:, None] * signal + noise.flatten()[:, None] * distractor)[:, :, None, None]
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1)).double().eval()
    with torch.no_grad():
        model[1].weight.copy_(weight[None])
        model[1].bias.fill_(bias * 0.1)
    patterns = agf_fx.fit_patterns(model, [images], estimator=estimator)
    torch.testing.assert_close(patterns.above["1"][0], signal, rtol=0, atol=1e-12)
    assert abs(float(F.cosine_similarity(weight, signal, 0))) < 0.8
    found = agf_fx.compile(model, method="pattern-net", options={"patterns": patterns}, channel_dim=None)(images, 0)
    torch.testing.assert_close(found[:, :, 0, 0], signal.expand(len(images), 2), rtol=0, atol=1e-12)


# --- maps --------------------------------------------------------------------------------------------------------------


def by_autograd(model: Net, patterns: agf_fx.Patterns, method: str, targets: Tensor) -> Tensor:
    """The maps of forward passes whose values are the model's, and whose derivatives those of the patterns."""

    def layer(name, x):
        weight, bias = weight_of(model, name)
        y = applied(model, name, x.detach(), weight, bias)
        positive = (y > 0).double()
        back = 0
        for side, inside in ((patterns.above, positive), (patterns.below, 1 - positive)):
            if name in side:
                seen_back = side[name] * (weight if method == "pattern-attribution" else 1)
                part = applied(model, name, x, seen_back)
                back = back + part * (inside if name in patterns.below else 1)
        return y + back - back.detach()

    x = IMAGES[:3].clone().requires_grad_()
    logits = forward(model, x, layer)
    torch.testing.assert_close(logits, model(IMAGES[:3]))
    start = torch.ones_like(targets, dtype=torch.float64)
    if method == "pattern-attribution":
        start = logits.detach().gather(1, targets)
    found = []
    for k in range(targets.shape[1]):
        seed = torch.zeros_like(logits).scatter(1, targets[:, k : k + 1], start[:, k : k + 1])
        found.append(torch.autograd.grad(logits, x, seed, retain_graph=True)[0].sum(1))
    return torch.stack(found, 1)


@pytest.mark.parametrize("estimator", ["linear", "two-component"])
@pytest.mark.parametrize("method", METHODS)
def test_maps_are_those_of_autograd(method, estimator):
    model, targets = net(), torch.tensor([[0, 1], [2, 3], [1, 2]])
    patterns = fitted(model, estimator=estimator)
    compiled = agf_fx.compile(model, method=method, options={"patterns": patterns})
    assert difference(compiled(IMAGES[:3], targets), by_autograd(model, patterns, method, targets)) <= 1e-9


@pytest.mark.parametrize("estimator", ["linear", "two-component"])
def test_attribution_is_conserved_by_layers_and_poolings(estimator):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 4)).double().eval()
    patterns = fitted(model, estimator=estimator)
    compiled = agf_fx.compile(model, method="pattern-attribution", options={"patterns": patterns})
    result = compiled.explain(IMAGES, 1)
    torch.testing.assert_close(result.maps.sum((2, 3)), result.logits[:, 1:2], rtol=1e-9, atol=1e-12)
    report = compiled.conservation(IMAGES, 1)
    torch.testing.assert_close(report.final, result.maps.sum((2, 3)), rtol=1e-9, atol=1e-12)


# --- files, caches, exports --------------------------------------------------------------------------------------------


def test_files_keep_patterns(tmp_path):
    model = net()
    patterns = fitted(model)
    path = tmp_path / "net.safetensors"
    patterns.save(path)
    again = agf_fx.Patterns.load(path)
    assert again == patterns
    assert (again.digest, again.estimator, again.images) == (patterns.digest, "two-component", 24)
    compiled = [
        agf_fx.compile(model, IMAGES, method="pattern-net", options=options)
        for options in (
            {"patterns": patterns},
            {"patterns": path},
            REGISTRY["pattern-net"].parsed([f"patterns={path}"]),
        )
    ]
    assert len({explainer.fingerprint for explainer in compiled}) == 1
    assert torch.equal(compiled[0](IMAGES, 1), compiled[2](IMAGES, 1))


def test_other_patterns_are_another_program():
    model = net()
    first, second = fitted(model), fitted(model, IMAGES[:12])
    maps = []
    for patterns in (first, second, first):
        compiled = agf_fx.compile(model, IMAGES, method="pattern-attribution", options={"patterns": patterns})
        maps.append((compiled.fingerprint, compiled(IMAGES, 1)))
    assert maps[0][0] == maps[2][0] != maps[1][0]
    assert torch.equal(maps[0][1], maps[2][1])
    assert difference(maps[1][1], maps[0][1]) > 1e-3


@pytest.mark.parametrize("ending", ["pt", "pt2"])
@pytest.mark.parametrize("method", METHODS)
def test_exports_hold_the_patterns(method, ending, tmp_path):
    model = net()
    patterns = fitted(model)
    compiled = agf_fx.compile(model, IMAGES, method=method, options={"patterns": patterns})
    compiled.export(tmp_path / f"net.{ending}")
    loaded = agf_fx.load(tmp_path / f"net.{ending}")
    assert difference(loaded(IMAGES, 1), compiled(IMAGES, 1)) <= 1e-12
    assert json.loads(json.dumps(loaded.description.options))["patterns"] == patterns.digest


# --- whose patterns they are -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_patterns_of_other_weights_are_refused(method):
    model = net()
    compiled = agf_fx.compile(model, method=method, options={"patterns": fitted(model)})
    expected = compiled(IMAGES, 1)
    twin = copy.deepcopy(model)
    assert torch.equal(compiled.bind(twin)(IMAGES, 1), expected)
    with torch.no_grad():
        twin.down.weight[0, 0, 0, 0] += 1e-3
    with pytest.raises(InputError, match=r"fitted for other weights than the model has now.*fit_patterns"):
        compiled(IMAGES, 1)
    with pytest.raises(InputError, match="fitted for other weights"):
        compiled.export("never.pt")
    assert torch.equal(compiled.bind(model)(IMAGES, 1), expected)


def test_precision_of_the_same_weights_does_not_matter():
    model = net().float()
    patterns = fitted(model, IMAGES.float())
    assert patterns.above["fc"].dtype is torch.float32
    single = agf_fx.compile(model, method="pattern-net", options={"patterns": patterns})(IMAGES.float(), 1)
    double = agf_fx.compile(net().float().double(), method="pattern-net", options={"patterns": patterns})(IMAGES, 1)
    assert difference(single.double(), double) <= 1e-4


def test_patterns_must_be_given_and_fit_the_network():
    model = net()
    with pytest.raises(OptionsError, match="needs patterns of Net: fit them with"):
        agf_fx.compile(model, method="pattern-net")(IMAGES, 1)
    with pytest.raises(OptionsError, match="patterns is a int; give Patterns"):
        agf_fx.compile(model, method="pattern-net", options={"patterns": 3})
    patterns = fitted(model)
    fewer = agf_fx.Patterns("two-component", {"stem": patterns.above["stem"]}, {}, patterns.weights, 3)
    with pytest.raises(OptionsError, match=r"layer 'twice' of Net needs a pattern of shape .* there is none"):
        agf_fx.compile(model, method="pattern-net", options={"patterns": fewer})(IMAGES, 1)
    more = agf_fx.Patterns(
        "two-component", {**patterns.above, "head": torch.ones(1)}, patterns.below, patterns.weights, 3
    )
    with pytest.raises(OptionsError, match="patterns for 'head', and Net has no such layer"):
        agf_fx.compile(model, method="pattern-net", options={"patterns": more})(IMAGES, 1)
    shaped = agf_fx.Patterns(
        "two-component", {**patterns.above, "fc": torch.ones(2, 2)}, patterns.below, patterns.weights, 3
    )
    with pytest.raises(OptionsError, match=r"layer 'fc' of Net needs a pattern of shape \(4, 5\), and there is one of"):
        agf_fx.compile(model, method="pattern-net", options={"patterns": shaped})(IMAGES, 1)


def test_files_that_hold_no_patterns(tmp_path):
    path = tmp_path / "patterns.safetensors"
    with pytest.raises(CheckpointError, match="no such file of patterns"):
        agf_fx.compile(net(), method="pattern-net", options={"patterns": str(path)})
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match=r"damaged or no .safetensors file"):
        agf_fx.Patterns.load(path)
    from safetensors.torch import save_file

    save_file({"above/fc": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="holds no patterns that this version"):
        agf_fx.Patterns.load(path)
    about = {"kind": "agf-fx patterns", "layout": "1", "estimator": "linear", "images": "3"}
    for tensors, metadata, message in (
        ({"above/fc": torch.tensor([torch.nan])}, about, "no pattern of finite numbers"),
        ({"elsewhere": torch.ones(1)}, about, "elsewhere is no pattern"),
        ({"above/fc": torch.ones(1)}, about | {"estimator": "best"}, "does not say how"),
    ):
        save_file(tensors, path, metadata)
        with pytest.raises(CheckpointError, match=message):
            agf_fx.Patterns.load(path)


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        ([], InputError, "the loader gave no batch"),
        ([IMAGES[:1]], InputError, "the loader gave one image"),
        (3, InputError, "loader is a int; give batches"),
        ([IMAGES, {"pixels": IMAGES}], InputError, "batch 1 of the loader: images is a dict"),
        (
            [IMAGES.byte()],
            InputError,
            r"batch 0 of the loader: images are torch.uint8 of shape .*; give floating-point",
        ),
        (IMAGES, InputError, r"loader is a tensor; give batches, such as images.split"),
        ([IMAGES, IMAGES / 0], NonFiniteInputError, "batch 1 of the loader: images .* contain NaN or infinite pixels"),
        ([IMAGES[:0]], InputError, "batch 0 of the loader: the batch is empty"),
    ],
)
def test_what_no_patterns_can_be_fitted_to(loader, error, message):
    with pytest.raises(error, match=message):
        agf_fx.fit_patterns(net(), loader)


def test_networks_that_no_patterns_can_be_fitted_for():
    with pytest.raises(OptionsError, match="estimator is 'best'; choose one of 'two-component', 'linear'"):
        agf_fx.fit_patterns(net(), [IMAGES], estimator="best")
    with pytest.raises(InputError, match=r"are torch.bfloat16, too short .* copy.deepcopy\(model\).float\(\)"):
        agf_fx.fit_patterns(net().bfloat16(), [IMAGES])
    with pytest.raises(InputError, match="has no convolution or linear layer"):
        agf_fx.fit_patterns(nn.Sequential(nn.AvgPool2d(9), nn.Flatten()), [IMAGES.float()])


def test_neurons_that_are_never_active_have_no_pattern_and_are_named():
    model = net()
    with torch.no_grad():
        model.down.weight[2] = 0
    with pytest.warns(PatternsWarning, match=r"no pattern there and hand nothing back: .*2 of down"):
        patterns = agf_fx.fit_patterns(model, [IMAGES])
    assert not patterns.above["down"][2].any()
    assert patterns.above["down"].flatten(1).any(1).sum() == 3
    assert agf_fx.compile(model, method="pattern-net", options={"patterns": patterns})(IMAGES, 1).isfinite().all()


def test_fitting_leaves_the_model_alone():
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fitted(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_padding_on_one_side_has_no_pattern(method):
    class Padded(nn.Module):
        def __init__(self, widths):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.fc, self.widths = nn.Conv2d(3, 4, 3, stride=2), nn.Linear(4, 5), widths

        def forward(self, x):
            return self.fc(torch.relu(self.conv(nn.functional.pad(x, self.widths))).mean((2, 3)))

    images, widths = torch.randn(16, 3, 12, 11, dtype=torch.float64), (0, 1, 0, 1)
    found, expected = (
        agf_fx.compile(model, method=method, options={"patterns": fitted(model, seen)}).explain(seen[:2], 1).maps
        for model, seen in (
            (Padded(widths).double().eval(), images),
            (Padded((0, 0, 0, 0)).double().eval(), nn.functional.pad(images, widths)),
        )
    )
    assert difference(found, expected[..., :12, :11]) <= 1e-10
