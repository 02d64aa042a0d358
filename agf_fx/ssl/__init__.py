"""Self-supervised networks: explanations by the nearest neighbour, and linear probes of layers.

memory = agf_fx.ssl.MemoryBank.build(model, loader)
result = agf_fx.ssl.explain(model, images, memory)             # Gur et al. 2021, Alg. 2
probe = agf_fx.ssl.linear_probe(model, "layer3", labelled)     # a network that is compiled like any other
"""

from __future__ import annotations

from agf_fx.ssl.explanation import SelfSupervisedExplanation, explain
from agf_fx.ssl.memory import MemoryBank
from agf_fx.ssl.neighbours import Neighbours
from agf_fx.ssl.probes import LinearProbe, linear_probe

__all__ = ["LinearProbe", "MemoryBank", "Neighbours", "SelfSupervisedExplanation", "explain", "linear_probe"]
