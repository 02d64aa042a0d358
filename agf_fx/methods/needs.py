"""What methods ask of a network."""

from __future__ import annotations

from agf_fx.errors import CaptureError
from agf_fx.ir.graph import CanonicalGraph
from agf_fx.methods.method import Need
from agf_fx.passes.class_dimension import check_class_layer
from agf_fx.passes.heads import check_heads
from agf_fx.passes.relevance_paths import check_relevance_everywhere, check_relevance_paths

class_layer: Need = check_class_layer
"""A last layer whose features are the classes."""

heads: Need = check_heads
"""Last layers from which relevance starts, none of which feeds another one."""

relevance_paths: Need = check_relevance_paths
"""A relevance rule for every operation between the heads and the images."""


relevance_everywhere: Need = check_relevance_everywhere
"""A relevance rule for every operation between the logits and the images."""


def several_classes(method: str) -> Need:
    """Two logits at least, which ``method`` compares."""

    def check(canonical: CanonicalGraph) -> None:
        if canonical.num_classes < 2:
            raise CaptureError(
                f"{canonical.name} has {canonical.num_classes} logit, and {method} compares the target with other "
                "classes, so it needs 2. Wrap the model to return both classes, e.g. torch.cat([-y, y], 1)."
            )

    return check
