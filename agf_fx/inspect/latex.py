"""The LaTeX of certificates as MathML: the little that claims and sympy's printer write.

The result is a nested list as in `agf_fx.inspect.formulas`. What is not known here stays the text that it is.
"""

from __future__ import annotations

import functools
import re

from agf_fx.inspect.formulas import Element

_TOKEN = re.compile(r"\s+|\\text\{[^{}\\]*\}|\\[A-Za-z]+|\\.|\d+(?:\.\d+)?|'+|.", re.DOTALL)
_NAMES = "alpha beta gamma delta varepsilon epsilon eta sigma phi mu lambda theta rho tau omega Phi Psi Sigma Omega"
_LETTERS = dict(zip(_NAMES.split(), "αβγδεεησφμλθρτωΦΨΣΩ", strict=True))
_UPRIGHT = {"Delta": "Δ", "nabla": "∇", "partial": "∂"}
_FUNCTIONS = {"max", "min", "log", "exp", "sin", "cos", "tanh", "sign"}
_OPERATORS = {
    "neq": "≠",
    "pm": "±",
    "in": "∈",
    "Rightarrow": "⇒",
    "cdot": "·",
    "leq": "≤",
    "geq": "≥",
    "times": "×",
    "#": "#",
    "bmod": "mod",
}
_SPACES = {",": "thin", " ": "word", "quad": "wide"}
_PAIRS = {"(": ")", "[": "]", "|": "|", "\\{": "\\}", "\\lVert": "\\rVert", "\\langle": "\\rangle"}
_FENCES = {"\\{": "{", "\\}": "}", "\\lVert": "‖", "\\rVert": "‖", "\\langle": "⟨", "\\rangle": "⟩"}
_SIGNS = {"-": "−", "+": "+", "=": "=", "<": "<", ">": ">", "/": "/", ",": ",", ":": ":", ";": ";"}
_WORDS = ("\\mathrm", "\\operatorname", "\\mathsf", "\\mathbf")


class _Unknown(Exception):
    """Something that is not read here."""


@functools.lru_cache(4096)
def mathml(latex: str) -> Element | None:
    """A formula as an element ``math``; None for one that cannot be read."""
    reader = _Reader(_TOKEN.findall(latex))
    try:
        return ["math", ["mrow", *reader.row("")]]
    except _Unknown:
        return None


class _Reader:
    """Reads tokens into elements, group by group."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = [token for token in tokens if not token.isspace()]
        self._place = 0

    def _peek(self) -> str:
        return self._tokens[self._place] if self._place < len(self._tokens) else ""

    def _take(self, wanted: str = "") -> str:
        token = self._peek()
        if not token or (wanted and token != wanted):
            raise _Unknown(token)
        self._place += 1
        return token

    def row(self, closing: str) -> list[Element]:
        """Elements up to what closes them, which is taken; "" for the end."""
        row: list[Element] = []
        while (token := self._peek()) != closing:
            element = self._scripted()
            if element[0] == "mo" and token in "+-" and (not row or row[-1][0] == "mo"):
                element = ["mo:prefix", element[1]]
            row.append(element)
            if _is_function(element) and self._peek() and self._peek() not in ("(", closing):
                row.append(["mspace:thin"])
        if closing:
            self._take()
        if not row:
            raise _Unknown(closing)
        return row

    def _scripted(self) -> Element:
        """What stands next, with what is below and above it."""
        base = self._atom()
        below = above = None
        while (token := self._peek()) and (token in ("_", "^") or token[0] == "'"):
            self._take()
            if token == "_" and below is None:
                below = self._argument()
            elif token != "_" and above is None:
                above = self._argument() if token == "^" else ["mo:prime", "′" * len(token)]
            else:
                raise _Unknown(token)
        if below is None and above is None:
            return base
        if below is None:
            return ["msup", base, above]
        under = base[1] in ("∑", "max", "min")
        if above is None:
            return ["munder" if under else "msub", base, below]
        return ["munderover" if under else "msubsup", base, below, above]

    def _argument(self) -> Element:
        """A group in braces, or what stands next."""
        if self._peek() == "{":
            self._take()
            row = self.row("}")
            return row[0] if len(row) == 1 else ["mrow", *row]
        if self._peek() in ("+", "-"):
            return ["mo:script", _SIGNS[self._take()]]
        return self._atom(digits=1)

    def _atom(self, digits: int = 0) -> Element:
        token = self._take()
        if token == "{":
            return ["mrow", *self.row("}")]
        if token in _PAIRS:
            return self._fenced(token, _PAIRS[token])
        if token[0] == "\\":
            return self._command(token)
        if token[0].isdigit():
            if digits and len(token) > digits:  # x^10 raises the 1 alone
                self._place -= 1
                self._tokens[self._place : self._place + 1] = [token[:digits], token[digits:]]
                token = self._take()
            return ["mn", token]
        if token in _SIGNS:
            return ["mo", _SIGNS[token]]
        if token.isalpha():
            return ["mi", token]
        raise _Unknown(token)

    def _command(self, token: str) -> Element:
        name = token[1:]
        if name in _LETTERS:
            return ["mi", _LETTERS[name]]
        if name in _UPRIGHT:
            return ["mi:normal", _UPRIGHT[name]]
        if name in _FUNCTIONS:
            return ["mi:normal", name]
        if name in _OPERATORS:
            return ["mo", _OPERATORS[name]]
        if name in _SPACES:
            return [f"mspace:{_SPACES[name]}"]
        if name == "sum":
            return ["mo", "∑"]
        if name in ("frac", "tfrac"):
            return ["mfrac", self._argument(), self._argument()]
        if name == "sqrt":
            return ["msqrt", self._argument()]
        if name == "hat":
            return ["mover", self._argument(), ["mo:script", "^"]]
        if name == "left":
            opening = self._take()
            return self._fenced(opening, _PAIRS.get(opening, ""), sized=True)
        if name.startswith("text{"):
            return ["mrow", ["mspace:word"], ["mtext", name[5:-1].strip()], ["mspace:word"]]
        if token in _WORDS:
            return self._words(token)
        raise _Unknown(token)

    def _fenced(self, opening: str, closing: str, sized: bool = False) -> Element:
        """What stands in brackets or between bars, with them."""
        if not closing:
            raise _Unknown(opening)
        inside = self.row("\\right" if sized else closing)
        if sized:
            self._take(closing)
        left, right = (_FENCES.get(sign, sign) for sign in (opening, closing))
        return ["mrow", ["mo:fence", left], ["mrow", *inside], ["mo:fence", right]]

    def _words(self, token: str) -> Element:
        """Letters that are no product: a name, or words."""
        letters = [self._take()] if self._peek() != "{" else self._braced()
        word = "".join(letters)
        if token == "\\mathbf":
            return ["mn:bold" if word.isdigit() else "mi:bold", word]
        return ["mi:normal", word]

    def _braced(self) -> list[str]:
        self._take("{")
        found = []
        while self._peek() != "}":
            found.append(self._take())
        self._take("}")
        if any(not token.isalnum() for token in found):
            raise _Unknown("".join(found))
        return found


def _is_function(element: Element) -> bool:
    """Whether it is a function, whose argument stands behind it."""
    base = element[1] if element[0] in ("munder", "msub", "msup") else element
    return base[0] == "mi:normal" and len(base[1]) > 1 and base[1].isalpha() and base[1] in _FUNCTIONS | {"softmax"}
