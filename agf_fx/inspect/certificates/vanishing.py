"""Whether an expression is 0, whatever its symbols.

An expression becomes a polynomial in its symbols, in functions of them such as exponentials, in roots, and in
reciprocals of sums, each a variable of its own. If it does not vanish so, roots are squared and reciprocals
cleared, the outer ones first: a sum is 0 where its product with all denominators is. What is 0 as a polynomial is 0.
"""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction

import sympy

Monomial = frozenset[tuple[object, int]]
Polynomial = dict[Monomial, Fraction]

_ONE: Monomial = frozenset()


def vanishes(expression: sympy.Expr) -> bool:
    """Whether an expression is 0 wherever it has a value. True is proved; False may be an identity not seen."""
    expression = sympy.sympify(expression)
    if expression.is_Rational or expression.is_Symbol:
        return expression == 0
    if expression.has(sympy.nan, sympy.zoo, sympy.oo):
        return False
    found = _polynomial(expression, {})
    while found and (variable := _outermost(found)):
        found = variable.eliminated(found)
    return not found


class _Made:
    """A variable that is made of a polynomial B.

    Attributes:
        base: B.
        depth: how many such variables stand in one another.
    """

    def __init__(self, base: Polynomial) -> None:
        self.base, self.depth = base, 1 + _depth(base)
        factors = (f"{factor} {sorted((str(name), power) for name, power in each)}" for each, factor in base.items())
        self._name = f"{type(self).__name__}({sorted(factors)})"

    def __str__(self) -> str:
        return self._name


class _Exponential(_Made):
    """exp B."""


class _Reciprocal(_Made):
    """1 / B."""

    def eliminated(self, polynomial: Polynomial) -> Polynomial:
        """The polynomial times the power of B that clears this variable."""
        parts = _by_power(polynomial, self)
        most, found = max(parts), {}
        for power, part in parts.items():
            found = _sum(found, _product(part, _power(self.base, most - power)))
        return found


class _Root(_Made):
    """√B: its square is replaced, and then it stands for itself."""

    def eliminated(self, polynomial: Polynomial) -> Polynomial:
        """The polynomial with B for squares; 0 only if its even and its odd part are."""
        parts = _by_power(polynomial, self)
        least = min(min(parts), 0)
        least -= least % 2
        even, odd = {}, {}
        for power, part in parts.items():
            lifted = _product(part, _power(self.base, (power - least) // 2))
            if power % 2:
                odd = _sum(odd, lifted)
            else:
                even = _sum(even, lifted)
        bare = sympy.Dummy()  # the root to the first power is a variable like any other
        return _sum(even, _product(odd, {frozenset([(bare, 1)]): Fraction(1)}))


def _outermost(polynomial: Polynomial) -> _Reciprocal | _Root | None:
    variables = {variable for monomial in polynomial for variable, _ in monomial}
    made = [variable for variable in variables if isinstance(variable, _Reciprocal | _Root)]
    return max(made, key=lambda variable: variable.depth, default=None)


def _depth(polynomial: Polynomial) -> int:
    return max((getattr(variable, "depth", 0) for monomial in polynomial for variable, _ in monomial), default=0)


def _polynomial(expression: sympy.Expr, known: dict) -> Polynomial:
    """An expression as a polynomial; ``known`` holds what has been converted, and a variable for every B."""
    if expression in known:
        return known[expression]
    if expression.is_Rational:
        found = {_ONE: Fraction(expression.p, expression.q)} if expression else {}
    elif expression.is_Add:
        found = {}
        for part in expression.args:
            found = _sum(found, _polynomial(part, known))
    elif expression.is_Mul:
        found = {_ONE: Fraction(1)}
        for part in expression.args:
            found = _product(found, _polynomial(part, known))
    elif expression.is_Pow and expression.exp.is_Integer:
        base, power = _polynomial(expression.base, known), int(expression.exp)
        found = _power(base if power > 0 else _inverse(base, known), abs(power))
    elif expression.is_Pow and expression.exp.is_Rational and expression.exp.q == 2:
        root = _variable(_Root, _polynomial(expression.base, known), known)
        found = {frozenset([(root, int(expression.exp.p))]): Fraction(1)}
    elif isinstance(expression, sympy.exp):
        found = {_ONE: Fraction(1)}
        for monomial, factor in _polynomial(expression.args[0], known).items():  # exp(p m / q) = exp(m / q)ᵖ
            power = _variable(_Exponential, {monomial: Fraction(1, factor.denominator)}, known)
            found = _product(found, {frozenset([(power, factor.numerator)]): Fraction(1)})
    else:
        found = {frozenset([(expression, 1)]): Fraction(1)}
    known[expression] = found
    return found


def _inverse(base: Polynomial, known: dict) -> Polynomial:
    if len(base) == 1:
        ((monomial, factor),) = base.items()
        return {frozenset((variable, -power) for variable, power in monomial): 1 / factor}
    scale = _leading(base)  # so that multiples have one variable
    variable = _variable(_Reciprocal, {monomial: factor / scale for monomial, factor in base.items()}, known)
    return {frozenset([(variable, 1)]): 1 / scale}


def _leading(polynomial: Polynomial) -> Fraction:
    """The coefficient of one of the monomials, the same for all multiples."""
    return min(polynomial.items(), key=lambda item: sorted((str(name), power) for name, power in item[0]))[1]


def _variable(kind: type, base: Polynomial, known: dict) -> object:
    return known.setdefault((kind, frozenset(base.items())), kind(base))


def _by_power(polynomial: Polynomial, variable: object) -> dict[int, Polynomial]:
    """The coefficients of the powers of a variable."""
    found: dict[int, Polynomial] = defaultdict(dict)
    for monomial, factor in polynomial.items():
        power = next((power for each, power in monomial if each is variable), 0)
        found[power][frozenset(item for item in monomial if item[0] is not variable)] = factor
    return found


def _sum(a: Polynomial, b: Polynomial) -> Polynomial:
    found = dict(a)
    for monomial, factor in b.items():
        total = found.get(monomial, 0) + factor
        if total:
            found[monomial] = total
        else:
            found.pop(monomial, None)
    return found


def _product(a: Polynomial, b: Polynomial) -> Polynomial:
    if _ONE in a and len(a) == 1 and a[_ONE] == 1:
        return b
    found: Polynomial = {}
    for first, factor in a.items():
        for second, other in b.items():
            monomial = _times(first, second)
            total = found.get(monomial, 0) + factor * other
            if total:
                found[monomial] = total
            else:
                found.pop(monomial, None)
    return found


def _times(a: Monomial, b: Monomial) -> Monomial:
    if not a or not b:
        return a or b
    powers = dict(a)
    for variable, power in b:
        total = powers.get(variable, 0) + power
        if total:
            powers[variable] = total
        else:
            del powers[variable]
    return frozenset(powers.items())


def _power(base: Polynomial, power: int) -> Polynomial:
    found: Polynomial = {_ONE: Fraction(1)}
    for _ in range(power):
        found = _product(found, base)
    return found
