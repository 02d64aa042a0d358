"""Matrix products and attention."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from cases import CHANNELS, HEIGHT, WIDTH, Apply, Row, family, random
from torch import Tensor, nn

from agf_fx.ir.vocabulary import Family

aten = torch.ops.aten
F = torch.nn.functional

TOKENS, HEADS = 6, 2


def sequence(x: Tensor) -> Tensor:
    """Few tokens, for oracles are quadratic in the number of attention weights: (N, TOKENS, CHANNELS)."""
    return x[:, :, 2:5, 1:3].flatten(2).transpose(1, 2)


def heads(x: Tensor) -> Tensor:
    """(N, HEADS, TOKENS, CHANNELS / HEADS)."""
    return sequence(x).reshape(-1, TOKENS, HEADS, CHANNELS // HEADS).transpose(1, 2)


def mask(boolean: bool) -> Tensor:
    """Random, with every query allowed to attend to itself."""
    allowed = (torch.arange(TOKENS * TOKENS).reshape(TOKENS, TOKENS) % 5 > 1) | torch.eye(TOKENS, dtype=torch.bool)
    return allowed if boolean else torch.where(allowed, torch.linspace(-1, 1, TOKENS), -math.inf)


def attention(**options: object) -> Callable[[], nn.Module]:
    """Three signals as queries, keys and values of PyTorch's own attention, with a mask if one is given."""
    given = options.pop("mask", None)
    if given is None:
        return lambda: Apply(lambda q, k, v: F.scaled_dot_product_attention(heads(q), heads(k), heads(v), **options))
    return lambda: Apply(
        lambda q, k, v, m: F.scaled_dot_product_attention(heads(q), heads(k), heads(v), attn_mask=m, **options), given
    )


def grouped_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Keys and values of one head serve two heads of queries."""
    return F.scaled_dot_product_attention(heads(q), heads(k)[:, :1], heads(v)[:, 1:], enable_gqa=True)


def by_hand(hide: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], nn.Module]:
    """Attention written out, with scores hidden by a constant."""

    def forward(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
        return hide(heads(q) @ heads(k).transpose(-2, -1) * 0.7, hidden).softmax(-1) @ heads(v)

    return lambda: Apply(forward, ~mask(boolean=True))


def by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.einsum("nhqd,nhkd->nhqk", heads(q), heads(k)).softmax(-1)
    return torch.einsum("nhqk,nhkd->nhqd", weights, heads(v))


def values_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As position attention has it: V Aᵀ."""
    weights = torch.bmm(sequence(q), sequence(k).transpose(1, 2)).softmax(-1)
    return torch.bmm(sequence(v).transpose(1, 2), weights.transpose(1, 2))


def cosine(q: Tensor, k: Tensor, v: Tensor, temperature: Tensor) -> Tensor:
    """As in Swin-V2: queries and keys by their lengths, a learned temperature per head."""
    scores = F.normalize(heads(q), dim=-1) @ F.normalize(heads(k), dim=-1).transpose(-2, -1)
    return (scores * torch.clamp(temperature, max=4.6).exp()).softmax(-1) @ heads(v)


class SelfAttention(nn.Module):
    """PyTorch's module on one signal."""

    def __init__(self, batch_first: bool, need_weights: bool, given: Tensor | None = None) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(CHANNELS, HEADS, batch_first=batch_first)
        nn.init.normal_(self.attention.in_proj_weight)
        nn.init.normal_(self.attention.in_proj_bias)
        self.batch_first, self.need_weights = batch_first, need_weights
        self.register_buffer("mask", given)

    def forward(self, x: Tensor) -> Tensor:
        x = sequence(x) if self.batch_first else sequence(x).transpose(0, 1)
        found, _ = self.attention(x, x, x, need_weights=self.need_weights, attn_mask=self.mask)
        return found if self.batch_first else found.transpose(0, 1)


ATTENTION: dict[str, Callable[[], nn.Module]] = {
    "PyTorch's own": attention(),
    "PyTorch's own, scaled": attention(scale=0.3),
    "PyTorch's own, causal": attention(is_causal=True),
    "PyTorch's own, added mask": attention(mask=mask(boolean=False)),
    "PyTorch's own, boolean mask": attention(mask=mask(boolean=True)),
    "PyTorch's own, grouped heads": lambda: Apply(grouped_attention),
    "hidden by masked_fill": by_hand(lambda scores, hidden: scores.masked_fill(hidden, -math.inf)),
    "hidden by where": by_hand(lambda scores, hidden: torch.where(hidden, -math.inf, scores)),
    "hidden by a sum": by_hand(
        lambda scores, hidden: scores + torch.zeros_like(hidden, dtype=scores.dtype).masked_fill(hidden, -math.inf)
    ),
    "einsum": lambda: Apply(by_einsum),
    "values first": lambda: Apply(values_first),
    "cosine": lambda: Apply(cosine, random(HEADS, 1, 1)),
}
SELF_ATTENTION: dict[str, Callable[[], nn.Module]] = {
    "module": lambda: SelfAttention(True, need_weights=False),
    "module, weights returned": lambda: SelfAttention(True, need_weights=True),
    "module, tokens first": lambda: SelfAttention(False, need_weights=False),
    "module, tokens first, weights returned": lambda: SelfAttention(False, need_weights=True),
    "module, added mask": lambda: SelfAttention(True, need_weights=False, given=mask(boolean=False)),
    "module, boolean mask": lambda: SelfAttention(True, need_weights=True, given=~mask(boolean=True)),
}

LINEAR: dict[str, Callable[[], nn.Module]] = {
    "matmul": lambda: Apply(torch.matmul, random(WIDTH, 3)),
    "matrix first": lambda: Apply(lambda x, c: c @ x, random(3, HEIGHT)),
    "matmul with a vector": lambda: Apply(torch.matmul, random(WIDTH)),
    "vector first": lambda: Apply(lambda x, c: c @ x, random(HEIGHT)),
    "mm": lambda: Apply(lambda x, c: torch.mm(x.mean((2, 3)), c), random(CHANNELS, 3)),
    "mv": lambda: Apply(lambda x, c: torch.mv(x.mean((2, 3)), c)[:, None], random(CHANNELS)),
    "addmm": lambda: Apply(lambda x, c: torch.addmm(c[0], x.mean((2, 3)), c, beta=2, alpha=3), random(CHANNELS, 3)),
    "function": lambda: Apply(F.linear, random(3, WIDTH)),
    "einsum over channels": lambda: Apply(lambda x, c: torch.einsum("nchw,oc->nohw", x, c), random(3, CHANNELS)),
    "einsum over space": lambda: Apply(lambda x, c: torch.einsum("nchw,hwo->nco", x, c), random(HEIGHT, WIDTH, 3)),
}
BATCHED: dict[str, Callable[[], nn.Module]] = {
    "a matrix per channel": lambda: Apply(torch.matmul, random(CHANNELS, WIDTH, 3)),
    "a matrix per channel, first": lambda: Apply(lambda x, c: c @ x, random(CHANNELS, 3, HEIGHT)),
    "matrices for one channel": lambda: Apply(lambda x, c: x[:, :1] @ c, random(5, WIDTH, 3)),
    "einsum per channel": lambda: Apply(lambda x, c: torch.einsum("nchw,cwo->ncho", x, c), random(CHANNELS, WIDTH, 3)),
}
PRODUCTS: dict[str, Callable[[], nn.Module]] = {
    "two signals": lambda: Apply(lambda x, y: x @ y.transpose(-2, -1)),
    "bmm": lambda: Apply(lambda x, y: torch.bmm(sequence(x), sequence(y).transpose(1, 2))),
    "baddbmm": lambda: Apply(
        lambda x, y, c: torch.baddbmm(c, sequence(x), sequence(y).transpose(1, 2), beta=0.5, alpha=2), random(TOKENS)
    ),
    "repeated heads": lambda: Apply(lambda x, y: x @ y[:, :1].transpose(-2, -1)),
    "bilinear pooling": lambda: Apply(lambda x, y: torch.einsum("nchw,ndhw->ncd", x, y)),
    "bilinear": lambda: Apply(
        lambda x, y, c: F.bilinear(sequence(x), sequence(y), c), random(3, CHANNELS, CHANNELS) - 1
    ),
}

ROWS: list[Row] = [
    *family(aten.linear.default, Family.LINEAR, LINEAR),
    *family(aten.matmul.default, Family.LINEAR, BATCHED),
    *family(aten.matmul.default, Family.PRODUCT, PRODUCTS, signals=2),
    Row(aten.matmul.default, "a signal with itself", Family.PRODUCT, lambda: Apply(lambda x: x.mT @ (2 * x))),
    *family(aten.matmul.default, Family.PRODUCT, ATTENTION, signals=3, times=2),
    *family(aten.matmul.default, Family.PRODUCT, SELF_ATTENTION, times=2),
    *family(aten.softmax.int, Family.SOFTMAX, ATTENTION, signals=3),
    *family(aten.softmax.int, Family.SOFTMAX, SELF_ATTENTION),
]
