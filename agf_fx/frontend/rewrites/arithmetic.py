"""Sums, products and quotients: no alpha, constants second, and signals repeated to the shape of the result."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from agf_fx.errors import CaptureError
from agf_fx.frontend.rewrites.editing import become, broadcast, erase, insert, kind_of, like
from agf_fx.frontend.rewrites.values import number_of
from agf_fx.ir.types import TensorType
from agf_fx.ir.vocabulary import depends_on_images

aten = torch.ops.aten


def _sum(target: Callable[..., Any]) -> Callable[[fx.Node], None]:
    """a ± alpha·b becomes a ± b, with the product written out where alpha is not 1."""

    def rewrite(node: fx.Node) -> None:
        first, second = node.args
        become(node, target, first, scaled(node, second, node.kwargs.get("alpha", 1)))
        repeat_signals(node)

    return rewrite


def _reversed_difference(node: fx.Node) -> None:
    """c - alpha·x, which torch spells rsub(x, c, alpha): of a number c x · (-alpha) + c."""
    x, constant, *alpha = node.args
    factor = alpha[0] if alpha else node.kwargs.get("alpha", 1)
    if isinstance(constant, fx.Node):
        become(node, aten.sub.Tensor, constant, scaled(node, x, factor))
        repeat_signals(node)
    else:
        become(node, aten.add.Tensor, insert(node, aten.mul.Tensor, x, -factor), constant)


def _product(node: fx.Node) -> None:
    """constant · signal becomes signal · constant."""
    first, second = node.args
    if depends_on_images(second) and not depends_on_images(first):
        first, second = second, first
    become(node, aten.mul.Tensor, first, second)
    repeat_signals(node)


def _quotient(node: fx.Node) -> None:
    become(node, aten.div.Tensor, *node.args)
    repeat_signals(node)


def _sum_with_product(combine: Callable[..., Any]) -> Callable[[fx.Node], None]:
    """``addcmul`` and ``addcdiv``: a + value · (b ⊙ c), or b / c."""

    def rewrite(node: fx.Node) -> None:
        first, *factors = node.args
        product = new(node, combine, *factors)
        become(node, aten.add.Tensor, first, scaled(node, product, node.kwargs.get("value", 1)))
        repeat_signals(node)

    return rewrite


def _interpolation(node: fx.Node) -> None:
    """``lerp`` by a number: a · (1 - w) + b · w."""
    first, second, weight = node.args
    become(node, aten.add.Tensor, scaled(node, first, 1 - weight), scaled(node, second, weight))
    return repeat_signals(node)


def _interpolation_by_tensor(node: fx.Node) -> None:
    """``lerp`` by weights: a · (1 - w) + b · w."""
    first, second, weight = node.args
    number = number_of(weight)
    if number is not None and kind_of(weight).rank == 0:
        node.args = (first, second, number)
        return _interpolation(node)
    rest = new(node, aten.add.Tensor, insert(node, aten.neg.default, weight), 1)
    become(node, aten.add.Tensor, new(node, aten.mul.Tensor, first, rest), new(node, aten.mul.Tensor, second, weight))
    return repeat_signals(node)


def _joint(node: fx.Node) -> None:
    """Any other function of two values, entry by entry."""
    repeat_signals(node)


def _sum_of_powers_of_two(node: fx.Node) -> None:
    """log₂(2ᵃ + 2ᵇ) = log(eᶜ + eᵈ) / log 2, c and d the operands times log 2."""
    a, b = (insert(node, aten.mul.Tensor, operand, math.log(2)) for operand in node.args)
    become(node, aten.mul.Tensor, new(node, aten.logaddexp.default, a, b), 1 / math.log(2))


def _power_of_two(node: fx.Node) -> None:
    """2 to a power, times x, which torch spells ldexp(x, power)."""
    x, power = node.args
    if depends_on_images(power):
        factor = insert(node, aten.exp.default, insert(node, aten.mul.Tensor, power, math.log(2)))
    else:
        power = insert(node, aten.to.dtype, power, kind_of(node).dtype)
        factor = insert(node, aten.pow.Scalar, 2.0, power, type=kind_of(power))
    become(node, aten.mul.Tensor, x, factor)
    _product(node)


def _times_logarithm(logarithm: Callable[..., Any], pole: int) -> Callable[[fx.Node], None]:
    """x · log y is 0 where x is, also at the pole of the logarithm and beyond it."""

    def rewrite(node: fx.Node) -> None:
        x, y = node.args
        if not isinstance(x, fx.Node):
            if x != 0:
                become(node, aten.mul.Tensor, insert(node, logarithm, y), x)
        elif not isinstance(y, fx.Node):
            if y > pole:
                become(node, aten.mul.Tensor, x, math.log(y) if pole == 0 else math.log1p(y))
        elif node.meta["depends_on_images"]:
            y = whole(node, y)
            none = insert(
                node, aten.mul.Tensor, insert(node, aten.eq.Scalar, x, 0), insert(node, aten.le.Scalar, y, pole)
            )
            y = insert(node, aten.masked_fill.Scalar, y, none, pole + 1)
            become(node, aten.mul.Tensor, x, insert(node, logarithm, y))
            _product(node)

    return rewrite


def whole(node: fx.Node, operand: fx.Node) -> fx.Node:
    """An operand of ``node`` repeated to the shape of the result."""
    x = next(filter(depends_on_images, node.args))
    return like(node, operand, broadcast(node, x, kind_of(node).free_batch))


def scaled(before: fx.Node, value: Any, factor: float) -> Any:
    """``value``, a node or a number, times a number."""
    if factor == 1:
        return value
    return insert(before, aten.mul.Tensor, value, factor) if isinstance(value, fx.Node) else value * factor


def new(before: fx.Node, target: Callable[..., Any], *args: Any) -> fx.Node:
    """A new sum, product or quotient in its canonical spelling, from the same module and source line as ``before``."""
    call = insert(before, target, *args)
    ARITHMETIC[target](call)
    return call


def repeat_signals(node: fx.Node, keep: int = 0) -> None:
    """Repeat every signal among the operands to the shape of the result, but for the ``keep`` last dimensions."""
    if node.meta["depends_on_images"] and kind_of(node).batch_dim is not None:
        node.args = tuple(_repeated(node, operand, keep) for operand in node.args)


def _repeated(node: fx.Node, operand: Any, keep: int) -> Any:
    if not depends_on_images(operand):
        return operand
    wanted, shape = kind_of(node).free_batch, kind_of(operand).free_batch
    kept = shape[len(shape) - keep :]
    return broadcast(node, operand, wanted[: len(wanted) - keep] + kept)


def _erase_dropout(node: fx.Node) -> None:
    _, probability, train = node.args
    if not train or probability == 0:
        erase(node)


def _number(node: fx.Node) -> None:
    """A number read from a weight, as ``self.scale.item()`` does, stays a tensor of no dimension.

    Raises:
        CaptureError: an operation asks for a number there, or the number is no weight's.
    """
    (source,) = node.args
    kind = kind_of(source)
    followed = kind.dtype.is_floating_point and all(_takes_tensor(user, node) for user in node.users)
    if depends_on_images(source) or not followed:
        raise CaptureError(
            f"the model reads a number from a tensor ({node.meta['source'] or 'forward()'}), and computes with it in a "
            "way that a graph cannot follow. Keep it a tensor: leave .item() or float() out."
        )
    node.meta["type"] = TensorType((), kind.dtype)
    become(node, aten.reshape.default, source, [])


def _takes_tensor(user: fx.Node, number: fx.Node) -> bool:
    """Whether ``user`` reads ``number`` only where a tensor may stand."""
    if not isinstance(user.target, torch._ops.OpOverload):
        return False
    schemas = zip(user.target._schema.arguments, user.args, strict=False)
    read = [schema for schema, argument in schemas if argument is number]
    return bool(read) and all(isinstance(schema.type, torch.TensorType) for schema in read)


ARITHMETIC: dict[Callable[..., Any], Callable[[fx.Node], None]] = {
    aten.add.Tensor: _sum(aten.add.Tensor),
    **dict.fromkeys((aten.sub.Tensor, aten.subtract.Tensor), _sum(aten.sub.Tensor)),
    **dict.fromkeys((aten.rsub.Scalar, aten.rsub.Tensor), _reversed_difference),
    **dict.fromkeys((aten.mul.Tensor, aten.multiply.Tensor), _product),
    **dict.fromkeys((aten.div.Tensor, aten.divide.Tensor, aten.true_divide.Tensor), _quotient),
    aten.addcmul.default: _sum_with_product(aten.mul.Tensor),
    aten.addcdiv.default: _sum_with_product(aten.div.Tensor),
    **dict.fromkeys((aten.hypot.default, aten.atan2.default, aten.remainder.Tensor, aten.fmod.Tensor), _joint),
    aten.logaddexp.default: _joint,
    aten.logaddexp2.default: _sum_of_powers_of_two,
    aten.ldexp.Tensor: _power_of_two,
    **dict.fromkeys(
        (aten.xlogy.Tensor, aten.xlogy.Scalar_Self, aten.xlogy.Scalar_Other), _times_logarithm(aten.log.default, 0)
    ),
    **dict.fromkeys(
        (aten.special_xlog1py.default, aten.special_xlog1py.self_scalar, aten.special_xlog1py.other_scalar),
        _times_logarithm(aten.log1p.default, -1),
    ),
    aten.lerp.Scalar: _interpolation,
    aten.lerp.Tensor: _interpolation_by_tensor,
    **dict.fromkeys((aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default), _erase_dropout),
    aten.feature_alpha_dropout.default: _erase_dropout,
    aten.item.default: _number,
}
