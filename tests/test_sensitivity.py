"""Class sensitivity, and rank correlations against SciPy's."""

from __future__ import annotations

import networks
import pytest
import scipy.stats
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import agf_fx
from agf_fx.errors import InputError
from agf_fx.evaluate.sensitivity import ConstantMapWarning, class_sensitivity, spearman

IMAGES = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()


def scipys(a, b):
    return torch.tensor([scipy.stats.spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b, strict=True)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("values", [2, 5, 10**4])
def test_scipys_ranks(values, dtype):
    generator = torch.Generator().manual_seed(values)
    a, b = ((torch.randint(values, (20, 7, 6), generator=generator) - values / 3).to(dtype) for _ in range(2))
    found = spearman(a, b)
    assert found.dtype is torch.float64
    torch.testing.assert_close(found, scipys(a, b), rtol=0, atol=1e-14)
    torch.testing.assert_close(spearman(a, a.clone()), torch.ones(20).double(), rtol=0, atol=1e-14)
    torch.testing.assert_close(spearman(a.transpose(1, 2), -a.transpose(1, 2)), -torch.ones(20).double())


def test_maps_that_only_differ_in_scale_are_the_same():
    a = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(spearman(a, (3 * a + 1).exp()), torch.ones(3).double())


@pytest.mark.parametrize("wrong", [torch.nan, 0.0])
def test_constant_maps_and_nan_have_none(wrong):
    a = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    b = a.clone()
    b[1] = wrong if wrong == 0 else b[1]
    b[1, 2, 3] = wrong
    assert spearman(a, b).isnan().tolist() == [False, True, False]
    assert spearman(b, a).isnan().tolist() == [False, True, False]
    assert spearman(torch.full((1, 7), torch.inf), a.flatten(1)[:1, :7]).isnan().all()


@pytest.mark.parametrize("shape", [(3, 8, 7), (2, 8, 8), (0, 8, 8), (3, 0)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(InputError, match=r"must both be of one shape \(N, \.\.\.\), not empty"):
        spearman(torch.zeros(shape), torch.zeros(3, 8, 8) if 0 not in shape else torch.zeros(shape))


@pytest.mark.parametrize("method", ["agf", "gradient", agf_fx.meta("normgrad")])
def test_the_likeliest_class_against_the_least_likely(method):
    model = networks.small_vgg().eval()
    explainer = agf_fx.compile(model, method=method)
    ranked = model(IMAGES).argsort(1, descending=True)
    maps = explainer(IMAGES, ranked[:, [0, -1]])
    found = class_sensitivity(explainer, IMAGES)
    torch.testing.assert_close(found, scipys(maps[:, 0], maps[:, 1]), rtol=0, atol=1e-12)
    loader = DataLoader(TensorDataset(IMAGES, torch.arange(5)), batch_size=2)
    torch.testing.assert_close(class_sensitivity(explainer, loader), found, rtol=0, atol=1e-12)
    torch.testing.assert_close(class_sensitivity(explainer, iter(IMAGES.split(2))), found, rtol=0, atol=1e-12)


def test_exported_explainers_and_dense_outputs(tmp_path):
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1)).double().eval()
    explainer = agf_fx.compile(dense, IMAGES, method="gradient")
    ranked = dense(IMAGES).mean((2, 3)).argsort(1, descending=True)
    maps = explainer(IMAGES, ranked[:, [0, -1]])
    found = class_sensitivity(explainer, IMAGES)
    torch.testing.assert_close(found, scipys(maps[:, 0], maps[:, 1]), rtol=0, atol=1e-12)
    explainer.export(tmp_path / "explainer.pt")
    torch.testing.assert_close(class_sensitivity(agf_fx.load(tmp_path / "explainer.pt"), IMAGES), found)


class Alone:
    """Explains image by image, of which some have a constant map."""

    def explain(self, images, target=None):
        maps = images[:, :1] * (1 if target is None else -1)
        logits = torch.tensor([[1.0, 0.0, 0.0]]).expand(len(images), 3)
        self.target = target
        return agf_fx.Explanation(maps, torch.zeros(len(images), 1), logits, images)


def test_constant_maps_are_warned_of_by_image():
    images = IMAGES.clone()
    images[[1, 4]] = 0.5
    explainer = Alone()
    with pytest.warns(ConstantMapWarning, match=r"maps of images \[1, 4\] are constant or hold NaN") as caught:
        found = class_sensitivity(explainer, images.split(2))
    assert caught[0].filename == __file__
    assert found.isnan().tolist() == [False, True, False, False, True]
    assert found.nanmean() == -1
    assert explainer.target.tolist() == [2]  # the last of equal ones


def test_what_cannot_be_compared_is_refused():
    torch.manual_seed(0)
    one = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
    with pytest.raises(InputError, match="the model has one class"):
        class_sensitivity(agf_fx.compile(one.double().eval(), method="gradient"), IMAGES)
    with pytest.raises(InputError, match="there is no batch"):
        class_sensitivity(Alone(), [])
    with pytest.raises(InputError, match="images is a int; give a batch"):
        class_sensitivity(Alone(), 3)
