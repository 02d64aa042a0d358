"""The certificates of the rules in one explanation graph, proved: what a page says of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx

from agf_fx.inspect.certificates.catalogue import of, read_outs
from agf_fx.inspect.certificates.certificate import Certificate, Claim
from agf_fx.ir.facts import facts
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.ir.views import READ_OUT, SEED
from agf_fx.methods.method import Method
from agf_fx.rules.register import taught_operations
from agf_fx.rules.rule import Rule

_LONGEST = 320  # characters of LaTeX, of what code computes on a layer: longer is not read


@dataclass(frozen=True)
class Proof:
    """A claim, and what came of it.

    Attributes:
        says: the claim in words.
        layer: the small symbolic layer on which the rule's code ran.
        latex: the identity.
        left: what is left of it; "" where it is proved.
    """

    says: str
    layer: str
    latex: str
    left: str


@dataclass(frozen=True)
class Proved:
    """A certificate after its proofs.

    Attributes:
        proofs: one for each claim; none where there is no certificate.
        computed: what the rule's code computes on a small layer, as LaTeX; "" where that is long, or none of a layer.
        unclaimed: what the rule promises of the sum, and no claim is about; "" for nothing.
    """

    proofs: tuple[Proof, ...] = ()
    computed: str = ""
    unclaimed: str = ""


def proved(rule: Any) -> Proved:
    """Run the proofs of a rule, of what a stream starts with, or of what merges messages: its code, on symbols.

    Nothing is raised: what a proof of somebody's own raises is left of the claim, in words.
    """
    try:
        certificate = of(rule)
    except Exception as error:
        return Proved((Proof("its certificate", "", "", _in_words(error)),))
    if certificate is None:
        return Proved()
    proofs = tuple(Proof(claim.says, claim.layer, claim.latex, _left(claim, rule)) for claim in certificate.claims)
    return Proved(proofs, _computed(certificate), str(certificate.unclaimed or ""))


def _left(claim: Claim, rule: Any) -> str:
    try:
        residual = claim.residual(rule)
    except Exception as error:
        return _in_words(error)
    return "" if residual == 0 else str(residual)


def _computed(certificate: Certificate) -> str:
    try:
        latex = certificate.computed()
    except Exception:
        return ""
    return latex if len(latex) <= _LONGEST else ""


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def rule_of(method: Method, stream: str, node: fx.Node) -> Rule | None:
    """The rule by which a stream passes a call."""
    found = method.stream(stream)
    return None if found is None else found.starts.rule_for(node) or found.rules.rule_for(node)


def is_foreign(node: fx.Node, rule: Rule) -> bool:
    """Whether a call is none of agf-fx's own operations, so that what is proved of a built-in rule says nothing of it.

    A rule that was registered for the operation speaks for itself.
    """
    taught = taught_operations().get(node.target)
    if taught is None:
        return facts(node).captured_vjp is not None
    registered = taught[2]
    return registered is None or rule.function is not registered.function


def ends(method: Method, canonical: CanonicalGraph) -> Iterator[tuple[str, str, str, Any]]:
    """What belongs to no call, of a method: the row of a page where it stands, a stream, its part in words, and it."""
    shared = any(len(node.users) > 1 for node in canonical.calls)
    for stream in method.streams:
        if stream.seed is not None:
            yield SEED, stream.name, "starts with", stream.seed
    for stream in method.streams if shared else ():
        yield SEED, stream.name, "where several layers read one value", stream.merge
    for part in read_outs(method):
        yield READ_OUT, "", "the map", part
