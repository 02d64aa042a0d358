"""Programs of common operations are made functional one call at a time, as PyTorch does by tracing them again."""

import pytest
import torch
from classifiers import SMALL, small_classifier
from networks import basic_resnet, reuse, small_vgg
from torch import nn
from torch.nn import functional as F

import agf_fx
from agf_fx.frontend import tracing
from agf_fx.frontend.functional import functional

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Written(nn.Module):
    """A convolution, whatever writes to its result, and a head."""

    def __init__(self, write):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)
        self.count = nn.Buffer(torch.ones(4, 1, 1))
        self.write = write

    def forward(self, images):
        return self.head(self.write(self, self.conv(images)).mean((2, 3)))


def captured(model, images=IMAGES):
    """The canonical graph, and whether the exported program was made functional by exchanging calls."""
    exchanged = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracing, "functional", lambda *given: exchanged.append(functional(*given)) or exchanged[-1])
        graph = agf_fx.capture(model, images)
    return graph, exchanged[-1]


def traced_again(model, images=IMAGES):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracing, "functional", lambda *given: False)
        return agf_fx.capture(model, images)


@pytest.mark.parametrize("build", [basic_resnet, small_vgg, reuse])
def test_networks(build):
    model = build().float()
    images = torch.zeros(2, 3, 32, 32)
    graph, exchanged = captured(model, images)
    assert exchanged
    assert str(graph) == str(traced_again(model, images))


@pytest.mark.parametrize("family", ["mobilenetv3", "shufflenetv2", "vision_transformer"])
def test_torchvision(family):
    model = small_classifier(family)
    images = torch.zeros(2, 3, SMALL[family][1], SMALL[family][1])
    graph, exchanged = captured(model, images)
    assert exchanged
    assert str(graph) == str(traced_again(model, images))


class Everything(nn.Module):
    """Every operation that is known, but for those of networks above."""

    def __init__(self):
        super().__init__()
        self.signal = nn.ModuleList([nn.Conv1d(3, 4, 3), nn.Conv1d(4, 4, 3, padding="same"), nn.MaxPool1d(2)])
        self.volume = nn.Sequential(nn.Conv3d(3, 4, 3, padding="same"), nn.MaxPool3d(2), nn.Conv3d(4, 4, (1, 1, 3)))
        self.picture = nn.ModuleList([nn.Conv2d(3, 4, 3, padding="same"), nn.GroupNorm(2, 4), nn.AvgPool2d(2)])
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(8, 5)

    def forward(self, images):
        x = self.picture[0](images)
        for write in (
            torch.relu_,
            F.relu6,
            F.hardtanh,
            F.hardswish,
            F.hardsigmoid,
            F.leaky_relu,
            F.elu,
            F.silu,
            F.mish,
        ):
            x = write(x) if write is torch.relu_ else write(x, inplace=True)
        x = self.picture[1](x.sub_(0.25).mul_(images[:, :1] + 1).add_(1, alpha=2)).sigmoid_()
        x = self.picture[2](self.picture[1](x).tanh_())
        first, second = F.adaptive_avg_pool2d(x, (4, 4)).flatten(2).softmax(2).split(2, 1)
        x = torch.cat([first.relu(), *second.chunk(2, 1)], 1) / 2
        x = F.gelu(self.norm(x.permute(0, 2, 1))).unsqueeze(1)
        x = (
            F.scaled_dot_product_attention(x, x, x).squeeze(1).transpose(1, 2)
            + x.matmul(x.transpose(2, 3)).mean((2, 3))[:, None]
        )
        row = self.signal[2](self.signal[1](self.signal[0](images[:, :, 3])).relu_())
        row = F.adaptive_avg_pool1d(F.avg_pool1d(row, 2), 1).relu_()
        deep = self.volume(images.unflatten(2, (4, 4)).expand(len(images), 3, 4, 4, 16)).relu_()
        deep = F.adaptive_avg_pool3d(F.avg_pool3d(deep, (1, 1, 2)), 1)
        x = x.mean(2) + row.squeeze(2) + torch.cat([part.reshape(-1, 1) for part in deep.view(-1, 4).unbind(1)], 1)
        return self.head(torch.cat([x, deep.view(len(images), 4)], 1))


def test_every_operation():
    torch.manual_seed(0)
    graph, exchanged = captured(Everything().eval())
    assert exchanged
    assert str(graph) == str(traced_again(Everything().eval()))


def dropped(self, x):
    y = F.dropout(x, training=False)  # is x
    F.relu_(y)
    return F.alpha_dropout(F.dropout2d(x * 2, training=False).neg(), training=False)


def old_value(self, x):
    y = torch.sigmoid(x)
    return y + x.relu_()


def old_name(self, x):
    y = x
    y += 1
    return x.mul_(y)


def chain(self, x):
    y = F.hardswish(self.norm(x), inplace=True)
    z = F.relu(y, inplace=True)
    z.add_(y, alpha=2).sub_(x)
    return y


def at_the_end(self, x):
    return x.add_(x)


def unused_results(self, x):
    largest, _ = x.max(3, keepdim=True)
    return x.sub_(largest)


EXCHANGED = [dropped, old_value, old_name, chain, at_the_end, unused_results]


def of_a_view(self, x):
    x.flatten(2).relu_()
    return x


def beside_a_view(self, x):
    y = x.permute(0, 1, 3, 2)
    x.add_(1)
    return y


def of_an_unsafe_view(self, x):
    torch.ops.aten._unsafe_view.default(x, (x.shape[0], 4, 14 * 14)).relu_()
    return x


def beside_an_unsafe_view(self, x):
    y = torch.ops.aten._unsafe_view.default(x, (x.shape[0], 4, 14, 14, 1))
    x.relu_()
    return y.squeeze(4)


def beside_a_view_of_another_name(self, x):
    y = F.relu(x, inplace=True).transpose(2, 3)
    x.add_(1)
    return y


def of_a_part(self, x):
    a, b = x.chunk(2, 1)
    a.relu_()
    return torch.cat([b, x], 1)[:, 2:]


def of_a_dropped_view(self, x):
    y = F.dropout(x, training=False).transpose(2, 3)
    x.relu_()
    return y


def of_a_weight(self, x):
    weight = self.count.mul_(1)
    return x * weight


def of_another_dtype(self, x):
    return x.add_(torch.arange(x.shape[-1]))


def of_a_function_that_may_return_a_view(self, x):
    y = x.reshape(x.shape)
    y.relu_()
    return x


def of_an_unknown_operation(self, x):
    return torch.special.logit(x.sigmoid()).relu_()


def of_numbers_in_forward(self, x):
    return x[:, :, :, [0, 2, 2]].relu_()


def of_what_pytorch_writes_in_python(self, x):
    return F.hardshrink(x).relu_()


TRACED = [
    *(of_a_view, beside_a_view, of_a_part, of_a_dropped_view, of_a_weight, of_another_dtype),
    *(of_what_pytorch_writes_in_python, of_an_unsafe_view, beside_an_unsafe_view),
    beside_a_view_of_another_name,
    *(of_a_function_that_may_return_a_view, of_an_unknown_operation, of_numbers_in_forward),
]


@pytest.mark.parametrize("write", [*EXCHANGED, *TRACED], ids=lambda write: write.__name__)
def test_writing(write):
    torch.manual_seed(0)
    model = Written(write).eval()
    graph, exchanged = captured(model)  # and compared with the model on images
    assert exchanged == (write in EXCHANGED)
    assert str(graph) == str(traced_again(model))


def test_a_program_that_is_traced_again_stays_as_it_is():
    program = torch.export.export(Written(of_a_view).eval(), (IMAGES,), strict=False)
    before = str(program.graph)
    assert not functional(program)
    assert str(program.graph) == before
    assert "relu_" in before


def test_images_that_are_written_to():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small_vgg().float()

        def forward(self, images):
            return self.net(images.mul_(2))

    images = torch.zeros(2, 3, 32, 32)
    graph, exchanged = captured(Model().eval(), images)
    assert not exchanged
    assert str(graph) == str(traced_again(Model().eval(), images))
