"""What is proved of every rule: its claims, and the small layers of symbols on which its own code proves them.

    certificate = agf_fx.inspect.certificates.of(rule)     # None: nobody has said what it promises
    for claim, residual in certificate.proofs():           # runs the rule on sympy expressions
        print(claim.says, claim.layer, residual)           # 0: proved

`of` takes a rule of a method's table, the start of a stream, or what merges messages. Rules of one's own get claims by
`certify`; see docs/extending.md.
"""

from __future__ import annotations

from agf_fx.inspect.certificates.catalogue import certify, of, subjects, uncertified
from agf_fx.inspect.certificates.certificate import Certificate, Claim

__all__ = ["Certificate", "Claim", "certify", "of", "subjects", "uncertified"]
