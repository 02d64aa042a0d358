from dataclasses import replace

import pytest
import torch
from networks import basic_resnet, small_vgg
from optimising import around
from torch import nn

from agf_fx.ir.rewriting import substitute
from agf_fx.ir.vocabulary import Family
from agf_fx.methods.agf import attribution_guided_factorization
from agf_fx.methods.table import RuleTable, family, op
from agf_fx.options import AGFOptions
from agf_fx.passes.common_subexpressions import eliminate_common_subexpressions
from agf_fx.passes.gradient_masks import drop_gradient_masks
from agf_fx.pipeline import OPTIMISATIONS
from agf_fx.rules import lrp
from agf_fx.rules.gradients import guided

aten = torch.ops.aten


@pytest.mark.parametrize("build", [small_vgg, basic_resnet])
def test_masks_go_where_a_relu_stands_behind_and_a_product_with_them(build):
    found = around(drop_gradient_masks, build(), 32)
    assert masks(found.before)
    assert not masks(found.after)
    assert found.difference <= 1e-15
    eliminate_common_subexpressions(found.after)
    assert products(found.after) == products(found.before) - len(masks(found.before))


class PoolBehind(nn.Module):
    """A convolution without bias into a pooling layer: its output is exactly 0 where the image is."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Conv2d(4, 6, 3, padding=1, bias=False)
        self.norm, self.fc = nn.BatchNorm2d(6), nn.Linear(6 * 16, 5)

    def forward(self, x):
        x = self.conv(torch.relu(self.stem(x)))
        return self.fc(torch.relu(nn.functional.avg_pool2d(x, 2)).flatten(1))


class ReluAndPoolBehind(PoolBehind):
    """Two readers, of which one is no ReLU."""

    def forward(self, x):
        x = self.norm(self.conv(torch.relu(self.stem(x))))
        return self.fc(nn.functional.avg_pool2d(torch.relu(x) + x, 2).flatten(1))


class NormBehind(PoolBehind):
    """A batch norm in between lets a ReLU count."""

    def forward(self, x):
        x = self.norm(self.conv(torch.relu(self.stem(x))))
        return self.fc(nn.functional.avg_pool2d(torch.relu(x), 2).flatten(1))


class Relu6Behind(PoolBehind):
    def forward(self, x):
        x = nn.functional.relu6(self.norm(self.conv(torch.relu(self.stem(x)))))
        return self.fc(nn.functional.avg_pool2d(x, 2).flatten(1))


class SampleNormBehind(PoolBehind):
    """A norm by the statistics of the sample hands gradients to entries without relevance."""

    def forward(self, x):
        x = nn.functional.group_norm(self.conv(torch.relu(self.stem(x))), 2)
        return self.fc(nn.functional.avg_pool2d(torch.relu(x), 2).flatten(1))


class TwoNormsBehind(PoolBehind):
    """The fan-out has no relevance where the convolution is 0, and the ReLUs behind the norms are open there."""

    def forward(self, x):
        x = self.conv(torch.relu(self.stem(x)))
        x = torch.relu(self.norm(x) + 0.5) + torch.relu(self.norm(x) + 1.0)
        return self.fc(nn.functional.avg_pool2d(x, 2).flatten(1))


class GateBehind(nn.Module):
    """Squeeze-excite by a hard sigmoid: channels whose gate is shut have gradients and no relevance."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.squeeze, self.excite = nn.Conv2d(6, 3, 1), nn.Conv2d(3, 6, 1)
        self.last, self.fc = nn.Conv2d(6, 6, 1), nn.Linear(6, 5)
        with torch.no_grad():
            self.excite.bias[:3] = -5

    def gate(self, x):
        x = torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)) + 1)
        return nn.functional.hardsigmoid(self.excite(x))

    def forward(self, x):
        x = torch.relu(self.conv(torch.relu(self.stem(x))))
        return self.fc(torch.relu(self.last(x * self.gate(x))).mean((2, 3)))


class GateFartherBehind(GateBehind):
    """Another convolution in between."""

    def forward(self, x):
        x = torch.relu(self.conv(torch.relu(self.stem(x))))
        x = self.last(x) + 3
        return self.fc(torch.relu(x * self.gate(x)).mean((2, 3)))


class AttentionBehind(PoolBehind):
    """A matrix product whose weights a softmax makes of the same features."""

    def forward(self, x):
        x = torch.relu(self.conv(torch.relu(self.stem(x)))).flatten(2)
        return self.fc((x @ torch.softmax(x.transpose(1, 2) @ x, -1)).unflatten(2, (8, 8))[..., ::2, ::2].flatten(1))


BEHIND = [
    (PoolBehind, 1),
    (ReluAndPoolBehind, 1),
    (NormBehind, 0),
    (Relu6Behind, 0),
    (SampleNormBehind, 1),
    (TwoNormsBehind, 1),
    (GateBehind, 1),
    (GateFartherBehind, 1),
    (AttentionBehind, 1),
]


@pytest.mark.parametrize(("build", "left"), BEHIND)
def test_masks_stay_where_the_proof_does_not_hold(build, left):
    torch.manual_seed(0)
    found = around(drop_gradient_masks, build().double().eval(), 8)
    assert (len(masks(found.before)), len(masks(found.after))) == (1, left)
    assert found.difference <= 1e-15


@pytest.mark.parametrize("build", [SampleNormBehind, GateBehind])
def test_masks_that_stay_are_needed(build):
    def drop_all(explanation):
        for mask in masks(explanation):
            substitute(mask, mask.args[0])
        return explanation

    torch.manual_seed(0)
    found = around(drop_all, build().double().eval(), 8, prefix=OPTIMISATIONS.index(drop_gradient_masks))
    assert found.difference > 1e-3


def test_before_and_after():
    torch.manual_seed(0)
    found = around(drop_gradient_masks, NormBehind().double().eval(), 8)
    (mask,) = masks(found.before)
    assert [str(mask.args[0]), mask.args[1].target, mask.args[1].args[0].target] == [
        "norm_grad_4",
        aten.abs.default,
        aten.sign.default,
    ]
    (reader,) = mask.users
    same = next(node for node in found.after.graph.nodes if node.name == reader.name)
    assert str(same.args[0]) == "norm_grad_4"


def masks(explanation):
    """Products of a gradient with the mask of a relevance."""
    return [
        node
        for node in explanation.graph.nodes
        if node.target is aten.mul.Tensor
        and isinstance(node.args[0], torch.fx.Node)
        and node.args[0].meta.get("stream") == "gradient"
        and isinstance(node.args[1], torch.fx.Node)
        and node.args[1].target is aten.abs.default
    ]


def products(explanation):
    return sum(node.target is aten.conv_transpose2d.input for node in explanation.graph.nodes)


def unfaithful():
    """AGF, but linear layers by z⁺: inhibiting features have a gradient, and no relevance."""
    method = attribution_guided_factorization(AGFOptions())
    gradient, relevance = method.streams
    table = RuleTable.of([(family(Family.LINEAR), lrp.z_plus())]) + relevance.rules
    return replace(method, streams=(gradient, replace(relevance, rules=table)))


class TwoLayersBehind(PoolBehind):
    """A convolution whose mask the rules of AGF make superfluous."""

    def __init__(self):
        super().__init__()
        self.hidden, self.last = nn.Linear(6 * 16, 3), nn.Linear(3, 5)
        with torch.no_grad():
            self.hidden.weight[:, :48] = -self.hidden.weight[:, :48].abs()  # features that only inhibit
            self.hidden.bias += 1  # in units that are active nevertheless

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(torch.relu(self.stem(x)))))
        return self.last(torch.relu(self.hidden(nn.functional.avg_pool2d(x, 2).flatten(1))))


def test_masks_stay_under_a_table_that_is_not_faithful_and_are_needed():
    def claim_all_faithful(explanation):
        names = frozenset(node.name for node in explanation.canonical.calls)
        return drop_gradient_masks(replace(explanation, faithful=names))

    torch.manual_seed(0)
    model = TwoLayersBehind().double().eval()
    assert len(masks(around(drop_gradient_masks, model, 8).after)) == 0
    kept = around(drop_gradient_masks, model, 8, method=unfaithful())
    assert len(masks(kept.after)) == len(masks(kept.before)) == 1
    place = OPTIMISATIONS.index(drop_gradient_masks)
    dropped = around(claim_all_faithful, model, 8, prefix=place, method=unfaithful())
    assert len(masks(dropped.after)) == 0
    assert dropped.difference > 1e-3


def test_masks_stay_beside_a_gradient_that_is_none():
    method = unfaithful()
    gradient, relevance = attribution_guided_factorization(AGFOptions()).streams
    guided_relus = RuleTable.of([(op(aten.relu.default), guided)]) + gradient.rules
    method = replace(method, streams=(replace(gradient, rules=guided_relus), relevance))
    torch.manual_seed(0)
    found = around(drop_gradient_masks, TwoLayersBehind().double().eval(), 8, method=method)
    assert len(masks(found.after)) == 1
