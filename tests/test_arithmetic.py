import warnings

import pytest
import torch
from torch import nn

import agf_fx
from agf_fx.runtime import arithmetic
from agf_fx.runtime.arithmetic import EmulatedArithmeticWarning


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 25, 3)).eval()


@pytest.mark.parametrize("there", [False, True])
def test_emulated_precisions_are_warned_of(there, monkeypatch):
    monkeypatch.setattr(arithmetic, "_has_arithmetic", lambda precision: there)
    explainer = agf_fx.compile(network(), precision="bfloat16")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        explainer(torch.randn(2, 3, 7, 7), 1)
    emulated = [w for w in caught if w.category is EmulatedArithmeticWarning]
    assert bool(emulated) is not there
    assert all('precision="float32"' in str(warning.message) for warning in emulated)


def test_nothing_is_said_of_single_precision_or_gpus(recwarn, monkeypatch):
    monkeypatch.setattr(arithmetic, "_has_arithmetic", lambda precision: False)
    agf_fx.compile(network())(torch.randn(2, 3, 7, 7), 1)
    arithmetic.warn_of_emulation(torch.bfloat16, torch.device("cuda"))
    assert not [w for w in recwarn if w.category is EmulatedArithmeticWarning]


def test_what_the_processor_says_is_a_plain_answer():
    assert arithmetic._has_arithmetic(torch.bfloat16) in (True, False)
