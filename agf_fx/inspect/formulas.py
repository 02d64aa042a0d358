"""Equations of rules as MathML: read as they stand in the code, and typeset only if nothing is lost.

An equation such as ``Φ_in = x ⊙ fᵀ(Φ / f(x))  (eq. 1)`` becomes nested lists ``[tag, child, ...]`` with strings as
leaves, from which a page makes elements. What the grammar does not know stays the text that it is.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Element = list[Any]
"""``[tag, child, ...]``; children are elements, or one string. A tag may carry attributes: ``mi:normal``."""

_FUNCTIONS = {"min", "max", "exp", "log", "softmax", "mean", "var"}
_TWO_LETTER_WORDS = {"as", "at", "by", "in", "is", "of", "or", "to"}  # any other two letters are a product
_UPRIGHT_BELOW = {"in", "max"}  # subscripts that are words
_RAISED = {"ᵀ": "T", "⁺": "+", "⁻": "−", "²": "2", "³": "3"}
_LOWERED = {"₀": "0"}
_PAIRS = {"(": ")", "[": "]"}
_BARS = "|‖"
_SIGNS = "±∓"
_OPERATORS = {**dict.fromkeys("=<>≥≤≠⊙·+,;:§", None), "-": "−", "->": "→", "...": "…"}
_TOKEN = re.compile(
    r"(?P<space>\s+)|(?P<operator>->|\.\.\.|[-=<>≥≤≠⊙·+,;:±∓])|(?P<number>\d+(?:\.\d+)?(?:e-?\d+)?|½)"
    r"|(?P<below>_(?:[∇∂]?[A-Za-z∇]+))|(?P<raised>[ᵀ⁺⁻²³'])|(?P<lowered>₀)|(?P<slash>/)"
    r"|(?P<word>[A-Za-z]{2,}(?:'s\b)?)|(?P<letter>(?:[A-Za-z][\u0303\u0304]?|[Ā-žͰ-Ͽ∂∇]))|(?P<root>√)|(?P<bracket>[()\[\]|‖])"
)
_NOTE = re.compile(r"(?:^|\s{2})(\((?:eqs?\. |§|z\^B|Alg\. |[A-Z][a-z]+ et al\.)[^()]*\))$")


@dataclass
class _Token:
    kind: str
    text: str
    spaced: bool  # white space before it
    apart: bool = False  # several, which set off another formula


class _Unknown(Exception):
    """Something that the grammar does not have."""


@dataclass
class _Atom:
    """Something that stands together: its element, the text that it was, and how it joins its neighbours.

    Attributes:
        element: as it is typeset.
        text: what it was read from, without white space.
        kind: "operator", "words", "slash", "apart", or "" for what is multiplied where it stands side by side.
        spaced: white space stood before it.
        inside: of parentheses, what they hold, for fractions, whose bar groups already.
    """

    element: Element
    text: str
    kind: str = ""
    spaced: bool = False
    inside: Element | None = None


@functools.lru_cache(1024)
def mathml(equation: str) -> Element | None:
    """The equation as an element ``math``; None where it cannot be read for certain, and text says it better.

    Args:
        equation: as rules have it: Unicode, a source in parentheses behind it.
    """
    note = _NOTE.search(equation)
    body = equation[: note.start()] if note else equation
    try:
        tokens = list(_tokens(body))
        reader = _Reader(tokens)
        atoms = reader.row("")
    except _Unknown:
        return None
    row = _joined(atoms)
    if not any(atom.kind == "" for atom in atoms) or not _is_all(row, atoms, body):
        return None
    if note:
        row = [*row, ["mspace:wide"], ["mtext:note", note[1]]]
    return ["math", ["mrow", *row]]


def _is_all(row: list[Element], atoms: list[_Atom], body: str) -> bool:
    """Whether nothing of the text is lost, in its order, and nothing is shown that it has not."""
    if _text(atoms) != re.sub(r"\s", "", body):
        return False
    return Counter(_shown(["mrow", *row])) == Counter(re.sub(r"[\s()_/√]", "", body.translate(_AS_SHOWN)))


_AS_SHOWN = str.maketrans({**_RAISED, **_LOWERED, "-": "−", "Σ": "∑", "'": "′"})


def _shown(element: Element) -> str:
    """The signs that an element draws, but for parentheses and bars of fractions."""
    if len(element) == 1:
        return ""
    if isinstance(element[1], str):
        return re.sub(r"[\s()]", "", element[1].translate(_AS_SHOWN)).replace("→", "−>").replace("…", "...")
    return "".join(map(_shown, element[1:]))


def _tokens(text: str) -> Iterator[_Token]:
    place, spaced, apart = 0, False, False
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise _Unknown(text[place])
        place = match.end()
        if match.lastgroup == "space":
            spaced, apart = True, len(match[0]) > 1
            continue
        yield _Token(match.lastgroup or "", match[0], spaced, apart)
        spaced = apart = False


class _Reader:
    """Reads tokens into atoms, bracket by bracket."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._place = 0

    def _peek(self) -> _Token | None:
        return self._tokens[self._place] if self._place < len(self._tokens) else None

    def row(self, closing: str) -> list[_Atom]:
        """Atoms up to a closing bracket, which is taken; "" for the end of the text."""
        atoms: list[_Atom] = []
        while (token := self._peek()) is not None:
            if closing and token.text == closing:
                self._place += 1
                return _fractions(atoms)
            self._place += 1
            if token.apart:
                atoms.append(_Atom(["mspace:wide"], "", "apart"))
            self._read(token, atoms)
        if closing:
            raise _Unknown(closing)
        return _fractions(atoms)

    def _read(self, token: _Token, atoms: list[_Atom]) -> None:
        text, last = token.text, atoms[-1] if atoms else None
        attached = last is not None and not token.spaced and last.kind == ""
        if token.kind in ("raised", "lowered", "below") or (text in _SIGNS and attached):
            if not attached:
                raise _Unknown(text)
            atoms[-1] = _scripted(last, token)
        elif token.kind == "operator":
            atoms.append(_Atom(["mo", _OPERATORS.get(text) or text], text, "operator", token.spaced))
        elif token.kind == "number":
            atoms.append(_Atom(["mn", text.replace("-", "−")], text, "", token.spaced))
        elif token.kind == "letter":
            tag = "mo:prefix" if text in "Σ" else "mi:normal" if text in "Δ∂∇" else "mi"
            atoms.append(_Atom([tag, "∑" if text == "Σ" else text], text, "", token.spaced))
        elif token.kind == "slash":
            atoms.append(_Atom(["mo", "/"], "/", "slash", token.spaced))
        elif token.kind == "word":
            self._word(token, atoms)
        elif token.kind == "root":
            self._root(token, atoms)
        else:
            self._bracket(token, atoms)

    def _word(self, token: _Token, atoms: list[_Atom]) -> None:
        text, last = token.text, atoms[-1] if atoms else None
        in_prose = last is not None and last.kind == "words" and (text == "mean" or text not in _FUNCTIONS)
        if text in _FUNCTIONS and not in_prose:
            atoms.append(_Atom(["mi:normal", text], text, "", token.spaced))
        elif len(text) == 2 and text not in _TWO_LETTER_WORDS:  # a product of two letters
            atoms.append(_Atom(["mi", text[0]], text[0], "", token.spaced))
            atoms.append(_Atom(["mi", text[1]], text[1]))
        elif in_prose:
            last.element[1] += f" {text}"
            last.text += text
        else:
            atoms.append(_Atom(["mtext", text], text, "words", token.spaced))

    def _root(self, token: _Token, atoms: list[_Atom]) -> None:
        """A root of what stands in parentheses behind it."""
        behind = self._peek()
        if behind is None or behind.text != "(":
            raise _Unknown(token.text)
        self._place += 1
        under: list[_Atom] = []
        self._bracket(behind, under)
        atoms.append(_Atom(["msqrt", under[0].inside], f"√{under[0].text}", "", token.spaced))

    def _bracket(self, token: _Token, atoms: list[_Atom]) -> None:
        text = token.text
        closing = text if text in _BARS else _PAIRS.get(text)
        if closing is None:
            raise _Unknown(text)
        inside = self.row(closing)
        if not inside:
            raise _Unknown(text)
        content = ["mrow", *_joined(inside)]
        whole = "".join(atom.text for atom in inside)
        element = ["mrow", ["mo:fence", text], content, ["mo:fence", closing]]
        kept = content if text == "(" else None
        atoms.append(_Atom(element, f"{text}{whole}{closing}", "", token.spaced, kept))


def _scripted(base: _Atom, token: _Token) -> _Atom:
    """A base with something above or below it; a second script joins the first."""
    text, element = token.text, base.element
    tag, parts = element[0], element[1:]
    if token.kind == "below":
        below = _below(text[1:])
        plain = "munder" if base.text == "Σ" else "msub"
        made = ["msubsup", parts[0], below, parts[1]] if tag == "msup" else [plain, element, below]
        if tag in ("msub", "msubsup"):
            raise _Unknown(text)
    elif token.kind == "lowered":
        if tag in ("msub", "msup", "msubsup"):
            raise _Unknown(text)
        made = ["msub", element, ["mn", _LOWERED[text]]]
    else:
        above = ["mo:prime", "′"] if text == "'" else _above(text)
        if tag == "msup":
            made = ["msup", parts[0], ["mrow", parts[1], above]]
        elif tag == "msubsup":
            made = ["msubsup", parts[0], parts[1], ["mrow", parts[2], above]]
        elif tag == "msub":
            made = ["msubsup", parts[0], parts[1], above]
        else:
            made = ["msup", element, above]
    return _Atom(made, base.text + text, "", base.spaced)


def _above(text: str) -> Element:
    shown = _RAISED.get(text, text)
    return ["mn", shown] if shown.isdigit() else ["mi:normal", shown] if shown == "T" else ["mo:script", shown]


def _below(text: str) -> Element:
    """``in`` and ``max`` are words; of other letters each is an index."""
    if text in _UPRIGHT_BELOW:
        return ["mi:normal", text]
    letters = [["mi:normal" if letter in "∇∂" else "mi", letter] for letter in text]
    return letters[0] if len(letters) == 1 else ["mrow", *letters]


def _fractions(atoms: list[_Atom]) -> list[_Atom]:
    """Slashes as bars: without white space, between what touches them; with it, between what is multiplied there."""
    for close in (True, False):
        place = 0
        while place < len(atoms):
            slash = atoms[place]
            if slash.kind == "slash" and (not slash.spaced) == close:
                start, end = _reach(atoms, place, close)
                above, below = atoms[start:place], atoms[place + 1 : end]
                if not above or not below or below[0].spaced == close:
                    raise _Unknown("/")
                text = f"{_text(above)}/{_text(below)}"
                element = ["mfrac", _grouped(above), _grouped(below)]
                atoms[start:end] = [_Atom(element, text, "", above[0].spaced)]
                place = start
            place += 1
    return atoms


def _reach(atoms: list[_Atom], place: int, close: bool) -> tuple[int, int]:
    """Where the numerator before, and the denominator behind a slash begin and end."""
    start = place
    while start and atoms[start - 1].kind == "" and not (close and start < place and atoms[start].spaced):
        if not close and start < place and atoms[start].spaced and _reaches_on(atoms[start - 1]):
            if atoms[start - 1].text.startswith("Σ"):
                break  # Σ_i a_i / b_i is the sum of fractions
            raise _Unknown("/")
        start -= 1
    end = place + 1
    while end < len(atoms) and atoms[end].kind == "":
        if end > place + 1 and atoms[end].spaced:
            if close:
                break
            if not _reaches_on(atoms[end - 1]):
                raise _Unknown("/")  # a / b c: nobody can tell where the denominator ends
        end += 1
    ends_in_word = end < len(atoms) and atoms[end].kind == "words" and not atoms[end].spaced
    if ends_in_word or (start and atoms[start - 1].kind == "words" and not atoms[start].spaced):
        raise _Unknown("/")
    return start, end


def _reaches_on(atom: _Atom) -> bool:
    """Whether it is a sum or a function, to which belongs what stands behind it."""
    return atom.text.startswith("Σ") or atom.text.split("_")[0] in _FUNCTIONS


def _grouped(atoms: list[_Atom]) -> Element:
    """What stands above or below a bar: without the parentheses that the bar makes needless."""
    if len(atoms) == 1 and atoms[0].inside is not None:
        return atoms[0].inside
    row = _joined(atoms)
    return row[0] if len(row) == 1 else ["mrow", *row]


def _joined(atoms: list[_Atom]) -> list[Element]:
    """Elements side by side, words apart from what is beside them, a little air where the text had some."""
    row: list[Element] = []
    for place, atom in enumerate(atoms):
        before = atoms[place - 1] if place else None
        if before is not None and "words" in (atom.kind, before.kind) and atom.spaced:
            row.append(["mspace:word"])
        elif before is not None and atom.spaced and not atom.kind and not before.kind:
            row.append(["mspace:thin"])
        prefix = atom.kind == "operator" and (before is None or before.kind == "operator") and atom.text in "-±∓"
        row.append(["mo:prefix", atom.element[1]] if prefix else atom.element)
    return row


def _text(atoms: list[_Atom]) -> str:
    return "".join(atom.text for atom in atoms)
