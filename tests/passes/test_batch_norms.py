import pytest
import torch
from networks import basic_resnet, load_golden, small_vgg
from optimising import around
from torch import nn

from agf_fx.ir.vocabulary import TRANSPOSED_CONVOLUTIONS
from agf_fx.passes.batch_norms import fold_batch_norms

aten = torch.ops.aten


class Norms(nn.Module):
    """Batch norms that can be folded (with and without affine parameters and bias) and one that cannot."""

    def __init__(self):
        super().__init__()
        self.stem, self.stem_bn = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.plain, self.plain_bn = nn.Conv2d(4, 5, 3, bias=False), nn.BatchNorm2d(5, affine=False)
        self.grouped, self.grouped_bn = nn.Conv2d(5, 10, 3, groups=5), nn.BatchNorm2d(10)
        self.read_twice, self.read_twice_bn = nn.Conv2d(10, 10, 1), nn.BatchNorm2d(10)
        self.fc, self.fc_bn, self.head = nn.Linear(40, 8), nn.BatchNorm1d(8), nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.stem_bn(self.stem(x)))
        x = torch.relu(self.plain_bn(self.plain(x)))
        x = torch.relu(self.grouped_bn(self.grouped(x)))
        y = self.read_twice(x)
        x = torch.relu(self.read_twice_bn(y) + y)
        x = nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return self.head(torch.relu(self.fc_bn(self.fc(x))))


class OtherDimensions(nn.Module):
    """Convolutions of one and of three spatial dimensions."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.line, self.line_bn = nn.Conv1d(4, 6, 5, 2, groups=2), nn.BatchNorm1d(6)
        self.volume, self.volume_bn = nn.Conv3d(2, 4, (1, 3, 3), bias=False), nn.BatchNorm3d(4)
        self.fc, self.head = nn.Linear(6, 4), nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        line = torch.relu(self.line_bn(self.line(x.flatten(2)))).mean(2)
        volume = torch.relu(self.volume_bn(self.volume(x.unflatten(1, (2, 2))))).mean((2, 3, 4))
        return self.head(torch.cat([torch.relu(self.fc(line)), volume], 1))


class NormsOfTokens(nn.Module):
    """Norms along another dimension than a layer's outputs, and behind a product of two signals."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.fc, self.head = nn.Linear(4, 16), nn.Linear(64, 5)
        self.fc_bn, self.product_bn = nn.BatchNorm1d(16), nn.BatchNorm1d(16)

    def forward(self, x):
        tokens = torch.relu(self.conv(torch.relu(self.stem(x)))).flatten(2).transpose(1, 2)  # (N, 16, 4)
        weights = torch.softmax(self.fc_bn(self.fc(tokens)), -1)  # (N, 16, 16)
        return self.head(torch.relu(self.product_bn(weights @ tokens)).flatten(1))


def with_statistics(model):
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            if module.affine:
                nn.init.uniform_(module.weight, -1.5, 1.5, generator=generator)
                nn.init.uniform_(module.bias, -1, 1, generator=generator)
                with torch.no_grad():
                    module.weight[0] = 0  # a channel that a residual network's initialisation switches off
    return model.double().eval()


def test_norms_go_where_nothing_else_reads_the_layer():
    found = around(fold_batch_norms, with_statistics(Norms()), 12)
    assert found.count(aten.batch_norm.default) == (5, 1)
    (left,) = [n for n in found.after.graph.nodes if n.target is aten.batch_norm.default]
    assert left.meta["layer"] == "read_twice_bn"
    assert found.difference <= 1e-12


def test_norms_behind_other_convolutions_go_in_both_directions():
    torch.manual_seed(0)
    found = around(fold_batch_norms, with_statistics(OtherDimensions()), 8)
    assert found.count(aten.batch_norm.default) == (2, 0)
    for layer in ("line", "volume"):
        (product,) = {
            n
            for n in found.after.graph.nodes
            if n.target in TRANSPOSED_CONVOLUTIONS and n.meta["layer"] == layer and n.meta["stream"] == "gradient"
        }
        assert product.args[1].target is aten.mul.Tensor  # the scaled weight
        assert product.args[0].args[0].target is not aten.mul.Tensor
    assert found.difference <= 1e-12


def test_norms_that_do_not_scale_what_a_layer_sums_over_stay():
    torch.manual_seed(0)
    found = around(fold_batch_norms, with_statistics(NormsOfTokens()), 6)
    for target in (aten.batch_norm.default, aten.mul.Tensor):
        before, after = found.count(target)
        assert before == after
    assert found.difference == 0


def test_relevance_keeps_the_unfolded_weight():
    found = around(fold_batch_norms, with_statistics(Norms()), 12)
    absolute = [n for n in found.after.graph.nodes if n.target is aten.abs.default and n.meta["rule"] != "z_box"]
    assert {"p_plain_weight", "p_grouped_weight"} <= {str(n.args[0]) for n in absolute}


def test_before_and_after():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()
    )
    model.append(nn.Linear(4 * 16, 5))
    found = around(fold_batch_norms, with_statistics(model), 8)
    conv = "[1, 1], [0, 0], [1, 1], 1)"
    transposed = "None, [1, 1], [0, 0], [0, 0], 1, [1, 1])"
    assert calls_of(found.before, "2", "3") == [
        f"%_2 = conv2d(%_1, %p_2_weight, None, {conv}",
        "%_3 = batch_norm(%_2, %p_3_weight, %p_3_bias, %b_3_running_mean, %b_3_running_var, False, 0.1, 1e-05, False)",
        "%_3_grad = add.Scalar(%b_3_running_var, 1e-05)",
        "%_3_grad_1 = rsqrt(%_3_grad)",
        "%_3_grad_2 = mul.Tensor(%p_3_weight, %_3_grad_1)",
        "%_3_grad_3 = reshape(%_3_grad_2, [-1, 1, 1])",
        "%_3_grad_4 = mul.Tensor(%_4_grad, %_3_grad_3)",
        "%_2_grad = flatten.using_ints(%_3_grad_4, 0, 1)",
        f"%_2_grad_1 = conv_transpose2d.input(%_2_grad, %p_2_weight, {transposed}",
        "%_2_grad_2 = reshape(%_2_grad_1, [%K, -1, 4, 6, 6])",
    ]
    assert calls_of(found.after, "2", "3") == [
        "%_2_1 = add.Scalar(%b_3_running_var, 1e-05)",
        "%_2_2 = rsqrt(%_2_1)",
        "%_2_3 = mul.Tensor(%p_3_weight, %_2_2)",
        "%_2_4 = neg(%b_3_running_mean)",
        "%_2_5 = mul.Tensor(%_2_4, %_2_3)",
        "%_2_6 = add.Tensor(%_2_5, %p_3_bias)",
        "%_2_7 = reshape(%_2_3, [-1, 1, 1, 1])",
        "%_2_8 = mul.Tensor(%p_2_weight, %_2_7)",
        f"%_2 = conv2d(%_1, %_2_8, %_2_6, {conv}",
        "%_3_grad = add.Scalar(%b_3_running_var, 1e-05)",
        "%_3_grad_1 = rsqrt(%_3_grad)",
        "%_3_grad_2 = mul.Tensor(%p_3_weight, %_3_grad_1)",
        "%_3_grad_3 = reshape(%_3_grad_2, [-1, 1, 1])",
        "%_2_grad = flatten.using_ints(%_4_grad, 0, 1)",
        "%_2_grad_3 = reshape(%_3_grad_2, [-1, 1, 1, 1])",
        "%_2_grad_4 = mul.Tensor(%p_2_weight, %_2_grad_3)",
        f"%_2_grad_1 = conv_transpose2d.input(%_2_grad, %_2_grad_4, {transposed}",
        "%_2_grad_2 = reshape(%_2_grad_1, [%K, -1, 4, 6, 6])",
    ]


def calls_of(explanation, *layers):
    from agf_fx.ir.text import call

    wanted = ("forward", "gradient")
    return [
        call(n)
        for n in explanation.graph.nodes
        if n.meta.get("layer") in layers and n.meta["stream"] in wanted and not n.name.endswith("_r")
    ]


@pytest.mark.parametrize("build", [small_vgg, basic_resnet, lambda: load_golden("resnet_tiny.in64").model])
def test_outputs_stay(build):
    found = around(fold_batch_norms, build(), 64)
    before, after = found.count(aten.batch_norm.default)
    assert after <= 1 < before  # the one behind an input layer without bias stays
    assert found.difference <= 1e-11


class ComputedStatistics(nn.Module):
    """A batch norm whose statistics are computed from a weight, after the layer in front of it."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
        self.register_buffer("statistics", torch.rand(4) + 0.3)

    def forward(self, x):
        y = self.conv(x)
        y = nn.functional.batch_norm(y, self.statistics - 0.5, torch.sqrt(self.statistics))
        return self.fc(torch.relu(y).mean((2, 3)))


def test_statistics_may_be_computed_after_the_layer():
    torch.manual_seed(0)
    found = around(fold_batch_norms, ComputedStatistics().double().eval(), 9)
    assert found.count(aten.batch_norm.default) == (1, 0)
    assert found.difference <= 1e-12
