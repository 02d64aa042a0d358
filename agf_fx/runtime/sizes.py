"""What an explanation costs as an expression in the size of the images, from graphs of a few sizes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral

import sympy

from agf_fx.errors import OptionsError
from agf_fx.ir.cost_model import SYMBOLS, Cost, in_words, substituted

SIZES = ("D", "H", "W")
"""Names of the images' dimensions, the last of them first known: a signal has W, a picture H and W, a volume all."""
_TOTALS = {"flops": "FLOP", "product_flops": "FLOP", "bytes": "B"}
_DEGREES = (1, 2)  # in each dimension: of networks of convolutions, and with attention between positions


@dataclass(frozen=True, repr=False)
class CostBySize:
    """Operations and bytes moved, as expressions in images N, targets K, points S and the size of the images.

    Attributes:
        title: what it is the cost of.
        flops, product_flops, bytes: as of `agf_fx.ir.cost_model.Cost`.
        multiple: they hold for sizes that are multiples of this one, at which strides divide without a remainder.
        symbols: those of the sizes, by name.
    """

    title: str
    flops: sympy.Expr
    product_flops: sympy.Expr
    bytes: sympy.Expr
    multiple: int
    symbols: Mapping[str, sympy.Symbol]

    def __call__(self, **given: int) -> CostBySize:
        """The same with numbers in the place of symbols, as in ``cost(N=8, K=2, H=224, W=224)``.

        Raises:
            OptionsError: there is no such symbol, a number is none above 0, or a size no multiple of ``multiple``.
        """
        known = {**SYMBOLS, **self.symbols}
        for name, value in given.items():
            if name not in known or isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
                raise OptionsError(f"{name}={value!r}: give whole numbers above 0 for some of {', '.join(known)}.")
            if name in self.symbols and value % self.multiple:
                raise OptionsError(
                    f"{name} is {value}, and the expressions hold for multiples of {self.multiple}; take one of them, "
                    "or compile the model for that size."
                )
        values = {known[name]: int(value) for name, value in given.items()}
        totals = {name: substituted(getattr(self, name), values) for name in _TOTALS}
        return CostBySize(self.title, **totals, multiple=self.multiple, symbols=self.symbols)

    def __str__(self) -> str:
        names = " and ".join(self.symbols)
        lines = [f"cost of {self.title}, for {names} that are multiples of {self.multiple}"]
        names_of = {"flops": "operations", "product_flops": "of these in convolutions and products", "bytes": "bytes"}
        for name, unit in _TOTALS.items():
            lines.append(f"  {names_of[name]:37}  {in_words(getattr(self, name), unit)}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"CostBySize({self.title}; print it to read it)"


def by_size(cost_at: Callable[[Sequence[int]], Cost], dims: int, multiple: int) -> CostBySize:
    """The cost as an expression in the sizes.

    It is a polynomial in each size where all layers see multiples of their strides: found from graphs of some sizes,
    and checked at another.

    Args:
        cost_at: sizes of the images' dimensions -> the cost, in symbols.
        dims: how many there are.
        multiple: of which the sizes are taken.

    Raises:
        OptionsError: it is no such polynomial, or ``multiple`` no whole number above 0.
    """
    if isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 1:
        raise OptionsError(f"multiple is {multiple!r}; give a whole number above 0, such as 32.")
    symbols = {name: sympy.Symbol(name, integer=True, positive=True) for name in SIZES[-dims:]}
    known: dict[tuple[int, ...], Cost] = {}

    def at(sizes: tuple[int, ...]) -> Cost:
        if sizes not in known:
            known[sizes] = cost_at(sizes)
        return known[sizes]

    beyond = tuple((7 + place) * multiple for place in range(dims))
    for degree in _DEGREES:
        nodes = [(2 + 2 * step) * multiple for step in range(degree + 1)]
        found = {name: _polynomial(name, at, nodes, list(symbols.values())) for name in _TOTALS}
        values = dict(zip(symbols.values(), beyond, strict=True))
        if all(sympy.expand(found[name].subs(values) - getattr(at(beyond), name)) == 0 for name in _TOTALS):
            title = at(beyond).title.partition(", images")[0]
            return CostBySize(title, **found, multiple=multiple, symbols=symbols)
    raise OptionsError(
        f"the cost is no polynomial in the size at multiples of {multiple}: strides leave remainders there, or layers "
        "depend on the size in another way; try a larger multiple, or compile the model for the sizes that matter."
    )


def _polynomial(
    name: str, at: Callable[[tuple[int, ...]], Cost], nodes: list[int], symbols: list[sympy.Symbol]
) -> sympy.Expr:
    """Lagrange's, through the values at all combinations of ``nodes``."""
    total = sympy.S.Zero
    for sizes in itertools.product(nodes, repeat=len(symbols)):
        weight = sympy.S.One
        for symbol, own in zip(symbols, sizes, strict=True):
            for other in nodes:
                if other != own:
                    weight *= (symbol - other) / sympy.Integer(own - other)
        total += weight * getattr(at(sizes), name)
    return sympy.expand(total)
