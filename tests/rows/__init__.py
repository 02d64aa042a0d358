"""The table of operations: one row per operation of the vocabulary and per way of using it."""

from __future__ import annotations

from cases import Row

from rows import arithmetic, attention, convolution, elementwise, movement, normalisation, pooling

ROWS: list[Row] = [
    row
    for module in (convolution, elementwise, pooling, normalisation, arithmetic, attention, movement)
    for row in module.ROWS
]
