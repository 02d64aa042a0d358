import json
from importlib.resources import files

import pytest
import torch
from safetensors.torch import load_file

from agf_fx.data import digit_scenes, sample_scenes
from agf_fx.models.digits import (
    DIGITS_CLASSES,
    DIGITS_MEAN,
    DIGITS_SIZE,
    DIGITS_STD,
    digits_basic,
    digits_resnet,
    digits_vgg,
)

ASSETS = files("agf_fx.assets")
NETWORKS = {"digits-vgg": digits_vgg, "digits-resnet": digits_resnet, "digits-basic": digits_basic}


@pytest.fixture(scope="module", params=NETWORKS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def network(name):
    model = NETWORKS[name]()
    model.load_state_dict(load_file(str(ASSETS / f"{name}.safetensors")), strict=True)
    return model.eval()


@pytest.fixture(scope="module")
def held_out():
    pytest.importorskip("sklearn")
    return digit_scenes(300, split="test", seed=2)


def _predicted(network, images):
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (DIGITS_MEAN, DIGITS_STD))
    with torch.no_grad():
        return network((images - mean) / std) > 0


def test_checkpoint_is_small_and_float32(name):
    path = ASSETS / f"{name}.safetensors"
    assert len(path.read_bytes()) <= 2_000_000
    weights = load_file(str(path))
    assert {value.dtype for value in weights.values()} == {
        torch.float32,
        torch.int64,
    }  # int64: batch counters
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_held_out_writers_are_recognised(network, held_out):
    right = _predicted(network, held_out.images) == held_out.multi_hot().bool()
    assert right.float().mean() >= 0.97
    assert right.float().mean(0).min() >= 0.93  # no class is given up


def test_sample_scenes_are_recognised(network):
    for sample in sample_scenes():
        predicted = _predicted(network, sample.image()[None])[0]
        assert predicted.nonzero().flatten().tolist() == sorted(sample.labels)


def test_record_describes_the_checkpoint(name, network):
    record = json.loads((ASSETS / f"{name}.json").read_text())
    assert record["network"] == name
    assert record["parameters"] == sum(p.numel() for p in network.parameters())
    assert record["label_accuracy"] >= 0.98


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_ten_logits_in_any_batch(build):
    network = build().eval()
    for count in (1, 3):
        assert network(torch.zeros(count, 3, DIGITS_SIZE, DIGITS_SIZE)).shape == (count, len(DIGITS_CLASSES))
