"""Equal functions have equal maps: pairs of random programs, spelled twice; see docs/equal-functions.md."""

import pytest
import torch
from random_networks.spelling import Spelled, Worst, compare, difference, pair
from random_networks.spelling.pairs import TOGETHER

SEEDS = range(100)  # tools/random_networks --pairs compares larger ones, by the thousand


def small(seed):
    return pair(seed, blocks=1)


@pytest.mark.parametrize("first", SEEDS[::TOGETHER])
def test_both_spellings_have_one_map(first):
    worst, errors = compare([small(seed) for seed in range(first, first + TOGETHER)])
    assert not errors, "\n".join(errors.values())
    assert worst.maps <= 1e-9


def test_pairs_differ_and_draw_every_kind_of_step():
    pairs = [small(seed) for seed in SEEDS]
    assert pairs[:5] == [pair.__wrapped__(seed, 1) for seed in range(5)]
    assert len({one.first for one in pairs}) == len(pairs)
    assert min(len(one.spelled) for one in pairs) >= 2
    text = "\n".join(one.first + one.second for one in pairs)
    for part in (
        "stack",
        "lerp",
        "einsum",
        "F.pad",
        "ZeroPad2d",
        "new_zeros",
        "bmm",
        "chunk(",
        "running_var",
        "permute",
    ):
        assert part in text


def test_a_failure_shows_both_programs(monkeypatch):
    monkeypatch.setattr("random_networks.spelling.comparing.TOLERANCE", -1.0)
    monkeypatch.setattr("random_networks.spelling.comparing._rounding", lambda case: torch.tensor(-1.0))
    one = small(0)
    _, errors = compare([one])
    assert "the maps differ" in errors[0]
    assert one.first in errors[0]
    assert one.second in errors[0]


def test_the_comparison_notices_another_rule():
    """A convolution that adds two branches is another rule by definition."""
    source = pair(0).first.split("class Network")[0] + _TWO_BRANCHES
    merges = ("a + b", "self.both(torch.cat([a, b], 1))")
    first, second = (Spelled.all_of([source.format(merge=merge)])[0] for merge in merges)
    with pytest.raises(AssertionError, match="the maps differ"):
        difference(first, second)
    assert difference(first, first) == Worst()


_TWO_BRANCHES = """
class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.both, self.fc = nn.Conv2d(6, 3, 1, bias=False), nn.Linear(3, 4)
        self.both.weight.data = torch.eye(3).repeat(1, 2)[:, :, None, None]

    def forward(self, x):
        a = torch.relu(self.a(x))
        b = self.b(a)
        return self.fc(torch.relu({merge}).mean((2, 3)))


torch.manual_seed(0)
model = Network().double().eval()
images, target = torch.randn(2, 3, 6, 6, dtype=torch.float64), torch.tensor([[0, 1], [2, 3]])
"""
