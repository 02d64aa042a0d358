"""Networks spelled twice: one function, two programs, one map.

Both programs share their layers, by name, and every step is drawn in two of the spellings that its family knows. What
has another rule by definition is in no family; docs/equal-functions.md says why.
"""

from random_networks.spelling.comparing import Spelled, Worst, compare, difference
from random_networks.spelling.pairs import Pair, pair

__all__ = ["Pair", "Spelled", "Worst", "compare", "difference", "pair"]
