import torch
from torch import nn

import agf_fx
from agf_fx.ir.facts import facts
from agf_fx.passes.input_layers import mark_input_layers


class TwoStems(nn.Module):
    """Two convolutions read the image, one of them behind a normalisation; none has three input channels."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(2)
        self.a, self.b, self.c = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(2, 3, 1), nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4 * 36, 3)

    def forward(self, x):
        return self.fc(self.c(torch.relu(self.a(self.norm(x)) + self.b(x))).flatten(1))


def test_layers_that_read_the_image_are_found_by_dataflow():
    canonical = mark_input_layers(agf_fx.capture(TwoStems().eval(), torch.zeros(1, 2, 8, 8)))
    assert [n.name for n in canonical.calls if facts(n).input_layer] == ["a_conv2d", "b_conv2d"]


def test_a_layer_that_reads_parts_counted_with_the_batch_is_left_out():
    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

        def forward(self, x):
            parts = self.mix(x.reshape(-1, 1, 8, 8)).amax((2, 3))
            return self.fc(parts.reshape(-1, 2, 4).mean(1))

    canonical = mark_input_layers(agf_fx.capture(Parts().eval(), torch.zeros(1, 2, 8, 8)))
    assert not any(facts(n).input_layer for n in canonical.calls)
