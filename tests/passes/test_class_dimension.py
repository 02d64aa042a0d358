import pytest
import torch
from torch import nn

import agf_fx
from agf_fx.errors import CaptureError
from agf_fx.pipeline import analyse


class Net(nn.Module):
    """Feature maps, a linear or convolutional ``head``, and ``tail`` behind it."""

    def __init__(self, head, tail):
        super().__init__()
        self.body, self.head, self.tail = nn.Conv2d(3, 4, 3, padding=1), head, (tail,)

    def forward(self, images):
        return self.tail[0](self.head, torch.relu(self.body(images)))


def mean(y):
    return y.mean((2, 3))


ACCEPTED = {
    "linear": (nn.Linear(4, 3), lambda head, f: head(mean(f))),
    "a convolution and a mean": (nn.Conv2d(4, 3, 1), lambda head, f: mean(head(f))),
    "dense": (nn.Conv2d(4, 3, 1), lambda head, f: head(f)),
    "dense, resized": (nn.Conv2d(4, 3, 1), lambda head, f: nn.functional.interpolate(head(f), (9, 9), mode="bilinear")),
    "linear at positions, moved": (nn.Linear(4, 3), lambda head, f: head(f.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
    "a mean over time steps": (nn.Linear(4, 3), lambda head, f: head(f.mean(3).transpose(1, 2)).mean(1)),
    "maxout": (nn.Linear(4, 6), lambda head, f: head(mean(f)).view(-1, 3, 2).amax(2)),
    "pictures of a linear layer": (nn.Linear(4, 18), lambda head, f: head(mean(f)).view(-1, 3, 2, 3)),
    "two heads joined": (nn.Linear(4, 3), lambda head, f: torch.cat([head(mean(f)), head(f.amax((2, 3)))], 1)),
    "one logit twice": (nn.Linear(4, 1), lambda head, f: torch.cat([head(mean(f)), -head(mean(f))], 1)),
    "scaled and shifted": (nn.Linear(4, 3), lambda head, f: (head(mean(f)) - 1) / 2),
}
REFUSED = {
    "a mask": (nn.Conv2d(4, 1, 1), lambda head, f: head(f).squeeze(1), r"positions.*torch\.stack\(\[-y, y\], 1\)"),
    "a mask of rows": (nn.Conv2d(4, 1, 1), lambda head, f: head(f)[:, 0].mean(2), r"positions.*output="),
    "time steps": (nn.Linear(4, 3), lambda head, f: head(f.mean(3).transpose(1, 2)), r"dimension 2.*movedim\(2, 1\)"),
    "channels last": (nn.Linear(4, 3), lambda head, f: head(f.permute(0, 2, 3, 1)), r"dimension 3.*movedim\(3, 1\)"),
    "a score a time step": (nn.Linear(4, 1), lambda head, f: head(f.mean(3).transpose(1, 2)).squeeze(2), "positions"),
    "tasks": (nn.Linear(4, 6), lambda head, f: head(mean(f)).view(-1, 2, 3), r"dimensions 1 and 2.*output=.*one task"),
}


def analysed(head, tail, **options):
    return analyse(agf_fx.capture(Net(head, tail).eval(), torch.zeros(1, 3, 6, 7), **options))


@pytest.mark.parametrize("case", ACCEPTED)
def test_classes_in_dimension_1(case):
    analysed(*ACCEPTED[case])


@pytest.mark.parametrize("case", REFUSED)
def test_classes_elsewhere_are_refused(case):
    head, tail, message = REFUSED[case]
    with pytest.raises(CaptureError, match=message):
        analysed(head, tail)


@pytest.mark.parametrize(
    ("case", "output"),
    [
        ("a mask", lambda y: torch.stack([-y, y], 1)),
        ("time steps", lambda y: y.movedim(2, 1)),
        ("channels last", lambda y: y.movedim(3, 1)),
        ("tasks", lambda y: y[:, 0]),
        ("tasks", lambda y: y.flatten(1)),
    ],
)
def test_the_advice_works(case, output):
    head, tail, _ = REFUSED[case]
    analysed(head, tail, output=output)
