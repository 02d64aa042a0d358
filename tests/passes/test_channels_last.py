import pytest
import torch
from networks import basic_resnet, small_vgg
from optimising import around
from torch import fx, nn

import agf_fx
from agf_fx.ir.liveness import VIEWS
from agf_fx.passes.channels_last import keep_channels_last
from agf_fx.pipeline import OPTIMISATIONS

aten = torch.ops.aten
POOLING = {
    aten._adaptive_avg_pool2d_backward.default,
    aten.avg_pool2d_backward.default,
    aten.max_pool2d_with_indices_backward.default,
}
LAST = len(OPTIMISATIONS) - 1


class Pools(nn.Module):
    """Every pooling, overlapping and not."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3), nn.Linear(24, 5)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.stem(x)), 3, 2, 1)
        x = nn.functional.avg_pool2d(torch.relu(self.conv(x)), 2)
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


@pytest.mark.parametrize(("build", "size"), [(small_vgg, 16), (basic_resnet, 32), (Pools, 17)])
def test_outputs_stay(build, size):
    found = around(keep_channels_last, build().double().eval(), size, prefix=LAST)
    assert found.count(aten.new_empty.default)[1] == sum(n.target in POOLING for n in found.after.graph.nodes) > 0
    assert found.difference <= 1e-13


@pytest.mark.parametrize("pairs", [(1, 1), (1, 3), (2, 1), (3, 2)])
def test_no_stream_leaves_the_format(pairs):
    model, x = Pools().eval(), torch.randn(pairs[0], 3, 17, 17)
    explainer = agf_fx.compile(model, x)
    bound = explainer._captured()
    formats = Formats(bound.program.explanation.module)
    target = torch.ones(pairs, dtype=torch.int64)
    formats.run(x.contiguous(memory_format=torch.channels_last), target, *bound.inputs(model))
    assert formats.seen
    assert not formats.wrong


class Formats(fx.Interpreter):
    """Notes the feature maps of several channels that are not stored with their channels innermost."""

    def __init__(self, module):
        super().__init__(module)
        self.seen, self.wrong = 0, []

    def run_node(self, n):
        value = super().run_node(n)
        # Behind the flatten boundary a stream begins in the order of the features; the first pooling adjoint ends that.
        feature_map = isinstance(value, torch.Tensor) and value.dim() in (4, 5) and min(value.shape[-2:]) > 3
        computed = n.op == "call_function" and n.target not in {*VIEWS, aten.new_empty.default, aten.sum.dim_IntList}
        if feature_map and value.shape[-3] > 1 and computed:
            self.seen += 1
            if value.stride(-3) != 1:
                self.wrong.append(n.name)
        return value
