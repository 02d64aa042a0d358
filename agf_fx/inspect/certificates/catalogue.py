"""All certificates, by the function that computes a rule."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from importlib import import_module
from typing import Any

from agf_fx.inspect.certificates.certificate import Certificate, Claim
from agf_fx.methods.method import Method
from agf_fx.methods.registry import Entry
from agf_fx.rules.contributions import AGGREGATED
from agf_fx.rules.merging import Merge
from agf_fx.rules.register import registered_rules
from agf_fx.rules.rule import Rule

Claims = Callable[[Any], tuple[Claim, ...]]
_OWN: dict[Callable[..., Any], Claims] = {}


ROOMS = (
    *("agf", "layers", "lrp", "weights", "movement", "shares", "signals", "scales", "rap", "patterns"),
    *("adjoints", "relus", "deeplift", "starts", "read_outs"),
)


@functools.cache
def _built_in() -> dict[str, Claims]:
    rooms = (import_module(f"agf_fx.inspect.certificates.claims.{name}") for name in ROOMS)
    return {key: claims for room in rooms for key, claims in room.CLAIMS.items()}


def of(rule: Any) -> Certificate | None:
    """The certificate of a rule, of what a stream starts with, or of what merges messages; None if there is none.

    Claims are of the rule as it is, with its parameters and its promise.
    """
    function = rule.function if isinstance(rule, Rule | Merge) else rule
    claims = _OWN.get(function)
    if claims is None:
        key, found = _name(rule), _built_in()
        claims = found.get(f"{key} {rule.symbol}" if isinstance(rule, Rule) else key) or found.get(key)
    return None if claims is None else Certificate(rule, claims(rule))


def certify(rule: Rule | Merge | Callable[..., Any], *claims: Claim) -> None:
    """Say what a rule of one's own promises, and on which layer that can be proved.

    Args:
        rule: the rule.
        claims: what `of` will give; see `agf_fx.inspect.certificates.laws` for those that many rules make.
    """
    _OWN[rule.function if isinstance(rule, Rule | Merge) else rule] = lambda _: claims


FURTHER: dict[str, tuple[dict[str, Any], ...]] = {
    "agf": (
        *({"merge": "ratio"}, {"attention": "cp"}, {"division": "exact"}, {"dialect": "paper"}),
        {"numerator": "gradcam"},
    ),
    "lrp-alphabeta": ({"alpha": 2.0}, {"alpha": 2.0, "bias": True, "lossless": True}),
    "epsilon-alpha2-beta1": ({"bias": False, "lossless": True},),
    "attnlrp": ({"gamma": 0.25},),
    "rap": ({"start": "one"},),
    "extract-aggregate": ({"aggregate": "sum"}, {"aggregate": "positive-norm"}, {"aggregate": "max"}),
}
"""Options by which methods have other rules than by default, besides those that are switched on or off."""


def subjects() -> Iterator[tuple[str, Any]]:
    """What is to have a certificate: every rule, start and merge of every method, and what users have registered.

    Methods have their default options, each switch the other way, and `FURTHER`; what differs in nothing comes once.
    Of read-outs, those come along that have a certificate.

    Yields:
        What has it, as "agf" or "registered", and the rule.
    """
    from agf_fx.methods import REGISTRY

    registered = list(registered_rules().values())  # they are in the tables of all methods, too
    seen: set[object] = {rule.function for rule in registered}
    for name, entry in REGISTRY.items():
        for options in _options(entry):
            for part in _parts(entry.make(options)):
                key = _key(part)
                if key not in seen and getattr(part, "function", None) not in seen:
                    seen.add(key)
                    yield name, part
    yield from (("registered", rule) for rule in registered)


def _options(entry: Entry) -> Iterator[Any]:
    usual = entry.options()
    yield usual
    for field in fields(usual):
        value = getattr(usual, field.name)
        if isinstance(value, bool):
            yield replace(usual, **{field.name: not value})
    yield from (replace(usual, **changes) for changes in FURTHER.get(entry.name, ()))


def _parts(method: Method) -> Iterator[Any]:
    for stream in method.streams:
        yield from (rule for table in (stream.rules, stream.starts) for _, rule in table)
        yield from (part for part in (stream.seed, stream.merge) if part is not None)
    yield from read_outs(method)


def _key(part: Any) -> object:
    """What tells rules apart: what they print, promise, and how they divide; what a function was made with."""
    if not isinstance(part, Rule | Merge):
        return part
    made = inspect.getclosurevars(part.function).nonlocals.get("options") if isinstance(part, Rule) else None
    return type(part), str(part), part.symbol, getattr(part, "promise", ""), part.division.kind, _name(part), str(made)


def _name(part: Any) -> str:
    function = part.function if isinstance(part, Rule | Merge) else part
    return f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', '')}"


def read_outs(method: Method) -> Iterator[Callable[..., Any]]:
    """The parts of a method's read-out that have a certificate: a map is a function of a trace, and few have a law."""
    found = method.read_out
    given = found.keywords if isinstance(found, functools.partial) else {}
    parts = [found, given.get("weigh"), AGGREGATED.get(given.get("aggregate", ""))]
    yield from (part for part in parts if part is not None and of(part) is not None)


def uncertified() -> list[Any]:
    """The rules, starts and merges without a certificate."""
    return [rule for _, rule in subjects() if of(rule) is None]
