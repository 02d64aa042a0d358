"""Measures of maps, beside loops written out, and beside Quantus and scikit-learn on the same maps."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import spsolve
from torch import nn

import agf_fx
from agf_fx.errors import InputError, OptionsError
from agf_fx.evaluate import imputation
from agf_fx.evaluate.perturbation import deletion, insertion, perturbation, ranks
from agf_fx.evaluate.pointing import cell_shares, mask_shares, peaks_inside, rank_accuracy
from agf_fx.evaluate.randomisation import randomised, sanity_check
from agf_fx.evaluate.robustness import infidelity, max_sensitivity, sparseness
from agf_fx.evaluate.segmentation import segmentation

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import quantus

SIZE = 8
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(3, 3, SIZE, SIZE, generator=GENERATOR)
MAPS = torch.randn(3, 2, SIZE, SIZE, generator=GENERATOR)
TARGETS = torch.tensor([[0, 2], [1, 3], [2, 0]])
MASKS = torch.zeros(3, 2, SIZE, SIZE, dtype=torch.bool)
MASKS[:, 0, 1:4, 2:6], MASKS[:, 1, 5:, :3] = True, True


def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * SIZE**2, 4)
    return nn.Sequential(*layers).eval()


MODEL = network()


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def measured(metric, **more):
    """Quantus' scores of the first map of each image."""
    arrays = {"x_batch": IMAGES.numpy(), "y_batch": TARGETS[:, 0].numpy(), "a_batch": MAPS[:, :1].numpy()}
    return metric(model=MODEL, **arrays, **more)


# Perturbation


@pytest.mark.parametrize("first", ["least", "most"])
def test_perturbation_is_a_loop_over_images_maps_and_steps(first):
    fractions, fill = (0.0, 0.25, 0.5, 1.0), (0.5, -1.0, 2.0)
    labels = torch.tensor([1, 1, 0])
    curves = perturbation(
        MODEL, IMAGES, MAPS, TARGETS, labels=labels, first=first, fractions=fractions, batch=5,
        impute=imputation.constant(fill),
    )  # fmt: skip
    for n, k, s in np.ndindex(3, 2, 4):
        order = MAPS[n, k].flatten().argsort(descending=first == "most")[: round(fractions[s] * SIZE**2)]
        image = IMAGES[n].clone()
        image.flatten(1)[:, order] = torch.tensor(fill)[:, None]
        p = MODEL(image[None]).double().softmax(1)[0]
        assert curves.probability[n, k, s] == pytest.approx(float(p[TARGETS[n, k]]), abs=1e-6)
        assert curves.log_odds[n, k, s] == pytest.approx(float(torch.logit(p[TARGETS[n, k]])), abs=1e-4)
        assert bool(curves.correct[n, k, s]) == (int(p.argmax()) == labels[n])
    area = curves.area(curves.probability)
    assert area[1, 1] == pytest.approx(np.trapezoid(curves.probability[1, 1].numpy(), fractions))
    own = perturbation(MODEL, IMAGES, MAPS, TARGETS, first=first, fractions=fractions)
    assert torch.equal(own.correct[..., 0], MODEL(IMAGES).argmax(1)[:, None] == TARGETS)


def test_deletion_and_insertion_are_both_ends_of_it():
    gone = deletion(MODEL, IMAGES, MAPS, TARGETS, steps=4)
    expected = perturbation(MODEL, IMAGES, MAPS, TARGETS, first="most", fractions=(0, 0.25, 0.5, 0.75, 1))
    assert torch.equal(gone, expected.area(expected.probability))
    blurred = imputation.blur(1.5)
    come = insertion(MODEL, IMAGES, MAPS, TARGETS, steps=2, impute=blurred)
    everything, nothing = torch.ones(3, SIZE, SIZE, dtype=torch.bool), torch.zeros(3, SIZE, SIZE, dtype=torch.bool)
    ends = [MODEL(blurred(IMAGES, hidden)).softmax(1).gather(1, TARGETS) for hidden in (nothing, everything)]
    half = ranks(MAPS) < SIZE**2 // 2
    middle = torch.stack([MODEL(blurred(IMAGES, half[:, k])).softmax(1) for k in range(2)], 1)
    middle = middle.gather(2, TARGETS[..., None])[..., 0]
    assert torch.allclose(come, ((ends[0] + ends[1]) / 4 + middle / 2).double(), atol=1e-6)


def test_equal_pixels_go_in_random_order():
    flat = torch.zeros(2, 32, 32)
    first = ranks(flat) < 512
    assert torch.equal(first[0], first[1])
    assert 0.4 < first[0, :16].double().mean() < 0.6
    assert not torch.equal(ranks(flat), ranks(flat, seed=1))
    assert torch.equal(ranks(MAPS).flatten(2), MAPS.flatten(2).argsort().argsort())


def test_regions_go_as_a_whole_by_their_means():
    places = ranks(MAPS, region=3)  # of 8 by 8 pixels: the last regions are 2 wide, 2 high, or both
    assert torch.equal(places.flatten(2).sort().values, torch.arange(SIZE**2).expand(3, 2, -1))
    for one, order in zip(MAPS.flatten(0, 1), places.flatten(0, 1), strict=True):
        corners = [(y, x) for y in range(0, SIZE, 3) for x in range(0, SIZE, 3)]
        squares = sorted(corners, key=lambda at: one[at[0] : at[0] + 3, at[1] : at[1] + 3].mean())
        start = 0
        for y, x in squares:
            square = order[y : y + 3, x : x + 3].flatten().sort().values
            assert torch.equal(square, torch.arange(start, start + square.numel()))
            start += square.numel()
    assert torch.equal(ranks(MAPS, region=1), ranks(MAPS))
    with pytest.raises(OptionsError, match="region is 0"):
        perturbation(MODEL, IMAGES, MAPS, TARGETS, region=0)
    half = perturbation(MODEL, IMAGES, MAPS, TARGETS, fractions=(0.5,), region=4)
    hidden = ranks(MAPS, region=4) < SIZE**2 // 2
    expected = MODEL(IMAGES * ~hidden[:, :1].squeeze(1)[:, None]).softmax(1).gather(1, TARGETS[:, :1])
    assert torch.allclose(half.probability[:, :1, 0].float(), expected, atol=1e-6)


def test_networks_of_several_labels_and_of_positions():
    curves = perturbation(MODEL, IMAGES, MAPS, TARGETS, fractions=(0.0,), activation="sigmoid")
    assert torch.allclose(curves.probability[..., 0].float(), MODEL(IMAGES).sigmoid().gather(1, TARGETS), atol=1e-6)
    dense = nn.Conv2d(3, 4, 3, padding=1)
    curves = perturbation(dense, IMAGES, MAPS, TARGETS, fractions=(0.0,))
    expected = dense(IMAGES).flatten(2).mean(2).softmax(1).gather(1, TARGETS)
    assert torch.allclose(curves.probability[..., 0].float(), expected, atol=1e-6)


# Quantus counts channels of pixels one by one; ours counts pixels. Both are the same where there is one channel.
GREY = IMAGES[:, :1].contiguous()
GREY_MODEL = nn.Sequential(nn.Flatten(), nn.Linear(SIZE**2, 4)).eval()


def of_grey(metric, **more):
    arrays = {"x_batch": GREY.numpy(), "y_batch": TARGETS[:, 0].numpy(), "a_batch": MAPS[:, :1].numpy()}
    return metric(model=GREY_MODEL, **arrays, **more)


def test_pixel_flipping_is_that_of_quantus():
    metric = quantus.PixelFlipping(
        features_in_step=16, perturb_baseline="black", normalise=False, disable_warnings=True, display_progressbar=False
    )
    flipped = of_grey(metric, softmax=True)
    fractions = [16 * step / SIZE**2 for step in range(1, 5)]
    for n in range(3):
        black = imputation.constant(float(GREY[n].min()))  # Quantus' black is the smallest value of the image
        given = GREY[n : n + 1], MAPS[n : n + 1, :1], TARGETS[n : n + 1, :1]
        curves = perturbation(GREY_MODEL, *given, first="most", fractions=fractions, impute=black)
        assert np.allclose(curves.probability[0, 0].numpy(), flipped[n], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"maps": MAPS[:2]}, InputError, "do not fit"),
        ({"maps": MAPS.clone().fill_(math.nan)}, InputError, "NaN"),
        ({"fractions": (0.5, 0.1)}, OptionsError, "growing"),
        ({"fractions": (0.5, 1.1)}, OptionsError, "growing"),
        ({"fractions": ()}, OptionsError, "growing"),
        ({"first": "best"}, OptionsError, "least"),
        ({"impute": imputation.constant([1.0, 2.0])}, OptionsError, "2 values"),
    ],
)
def test_what_perturbation_refuses(change, error, said):
    given = {"predict": MODEL, "images": IMAGES, "maps": MAPS, "target": TARGETS} | change
    with pytest.raises(error, match=said):
        perturbation(**given)


# Imputation


def test_noisy_linear_solves_the_system_of_neighbours():
    hidden = ranks(MAPS[:, 0]) < 45
    found = imputation.noisy_linear(noise=0)(IMAGES.double(), hidden)
    weights = {(a, b): 1 / 12 if a and b else 1 / 6 for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b}
    for image, mask, filled in zip(IMAGES.double(), hidden, found, strict=True):
        places = {tuple(place): i for i, place in enumerate(mask.nonzero().tolist())}
        matrix, right = np.eye(len(places)), np.zeros((len(places), 3))
        for (u, v), row in places.items():
            near = {(u + a, v + b): w for (a, b), w in weights.items() if 0 <= u + a < SIZE and 0 <= v + b < SIZE}
            total = sum(near.values())
            for place, weight in near.items():
                if place in places:
                    matrix[row, places[place]] -= weight / total
                else:
                    right[row] += weight / total * image[:, place[0], place[1]].numpy()
        solved = spsolve(matrix, right)
        assert np.allclose(filled[:, mask].T.numpy(), solved, atol=1e-4)
        assert torch.equal(filled[:, ~mask], image[:, ~mask])


def test_imputations_change_what_is_hidden_alone():
    hidden = ranks(MAPS[:, 0]) < 30
    ways = imputation.constant(1.0), imputation.mean_of_image(), imputation.blur(), imputation.noisy_linear()
    for impute in ways:
        changed = impute(IMAGES, hidden)
        assert torch.equal(changed.movedim(1, 3)[~hidden], IMAGES.movedim(1, 3)[~hidden])
        assert not torch.isclose(changed.movedim(1, 3)[hidden], IMAGES.movedim(1, 3)[hidden]).all()
        assert bool(impute(IMAGES, torch.ones_like(hidden)).isfinite().all())
    assert torch.equal(ways[3](IMAGES, hidden), ways[3](IMAGES, hidden))
    for wrong in (lambda: imputation.blur(0), lambda: imputation.noisy_linear(-1)):
        with pytest.raises(OptionsError):
            wrong()


def test_road_is_that_of_quantus():
    metric = quantus.ROAD(noise=0.0, percentages=[10, 50, 90], disable_warnings=True, display_progressbar=False)
    said = of_grey(metric)
    few = 6 / 64, 32 / 64, 57 / 64  # which Quantus rounds down
    given = GREY, MAPS[:, :1], TARGETS[:, :1]
    curves = perturbation(GREY_MODEL, *given, first="most", fractions=few, impute=imputation.noisy_linear(0))
    assert list(said.values()) == pytest.approx(curves.correct[:, 0].double().mean(0).tolist())


# Pointing


def test_shares_of_cells():
    maps = MAPS.clone()
    maps[0, 0] = -1
    found = cell_shares(maps, 2, 4)
    assert found.shape == (3, 2, 2, 4)
    assert torch.allclose(found.sum((2, 3)), torch.ones(3, 2))
    assert torch.equal(found[0, 0], torch.full((2, 4), 1 / 8))
    positive = maps[1, 1].clamp_min(0)
    assert float(found[1, 1, 1, 2]) == pytest.approx(float(positive[4:, 4:6].sum() / positive.sum()))
    with pytest.raises(InputError, match="cells"):
        cell_shares(MAPS, 3)


def test_shares_ranks_and_peaks_are_those_of_quantus():
    masks = MASKS[:, :1].numpy()
    quiet = {"disable_warnings": True, "display_progressbar": False, "normalise": False, "abs": False}
    positive = {
        "a_batch": MAPS[:, :1].clamp_min(0).numpy(),
        "x_batch": IMAGES.numpy(),
        "y_batch": TARGETS[:, 0].numpy(),
    }
    shares = quantus.RelevanceMassAccuracy(**quiet)(model=MODEL, s_batch=masks, **positive)
    assert mask_shares(MAPS, MASKS)[:, 0].tolist() == pytest.approx(shares, abs=1e-6)
    assert rank_accuracy(MAPS, MASKS)[:, 0].tolist() == pytest.approx(
        measured(quantus.RelevanceRankAccuracy(**quiet), s_batch=masks)
    )
    assert peaks_inside(MAPS, MASKS)[:, 0].tolist() == measured(quantus.PointingGame(**quiet), s_batch=masks)


def test_pointing_in_particular_cases():
    empty = torch.zeros_like(MASKS[0, 0])
    assert rank_accuracy(MAPS[0, 0], empty).isnan()
    flat = torch.zeros(SIZE, SIZE)
    share = float(MASKS[0, 0].double().mean())
    for measure in (mask_shares, rank_accuracy, peaks_inside):
        assert float(measure(flat, MASKS[0, 0])) == pytest.approx(share)
    peak = torch.zeros(SIZE, SIZE)
    peak[0, 0] = 1  # one row and two columns from the mask
    assert [float(peaks_inside(peak, MASKS[0, 0], tolerance)) for tolerance in (0, 2, 3)] == [0, 0, 1]
    with pytest.raises(InputError):
        mask_shares(MAPS, MASKS[:1])
    with pytest.raises(InputError):
        mask_shares(MAPS, MASKS.double())
    with pytest.raises(OptionsError):
        peaks_inside(MAPS, MASKS, -1)


# Segmentation


@pytest.mark.parametrize("threshold", [0.0, "mean"])
def test_segmentation_by_counting(threshold):
    ignored = torch.zeros(3, SIZE, SIZE, dtype=torch.bool)
    ignored[:, 3] = True
    found = segmentation(MAPS[:, 0], MASKS[:, 0], threshold=threshold, ignored=ignored)
    for n in range(3):
        values, mask = MAPS[n, 0][~ignored[n]], MASKS[n, 0][~ignored[n]]
        chosen = values > (values.mean() if threshold == "mean" else 0)
        assert found.pixel_accuracy[n] == pytest.approx(float((chosen == mask).double().mean()))
        assert found.object_iou[n] == pytest.approx(int((chosen & mask).sum()) / int((chosen | mask).sum()))
        ranked = mask[values.argsort(descending=True)].double()
        precision = ranked.cumsum(0) / torch.arange(1, len(ranked) + 1)
        assert found.average_precision[n] == pytest.approx(float((precision * ranked).sum() / ranked.sum()))
        assert found.mean_iou[n] == pytest.approx(float(found.object_iou[n] + found.background_iou[n]) / 2)
        right = float((chosen == mask).double().mean())  # of 2P scores P are 1, and the share of these is right
        assert found.both_average_precision[n] == pytest.approx(right * right + 0.5 * (1 - right), abs=1e-9)


def test_segmentation_at_random_in_part_and_of_nothing():
    generator = torch.Generator().manual_seed(1)
    random = segmentation(
        torch.randn(40, 32, 32, generator=generator), torch.arange(1024).reshape(1, 32, 32).expand(40, -1, -1) < 100
    )
    assert random.both_average_precision.mean() == pytest.approx(0.5, abs=0.02)
    assert random.average_precision.mean() == pytest.approx(100 / 1024, abs=0.02)
    positive = torch.rand(40, 32, 32, generator=generator)
    square = torch.arange(1024).reshape(1, 32, 32) < 100
    assert segmentation(positive, square.expand(40, -1, -1)).both_average_precision.mean() == pytest.approx(
        0.5, abs=0.02
    )
    assert segmentation(square.double(), square).both_average_precision.tolist() == [1]
    nothing = segmentation(MAPS[:, 0], MASKS[:, 0], ignored=torch.ones(3, SIZE, SIZE, dtype=torch.bool))
    assert bool(nothing.pixel_accuracy.isnan().all())
    empty = segmentation(MAPS[:, 0], torch.zeros_like(MASKS[:, 0]))
    assert bool(empty.average_precision.isnan().all())
    perfect = segmentation(MASKS[:, 0].double() - 0.5, MASKS[:, 0])
    assert perfect.mean_iou.tolist() == perfect.both_average_precision.tolist() == [1, 1, 1]
    both = torch.stack([MAPS[0, 0], MAPS[1, 0].abs()])
    expected = [segmentation(both, MASKS[:2, 0], threshold=level).pixel_accuracy for level in (0.0, "mean")]
    assert segmentation(both, MASKS[:2, 0]).pixel_accuracy.tolist() == [float(expected[0][0]), float(expected[1][1])]
    for wrong in ({"maps": MAPS}, {"maps": MAPS[:, 0] * math.inf}, {"masks": MAPS[:, 0]}):
        with pytest.raises(InputError):
            segmentation(**({"maps": MAPS[:, 0], "masks": MASKS[:, 0]} | wrong))
    with pytest.raises(OptionsError):
        segmentation(MAPS[:, 0], MASKS[:, 0], threshold="median")


# Robustness


def test_sparseness_is_that_of_quantus():
    said = measured(quantus.Sparseness(disable_warnings=True, display_progressbar=False, normalise=False))
    assert sparseness(MAPS)[:, 0].tolist() == pytest.approx(said, abs=1e-5)
    one = torch.zeros(10, 10)
    assert sparseness(one).isnan()
    assert float(sparseness(one + 1)) == pytest.approx(0, abs=1e-6)
    one[3, 4] = 5
    assert float(sparseness(one)) == pytest.approx(0.99)


def test_max_sensitivity_is_that_of_quantus():
    changes = []

    def change(arr, **_):
        generator = torch.Generator().manual_seed(5)
        for _ in range(len(changes)):
            torch.rand(IMAGES.shape[1:], generator=generator, dtype=torch.float64)
        drawn = torch.rand(IMAGES.shape[1:], generator=generator, dtype=torch.float64) * 2 - 1
        changes.append(drawn)
        return (torch.from_numpy(arr).reshape(IMAGES.shape) + 0.1 * drawn.float()).numpy().reshape(arr.shape)

    def explain(images, target):
        return images.square().sum(1) * (1 + target[:, None, None])

    def theirs(model, inputs, targets, **_):
        return explain(torch.as_tensor(inputs), torch.as_tensor(targets))[:, None].numpy()

    said = quantus.MaxSensitivity(
        nr_samples=3, perturb_func=change, normalise=False, abs=False, disable_warnings=True, display_progressbar=False
    )(model=MODEL, x_batch=IMAGES.numpy(), y_batch=TARGETS[:, 0].numpy(), explain_func=theirs)
    found = max_sensitivity(explain, IMAGES, TARGETS[:, 0], radius=0.1, samples=3, seed=5)
    assert found.tolist() == pytest.approx(said, rel=1e-4)
    assert bool(max_sensitivity(lambda x, t: x[:, 0] * 0, IMAGES, TARGETS[:, 0]).isnan().all())
    with pytest.raises(OptionsError):
        max_sensitivity(explain, IMAGES, TARGETS[:, 0], samples=0)


def test_infidelity_of_a_linear_network_is_that_of_its_weights():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 4))
    weights = linear[1].weight.detach()[TARGETS[:, 0]].reshape(IMAGES.shape)
    assert infidelity(linear, IMAGES, weights, TARGETS[:, 0], scaled=False).max() < 1e-9
    assert infidelity(linear, IMAGES, weights * 7, TARGETS[:, 0]).max() < 1e-9
    turned = infidelity(linear, IMAGES, -weights, TARGETS[:, 0])  # is no better than a map of nothing
    assert torch.equal(turned, infidelity(linear, IMAGES, 0 * weights, TARGETS[:, 0]))
    assert turned.min() > 1e-4
    other = infidelity(linear, IMAGES, torch.randn(IMAGES.shape), TARGETS[:, 0], samples=500)
    variance = weights.double().square().flatten(1).sum(1) * 0.1**2
    assert torch.allclose(other, variance, rtol=0.2)
    assert infidelity(linear, IMAGES, MAPS[:, 0], TARGETS[:, 0]).shape == (3,)
    with pytest.raises(InputError):
        infidelity(linear, IMAGES, MAPS, TARGETS[:, 0])


# Randomised weights


def test_layers_are_drawn_anew_from_the_output():
    before = {name: value.clone() for name, value in MODEL.state_dict().items()}
    steps = list(randomised(MODEL, IMAGES[:1]))
    assert [name for name, _ in steps] == ["4", "1", "0"]
    changed = [
        {name.split(".")[0] for name, value in copy.state_dict().items() if not torch.equal(value, before[name])}
        for _, copy in steps
    ]
    assert changed == [{"4"}, {"4"}, {"4", "0"}]  # the normalisation is as it starts
    alone = [
        {name.split(".")[0] for name, value in copy.state_dict().items() if not torch.equal(value, before[name])}
        for _, copy in randomised(MODEL, IMAGES[:1], order="independent")
    ]
    assert alone == [{"4"}, set(), {"0"}]
    assert all(torch.equal(value, before[name]) for name, value in MODEL.state_dict().items())
    again = list(randomised(MODEL, IMAGES[:1]))
    assert all(torch.equal(a[1][4].weight, b[1][4].weight) for a, b in zip(steps, again, strict=True))
    with pytest.raises(OptionsError, match="cascading"):
        next(randomised(MODEL, IMAGES[:1], order="random"))


def test_sanity_check_of_a_method_and_of_edges():
    explainer = agf_fx.compile(MODEL, method="gradient-x-input")
    check = sanity_check(explainer.bind, MODEL, IMAGES, TARGETS[:, 0])
    assert check.layers == ("4", "1", "0")
    assert check.similarity.shape == (3, 3)
    assert check.similarity[-1].abs().max() < 0.6
    assert explainer.model is MODEL
    edges = sanity_check(lambda model: lambda images, target: images.sum(1), MODEL, IMAGES, TARGETS[:, 0])
    assert bool((edges.similarity > 1 - 1e-9).all())
    with pytest.raises(InputError, match="no layer"):
        sanity_check(lambda model: lambda images, target: images.sum(1), nn.ReLU(), IMAGES, TARGETS[:, 0])


def test_parameters_without_a_start_are_drawn_of_their_size():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.randn(4000) + 3)

        def forward(self, x):
            return x.flatten(1)[:, :1] * self.scale

    ((name, changed),) = randomised(Scaled(), IMAGES[:1])
    assert name == ""
    assert float(changed.scale.mean()) == pytest.approx(3, abs=0.1)
    assert float(changed.scale.std()) == pytest.approx(1, abs=0.1)
