"""Spellings by kind of step: expressions in ``x`` (and ``y``) of equal value.

Placeholders: ``{c}`` channels of x, ``{h}`` and ``{w}`` its size, ``{p}`` their product, ``{f}`` all entries of a sample, ``self.L`` a layer
called ``{L}``. A spelling begins with a condition and ``?`` where it needs one.
"""

from __future__ import annotations

SUMS = (
    *("{x} + {y}", "{y} + {x}", "torch.add({x}, {y})", "{x}.add({y})", "sum([{x}, {y}])", "{x} - (-{y})"),
    *("torch.stack([{x}, {y}]).sum(0)", "torch.stack([{x}, {y}], 1).sum(1)", "torch.stack([{x}, {y}], -1).sum(-1)"),
    *("torch.stack([{y}, {x}]).mean(0) * 2", "torch.lerp({x}, {y}, 0.5) * 2", "torch.add({x} / 2, {y}, alpha=0.5) * 2"),
    *("torch.einsum('knchw->nchw', torch.stack([{x}, {y}]))", "torch.cat([{x}[None], {y}[None]]).sum(0)"),
    *("torch.cat([{x}, {y}], 1).reshape(-1, 2, {c}, {h}, {w}).sum(1)", "torch.addcmul({x}, {y}, torch.ones_like({y}))"),
    *("torch.einsum('k,knchw->nchw', torch.ones(2).to({x}), torch.stack([{x}, {y}]))", "{x}.clone().add_({y})"),
    *("torch.stack([{x}, {y}], -1) @ torch.ones(2).to({x})", "torch.cat([{x}, {y}], 1).unflatten(1, (2, {c})).sum(1)"),
    *(
        "torch.stack([{x}, {y}]).sum(0, keepdim=True)[0]",
        "(torch.stack([{x}, {y}]) * torch.ones(2, 1, 1, 1, 1).to({x})).sum(0)",
    ),
    *("({x}.flatten(1) + {y}.flatten(1)).reshape_as({x})", "({x}.movedim(1, -1) + {y}.movedim(1, -1)).movedim(-1, 1)"),
    *("torch.stack([{x}, {y}]).flatten(2).sum(0).reshape(-1, {c}, {h}, {w})", "-(-{x} - {y})"),
)
AVERAGES = (
    *("({x} + {y}) / 2", "0.5 * ({x} + {y})", "torch.stack([{x}, {y}]).mean(0)", "torch.lerp({x}, {y}, 0.5)"),
    *("{x} / 2 + {y} / 2", "{x} * 0.5 + {y} * 0.5", "{x} + 0.5 * ({y} - {x})", "torch.stack([{y}, {x}], 1).mean(1)"),
    *(
        "torch.stack([{x} / 2, {y} / 2]).sum(0)",
        "torch.add({x}, {y}).div(2)",
        "torch.lerp({y}, {x}, torch.tensor(0.5).to({x}))",
    ),
)
BLENDS = (
    *(
        "torch.lerp({x}, {y}, 0.3)",
        "0.7 * {x} + 0.3 * {y}",
        "{x} + 0.3 * ({y} - {x})",
        "torch.add({y} * 0.3, {x}, alpha=0.7)",
    ),
    *("{y} * 0.3 + {x} * 0.7", "torch.stack([{x} * 0.7, {y} * 0.3]).sum(0)", "{x}.mul(0.7).add({y}.mul(0.3))"),
    *("torch.stack([{x}, {y}], -1) @ torch.tensor([0.7, 0.3], dtype={x}.dtype)",),
)
DIFFERENCES = (
    "{x} - {y}",
    "{x} + (-{y})",
    "torch.sub({x}, {y})",
    "{x} + -1 * {y}",
    "-({y} - {x})",
    "torch.add({x}, {y}, alpha=-1)",
)
THREE = (
    *("{x} + {y} + {z}", "torch.stack([{x}, {y}, {z}]).sum(0)", "sum([{x}, {y}, {z}])", "({y} + {x}).add({z})"),
    *("torch.stack([{x}, {y}, {z}], 1).mean(1) * 3", "torch.add(torch.add({x}, {y}), {z})", "{z} + ({x} + {y})"),
    *(
        "torch.cat([{x}, {y}, {z}], 1).reshape(-1, 3, {c}, {h}, {w}).sum(1)",
        "torch.einsum('knchw->nchw', torch.stack([{x}, {y}, {z}]))",
    ),
)
WEIGHTED = (
    *("self.mix[0] * {x} + self.mix[1] * {y}", "(torch.stack([{x}, {y}]) * self.mix.view(2, 1, 1, 1, 1)).sum(0)"),
    *("{x} * self.mix[0] + {y} * self.mix[1]", "(torch.stack([{x}, {y}], -1) * self.mix).sum(-1)"),
)
RELUS = (
    *("torch.relu({x})", "F.relu({x})", "nn.ReLU()({x})", "{x}.relu()", "{x}.clamp(min=0)", "{x}.clamp_min(0)"),
    *(
        "torch.maximum({x}, torch.zeros_like({x}))",
        "torch.maximum({x}, torch.tensor(0.0).to({x}))",
        "F.threshold({x}, 0, 0)",
    ),
    *("torch.where({x} > 0, {x}, 0)", "torch.where({x} > 0, {x}, torch.zeros_like({x}))", "{x} * ({x} > 0)"),
    *(
        "{x} * ({x} >= 0).to({x}.dtype)",
        "({x} + {x}.abs()) / 2",
        "{x}.masked_fill({x} < 0, 0)",
        "F.leaky_relu({x}, 0.0)",
    ),
    *(
        "torch.stack([{x}, torch.zeros_like({x})]).amax(0)",
        "-torch.minimum(-{x}, torch.zeros_like({x}))",
        "{x} - {x}.clamp(max=0)",
    ),
    *(
        "{x}.clamp(0, math.inf)",
        "torch.where({x} <= 0, torch.zeros_like({x}), {x})",
        "{x} * torch.where({x} > 0, 1.0, 0.0)",
    ),
    *(
        "{x} * (1 - ({x} < 0).to({x}.dtype))",
        "torch.max({x}, {x}.new_zeros(1))",
        "torch.clip({x}, 0)",
        "F.relu(F.relu({x}))",
    ),
)
RELU6 = (
    *(
        "F.relu6({x})",
        "{x}.clamp(0, 6)",
        "torch.relu({x}).clamp(max=6)",
        "F.hardtanh({x}, 0, 6)",
        "torch.relu({x}.clamp(max=6))",
    ),
    *("torch.minimum(torch.relu({x}), torch.full_like({x}, 6.0))", "nn.ReLU6()({x})"),
)
SILUS = (
    *(
        "F.silu({x})",
        "{x} * torch.sigmoid({x})",
        "torch.sigmoid({x}) * {x}",
        "{x} / (1 + torch.exp(-{x}))",
        "nn.SiLU()({x})",
    ),
    *("{x} * (1 / (1 + torch.exp(-{x})))", "{x}.mul({x}.sigmoid())", "{x} * 0.5 * (1 + torch.tanh({x} / 2))"),
)
GELUS = (
    *(
        "F.gelu({x})",
        "{x} * 0.5 * (1 + torch.erf({x} / math.sqrt(2)))",
        "0.5 * {x} * (1 + torch.erf({x} * math.sqrt(0.5)))",
    ),
    *("{x} * (0.5 * (1 + torch.erf({x} / 2**0.5)))", "nn.GELU()({x})"),
)
GELU_TANHS = (
    "F.gelu({x}, approximate='tanh')",
    "0.5 * {x} * (1 + torch.tanh(math.sqrt(2 / math.pi) * ({x} + 0.044715 * {x} ** 3)))",
    "0.5 * {x} * (1 + torch.tanh(math.sqrt(2 / math.pi) * ({x} + 0.044715 * {x} * {x} * {x})))",
)
HARDSWISHES = (  # PyTorch's own hardsigmoid takes 1 / 6 in single precision
    *("F.hardswish({x})", "{x} * F.relu6({x} + 3) / 6", "{x} * ({x} + 3).clamp(0, 6) / 6"),
    *("{x} * (F.relu6({x} + 3) / 6)", "nn.Hardswish()({x})"),
)
MISHES = (
    "F.mish({x})",
    "{x} * torch.tanh(F.softplus({x}))",
    "{x} * F.softplus({x}).tanh()",
    "{x} * torch.tanh(torch.log(1 + torch.exp({x})))",
)
LEAKY = (
    *(
        "F.leaky_relu({x}, 0.2)",
        "torch.where({x} > 0, {x}, 0.2 * {x})",
        "torch.maximum({x}, 0.2 * {x})",
        "nn.LeakyReLU(0.2)({x})",
    ),
    "F.prelu({x}, torch.full((1,), 0.2, dtype={x}.dtype))",
)
ACTIVATIONS = (RELUS, RELUS, RELUS, RELU6, SILUS, GELUS, GELU_TANHS, HARDSWISHES, MISHES, LEAKY)

# Behind a layer's path {L}, its vectors over channels as maps {L:...}.
_S = "({L}.weight / torch.sqrt({L}.running_var + {L}.eps))"
_T = f"({{L}}.bias - {{L}}.running_mean * {_S})"
_V = ".view(1, -1, 1, 1)"
NORMS = (
    "{L}({x})",
    "F.batch_norm({x}, {L}.running_mean, {L}.running_var, {L}.weight, {L}.bias, False, 0.0, {L}.eps)",
    f"({{x}} - {{L}}.running_mean{_V}) / torch.sqrt({{L}}.running_var{_V} + {{L}}.eps) * {{L}}.weight{_V} + {{L}}.bias{_V}",
    f"{{L}}.weight{_V} * (({{x}} - {{L}}.running_mean{_V}) * torch.rsqrt({{L}}.running_var{_V} + {{L}}.eps)) + {{L}}.bias{_V}",
    f"{{x}} * {_S}{_V} + {_T}{_V}",
    f"torch.addcmul({_T}{_V}, {{x}}, {_S}{_V})",
    f"({{x}} - {{L}}.running_mean{_V}) * {_S}{_V} + {{L}}.bias{_V}",
    f"({{x}}.permute(0, 2, 3, 1) * {_S} + {_T}).permute(0, 3, 1, 2)",
    "F.batch_norm({x}.flatten(2), {L}.running_mean, {L}.running_var, {L}.weight, {L}.bias, False, 0.0, {L}.eps).reshape_as({x})",
)
CHANNEL_LAYERS = (  # a convolution with a kernel of size 1
    "F.conv2d({x}, {L}.weight, {L}.bias)",
    "{L}({x})",
    "F.linear({x}.permute(0, 2, 3, 1), {L}.weight.flatten(1), {L}.bias).permute(0, 3, 1, 2)",
    "torch.einsum('nchw,oc->nohw', {x}, {L}.weight[..., 0, 0]) + {L}.bias.view(1, -1, 1, 1)",
    "({L}.weight.flatten(1) @ {x}.flatten(2) + {L}.bias[:, None]).reshape(-1, {L}.out_channels, {h}, {w})",
    "torch.matmul({x}.movedim(1, -1), {L}.weight.flatten(1).t()).movedim(-1, 1) + {L}.bias.view(1, -1, 1, 1)",
    "({x}[:, None] * {L}.weight.flatten(1)[:, :, None, None]).sum(2) + {L}.bias.view(1, -1, 1, 1)",
    "F.conv1d({x}.flatten(2), {L}.weight.flatten(2), {L}.bias).reshape(-1, {L}.out_channels, {h}, {w})",
)
GLOBAL_MEANS = (
    *("{x}.mean((2, 3))", "F.adaptive_avg_pool2d({x}, 1).flatten(1)", "F.avg_pool2d({x}, ({h}, {w})).flatten(1)"),
    *("{x}.sum((2, 3)) / {p}", "{x}.sum((2, 3)) / ({x}.shape[2] * {x}.shape[3])", "{x}.flatten(2).mean(-1)"),
    *("{x}.mean(3).mean(2)", "{x}.mean((-1, -2), keepdim=True)[:, :, 0, 0]", "{x}.sum(3).sum(2) * (1 / {p})"),
    *("nn.AdaptiveAvgPool2d(1)({x}).squeeze(-1).squeeze(-1)", "torch.einsum('nchw->nc', {x}) / {p}"),
    *(
        "{x}.permute(0, 2, 3, 1).mean((1, 2))",
        "{x}.reshape(-1, {c}, {p}).mean(2)",
        "F.adaptive_avg_pool1d({x}.flatten(2), 1).squeeze(-1)",
    ),
    *("{x}.mean(3).sum(2) / {h}", "F.adaptive_avg_pool2d({x}, (1, 1)).reshape({x}.shape[0], -1)"),
)
FLATTENINGS = (
    *(
        "{x}.flatten(1)",
        "{x}.reshape({x}.shape[0], -1)",
        "{x}.reshape(-1, {f})",
        "torch.flatten({x}, 1)",
        "nn.Flatten()({x})",
    ),
    *(
        "{x}.flatten(2).flatten(1)",
        "{x}.reshape({x}.size(0), -1, 1, 1).squeeze(-1).squeeze(-1)",
        "{x}.reshape(-1, {c}, {p}).reshape(-1, {f})",
    ),
    *("{x}.reshape(-1, {c} * {h}, {w}).flatten(1)", "{x}.permute(0, 2, 3, 1).permute(0, 3, 1, 2).flatten(1)"),
    *("torch.cat([{x}[:, :1], {x}[:, 1:]], 1).flatten(1)", "torch.cat([part.flatten(1) for part in {x}.unbind(1)], 1)"),
    "{x}.permute(0, 2, 3, 1).reshape(-1, {p}, {c}).transpose(1, 2).flatten(1)",
)
POSITIONS_FIRST = (  # another order of the features
    *("{x}.permute(0, 2, 3, 1).flatten(1)", "{x}.permute(0, 2, 3, 1).flatten(1, 2).flatten(1)"),
    *("{x}.movedim(1, -1).reshape(-1, {f})", "{x}.flatten(2).transpose(1, 2).flatten(1)"),
)
DENSE = (
    *(
        "{L}({x})",
        "F.linear({x}, {L}.weight, {L}.bias)",
        "{x} @ {L}.weight.t() + {L}.bias",
        "torch.addmm({L}.bias, {x}, {L}.weight.T)",
    ),
    *("({x}[:, None] * {L}.weight).sum(-1) + {L}.bias", "torch.einsum('nd,kd->nk', {x}, {L}.weight) + {L}.bias"),
    *("({x}[:, :, None] * {L}.weight.t()).sum(1) + {L}.bias", "({L}.weight @ {x}[..., None])[..., 0] + {L}.bias"),
    *("torch.bmm({L}.weight.expand({x}.shape[0], -1, -1), {x}[:, :, None]).squeeze(-1) + {L}.bias",),
    *("torch.baddbmm({L}.bias, {x}[:, None], {L}.weight.t().expand({x}.shape[0], -1, -1))[:, 0]",),
    *(
        "F.conv2d({x}[:, :, None, None], {L}.weight[:, :, None, None], {L}.bias).flatten(1)",
        "F.linear({x}[:, None], {L}.weight, {L}.bias)[:, 0]",
    ),
    *(
        "F.conv1d({x}[..., None], {L}.weight[..., None], {L}.bias).squeeze(-1)",
        "torch.matmul({x}.unsqueeze(1), {L}.weight.t()).squeeze(1) + {L}.bias",
    ),
    *(
        "torch.mul({x}.unsqueeze(1), {L}.weight.unsqueeze(0)).sum(dim=2).add({L}.bias)",
        "F.linear({x}, {L}.weight) + {L}.bias",
    ),
)
