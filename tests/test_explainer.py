"""The explainer as users call it."""

from __future__ import annotations

import threading
import warnings

import numpy as np
import pytest
import torch
from networks import basic_resnet, load_golden, reuse, small_vgg
from torch import nn

import agf_fx
from agf_fx.errors import CaptureError, InputError, NonFiniteInputError, OptionsError, TargetError
from agf_fx.runtime.degenerate import DegenerateMapWarning


def images(count=3, size=16, seed=0):
    return torch.randn(count, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def test_shapes_and_targets():
    explainer = agf_fx.compile(small_vgg())
    x = images()
    assert explainer(x).shape == (3, 16, 16)
    assert explainer(x, 2).shape == (3, 16, 16)
    assert explainer(x, torch.tensor([0, 1, 2])).shape == (3, 16, 16)
    assert explainer(x, torch.tensor([[0, 1], [1, 2], [2, 3]])).shape == (3, 2, 16, 16)
    assert explainer(x, torch.tensor([[0], [1], [2]])).shape == (3, 1, 16, 16)
    assert explainer(x, np.array([[0, 1], [1, 2], [2, 3]])).shape == (3, 2, 16, 16)
    assert torch.equal(explainer(x, [4, 1, 0]), explainer(x, torch.tensor([4, 1, 0])))
    assert torch.equal(explainer(x, 2), explainer(x, torch.tensor([2, 2, 2], dtype=torch.int32)))


def test_several_targets_equal_single_ones():
    explainer, x = agf_fx.compile(basic_resnet(), images(size=32)), images(size=32)
    several = explainer(x, torch.tensor([[0, 4], [1, 3], [2, 2]]))
    assert relative(several[:, 0], explainer(x, [0, 1, 2])) <= 1e-12
    assert relative(several[:, 1], explainer(x, [4, 3, 2])) <= 1e-12


def test_top_classes():
    model = small_vgg()
    explainer, x = agf_fx.compile(model), images()
    result = explainer.explain(x, top_k=3)
    logits = model(x)
    assert relative(result.logits, logits) <= 1e-12  # batch norm is folded into the convolutions
    assert torch.equal(result.target, logits.topk(3).indices)
    assert result.maps.shape == (3, 3, 16, 16)
    assert result.images is x
    assert relative(explainer(x), result.maps[:, 0]) <= 1e-12
    assert relative(explainer(x, result.target), result.maps) <= 1e-12
    assert torch.equal(explainer.explain(x).target, logits.argmax(1, keepdim=True))


@pytest.mark.parametrize("build", [small_vgg, basic_resnet])
def test_a_map_does_not_depend_on_the_rest_of_the_batch(build):
    explainer, x = agf_fx.compile(build()), images(7, 32)
    target = torch.arange(7) % 5
    together = explainer(x, target)
    for i in range(7):
        assert relative(explainer(x[i : i + 1], target[i : i + 1])[0], together[i]) <= 1e-12
    assert relative(explainer(x[3:6], target[3:6]), together[3:6]) <= 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("dialect", ["reference", "paper"])
@pytest.mark.parametrize("build", [small_vgg, basic_resnet, reuse])
def test_degenerate_images_give_finite_maps(build, dialect, dtype):
    model = build().to(dtype)
    explainer = agf_fx.compile(model, options=agf_fx.AGFOptions(dialect=dialect))
    noise = images(1, 32).to(dtype)
    flat = torch.zeros(1, 3, 32, 32, dtype=dtype)
    negative, tiny = -noise.abs(), noise * 1e-20
    half = noise.clone()
    half[:, :, :, 16:] = 0
    batch = torch.cat([flat, flat + 3, flat - 3, noise * 1e4, negative, tiny, half])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "maps of images .* contain NaN", DegenerateMapWarning)
        warnings.filterwarnings("ignore", "maps of images .* are zero", DegenerateMapWarning)
        for target in range(5):
            assert explainer(batch, target).isfinite().all()


def test_all_zero_relevance_gives_zero_maps():
    model = small_vgg()
    nn.init.zeros_(model.classifier[-1].weight)
    nn.init.zeros_(model.classifier[-1].bias)
    with pytest.warns(DegenerateMapWarning, match=r"images \[0, 1, 2\] are zero everywhere"):
        maps = agf_fx.compile(model)(images(), 1)
    assert torch.equal(maps, torch.zeros(3, 16, 16, dtype=torch.float64))


def test_bad_pixels_are_refused_by_image():
    explainer, x = agf_fx.compile(small_vgg()), images(4)
    x[1, 0, 0, 0], x[3, 2, 5, 5] = float("nan"), float("inf")
    with pytest.raises(NonFiniteInputError, match=r"\[1, 3\]") as caught:
        explainer(x)
    assert caught.value.indices == (1, 3)
    assert explainer(x[[0, 2]]).isfinite().all()


def test_confident_predictions_keep_their_map_in_single_precision():
    model = small_vgg()
    with torch.no_grad():
        model.classifier[-1].weight.mul_(10)
        model.classifier[-1].bias[2] += 60
    x, target = images(), torch.tensor([2, 2, 2])
    assert (1 - model(x).float().softmax(1)[:, 2]).max() == 0  # beyond float32
    expected = agf_fx.compile(model)(x, target)
    found = agf_fx.compile(model.float())(x.float(), target).double()
    assert relative(found, expected) <= 1e-3


@pytest.mark.filterwarnings("ignore:maps of images .* are zero")
def test_an_overflowing_network_warns_by_image():
    model = small_vgg().float()
    with torch.no_grad():
        model.features[0].weight.mul_(1e30)
    x = images().float()
    x[0] = 1e10 * x[0]
    with pytest.warns(DegenerateMapWarning, match=r"images \[0"):
        agf_fx.compile(model)(x, 0)


@pytest.mark.parametrize(
    "target",
    [-1, 5, 1.5, True, "cat", torch.tensor([0.0, 1.0, 2.0]), [0, 1], torch.zeros(3, 0, dtype=torch.int64), [0, 1, 7]],
)
def test_bad_targets_are_refused(target):
    with pytest.raises(TargetError):
        agf_fx.compile(small_vgg(), images())(images(), target)


@pytest.mark.parametrize("top_k", [0, 6, -1, 1.0, True])
def test_bad_top_k_is_refused(top_k):
    with pytest.raises(OptionsError):
        agf_fx.compile(small_vgg(), images()).explain(images(), top_k=top_k)


def test_target_and_top_k_exclude_each_other():
    with pytest.raises(OptionsError, match="not both"):
        agf_fx.compile(small_vgg()).explain(images(), 1, top_k=2)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (images()[0], r"image.unsqueeze\(0\)"),
        (images().float(), "float32"),
        (images()[:0], "batch"),
        ("image.png", "one batch"),
        (images().long(), "floating|float64"),
    ],
)
@pytest.mark.parametrize("prepared", [False, True])
def test_bad_batches_are_refused(bad, message, prepared):
    explainer = agf_fx.compile(small_vgg(), images() if prepared else None)
    with pytest.raises((InputError, CaptureError), match=message):
        explainer(bad)


@pytest.mark.parametrize(
    "options",
    [
        {"dialect": "french"},
        {"numerator": "lime"},
        {"regulariser": 1},
        {"numerator": "gradcam", "factorise_input": False},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(OptionsError):
        agf_fx.AGFOptions(**options)


def test_unknown_methods_are_refused():
    with pytest.raises(OptionsError, match="'agf'"):
        agf_fx.compile(small_vgg(), method="AGF")
    with pytest.raises(OptionsError, match="no options"):
        agf_fx.compile(small_vgg(), method="gradient_x_input", options=agf_fx.AGFOptions())


def test_a_single_logit_is_refused():
    with pytest.raises(CaptureError, match="1 logit"):
        agf_fx.compile(small_vgg(classes=1), images())


def test_weights_are_read_anew_at_every_call():
    model, other = small_vgg(seed=0), small_vgg(seed=1)
    explainer, x = agf_fx.compile(model), images()
    before = explainer(x, 0)
    model.load_state_dict(other.state_dict())
    after = explainer(x, 0)
    assert not torch.equal(before, after)
    assert torch.equal(after, agf_fx.compile(other)(x, 0))


def test_a_changed_architecture_is_noticed():
    model = small_vgg()
    explainer = agf_fx.compile(model, images())
    model.features[0] = nn.Conv2d(3, 4, 5, padding=2).double()
    assert torch.equal(explainer(images()), agf_fx.compile(model)(images()))


def test_one_explainer_serves_several_image_sizes_and_precisions():
    model = basic_resnet()
    explainer = agf_fx.compile(model)
    assert explainer(images(2, 32)).shape == (2, 32, 32)
    assert explainer(images(1, 45)).shape == (1, 45, 45)
    in_double = explainer(images(2, 32), 1)
    model.float()
    assert relative(explainer(images(2, 32).float(), 1).double(), in_double) <= 1e-3


def test_every_image_size_gives_what_a_fresh_explainer_gives():
    model, explainer = basic_resnet(), agf_fx.compile(basic_resnet())
    sizes = [(32, 32), (33, 47), (61, 29)]
    batches = [
        torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) for size in sizes
    ]
    for batch in (*batches, batches[0]):
        maps = explainer(batch, 1)
        assert maps.shape == (2, *batch.shape[2:])
        assert maps.any()
        assert torch.equal(maps, agf_fx.compile(model, batch)(batch, 1))
    with torch.no_grad():  # the constants of every size are prepared anew
        for edited in (model, explainer.model):
            edited.conv1.weight.mul_(1.5)
    for batch in batches:
        assert torch.equal(explainer(batch, 1), agf_fx.compile(model, batch)(batch, 1))


class FixedSize(nn.Module):
    """It takes one image size only: nothing pools before the linear layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4 * 14 * 14, 5)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).flatten(1))  # the line that fails


def test_an_image_size_that_the_network_cannot_take_is_refused_and_the_others_go_on(caplog):
    explainer = agf_fx.compile(FixedSize().double().eval())
    expected = explainer(images(2, 16), 1)
    with pytest.raises(CaptureError, match=r"could not be captured on images of shape \(N, 3, 19, 19\)") as caught:
        explainer(images(2, 19), 1)
    assert "Check that it accepts images of this shape" in str(caught.value)
    assert "# the line that fails" in str(caught.value)
    assert not caplog.records  # no traceback of PyTorch's beside it
    assert torch.equal(explainer(images(2, 16), 1), expected)
    with pytest.raises(CaptureError, match=r"\(N, 3, 2, 2\)"):
        explainer(images(2, 2), 1)


def test_dialects_and_ablations_differ():
    golden = load_golden("vgg_tiny.in16")
    x = golden.tensors["input"]
    choices = [
        {},
        {"dialect": "paper"},
        {"input_agnostic": False},
        {"factorise_input": False},
        {"factorise_gradient": False},
        {"input_gradient": False},
        {"regulariser": False},
        {"numerator": "gradcam"},
    ]
    maps = [agf_fx.compile(golden.model, x, options=agf_fx.AGFOptions(**choice))(x, 1) for choice in choices]
    for i, a in enumerate(maps):
        assert all(relative(a, b) > 1e-3 for b in maps[:i])


def test_threads_share_an_explainer():
    explainer, x = agf_fx.compile(small_vgg()), images()
    expected = agf_fx.compile(small_vgg())(x, 1)
    found = []
    threads = [threading.Thread(target=lambda: found.append(explainer(x, 1))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(torch.equal(maps, expected) for maps in found)


def test_inference_mode_and_gradients_of_the_caller():
    model, x = small_vgg(), images()
    explainer = agf_fx.compile(model, x)
    expected = explainer(x, 1)
    assert not expected.requires_grad
    with torch.inference_mode():
        assert torch.equal(explainer(x, 1), expected)
    assert torch.equal(explainer(x.clone().requires_grad_(), 1), expected)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_figures(tmp_path):
    result = agf_fx.compile(small_vgg()).explain(images(2).float().double(), top_k=2)
    result.save(tmp_path / "figure.png", class_names=list("abcde"))
    assert (tmp_path / "figure.png").stat().st_size > 1000
