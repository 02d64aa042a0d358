"""Random small classifiers as Python source, and what every one of them must satisfy.

`network_source` writes a network as a script that can be pasted anywhere: a class, weights, images and targets. The
checks run that very script, and an error quotes it. As a program it checks a range of seeds:

    python tests/random_networks --seeds 0 1000
"""

from random_networks.capturing import Case, cases
from random_networks.checks import CHECKS, check, check_together
from random_networks.script import TOGETHER, images_shape, network_source
from random_networks.seeds import neighbours

__all__ = [
    "CHECKS",
    "TOGETHER",
    "Case",
    "cases",
    "check",
    "check_together",
    "images_shape",
    "neighbours",
    "network_source",
]
