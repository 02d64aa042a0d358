"""Nearest neighbours: exact, deterministic, in bounded memory."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

ENTRIES = 2**22  # of the table of distances, and of differences, that is in memory at once
FAISS_FROM = 100_000  # latent vectors, from which FAISS is asked where it is installed
FAISS_NEAREST = 32  # candidates that it is asked for
_ROUNDING = 1e-12  # of the squared lengths: how far a squared distance by products may be off in float64
_ROUNDING_FLOAT32 = 1e-5


class Neighbours(NamedTuple):
    """The nearest neighbour of each of N latent vectors.

    Attributes:
        index: (N,) int64, its number in the bank; -1 where there is none.
        distance: (N,) float64, the Euclidean distance to it; infinite where there is none.
    """

    index: Tensor
    distance: Tensor


def nearest(queries: Tensor, bank: Tensor, excluded: Tensor, index: Any = None) -> Neighbours:
    """The nearest entry of a bank for each query; of several at the same distance, the first.

    Distances are sums of squared differences in float64. Products of whole blocks only choose which entries these are
    computed of: all that are within rounding of the least.

    Args:
        queries: (N, D) finite, on the CPU.
        bank: (M, D) finite, on the CPU.
        excluded: pairs (P, 2) int64 of a query and an entry that are not to be compared.
        index: of FAISS, with the entries of the bank; it chooses candidates in float32, and what it cannot settle is
            searched without it.
    """
    best = Neighbours(torch.full((len(queries),), -1), torch.full((len(queries),), torch.inf, dtype=torch.float64))
    if not len(bank) or not len(queries):
        return best
    queries = queries.double()
    unsettled = torch.arange(len(queries))
    if index is not None:
        found, settled = _by_faiss(queries, bank, excluded, index)
        best.index[settled], best.distance[settled] = found.index[settled], found.distance[settled]
        unsettled = torch.nonzero(~settled).flatten()
    if not len(unsettled):
        return best
    for rows in unsettled.split(max(1, ENTRIES // max(queries.shape[1], 1))):
        found = _by_blocks(queries[rows], bank, _of_rows(excluded, rows, len(queries)))
        best.index[rows], best.distance[rows] = found.index, found.distance
    return best


def faiss_index(bank: Tensor) -> Any:
    """An exact index of FAISS for a large bank, (M, D); None where it is small, or FAISS is not installed."""
    if len(bank) < FAISS_FROM or find_spec("faiss") is None:
        return None
    import faiss

    index = faiss.IndexFlatL2(bank.shape[1])
    index.add(bank.float().numpy())
    return index


def _by_blocks(queries: Tensor, bank: Tensor, excluded: Tensor) -> Neighbours:
    """Block by block of the bank, each against all queries."""
    count, size = queries.shape
    lengths = queries.square().sum(1, keepdim=True)
    least, longest = torch.full((count,), torch.inf, dtype=torch.float64), lengths.amax()
    index, squared = torch.full((count,), -1), torch.full((count,), torch.inf, dtype=torch.float64)
    step = max(1, ENTRIES // max(count, size))
    for start in range(0, len(bank), step):
        block = bank[start : start + step].double()
        theirs = block.square().sum(1)
        longest = torch.maximum(longest, theirs.amax())
        rough = lengths + theirs - 2 * queries @ block.T
        here = excluded[(excluded[:, 1] >= start) & (excluded[:, 1] < start + len(block))]
        rough[here[:, 0], here[:, 1] - start] = torch.inf
        least = torch.minimum(least, rough.amin(1))
        close = rough <= (least + _ROUNDING * (1 + longest))[:, None]
        close &= rough.isfinite()
        row, column = torch.nonzero(close, as_tuple=True)
        exact = _squared(queries, block, row, column)
        table = torch.full_like(rough, torch.inf)
        table[row, column] = exact
        place = table.argmin(1)  # the first of equal ones
        value = table.gather(1, place[:, None])[:, 0]
        better = value < squared
        index[better], squared[better] = place[better] + start, value[better]
    return Neighbours(index, squared.sqrt())


def _squared(queries: Tensor, bank: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """The squared distances of pairs, (P,) float64."""
    step = max(1, ENTRIES // max(queries.shape[1], 1))
    parts = [
        (queries[i] - bank[j].double()).square().sum(1)
        for i, j in zip(row.split(step), column.split(step), strict=True)
    ]
    return torch.cat(parts) if parts else queries.new_zeros(0)


def _by_faiss(queries: Tensor, bank: Tensor, excluded: Tensor, index: Any) -> tuple[Neighbours, Tensor]:
    """What the nearest candidates of FAISS come to, and of which queries no other entry can be as near, (N,) bool."""
    count = min(FAISS_NEAREST, len(bank))
    rough, places = (torch.from_numpy(found) for found in index.search(queries.float().numpy(), count))
    places = places.sort(1).values
    row = torch.arange(len(queries)).repeat_interleave(count)
    squared = _squared(queries, bank, row, places.flatten()).reshape(-1, count)
    out = torch.zeros(len(queries), count, dtype=torch.bool)
    for query, entry in excluded.tolist():
        out[query] |= places[query] == entry
    squared[out] = torch.inf
    place = squared.argmin(1, keepdim=True)
    least = squared.gather(1, place)[:, 0]
    lengths = queries.square().sum(1)  # those of the candidates are at most twice these and twice the distance
    doubt = _ROUNDING_FLOAT32 * (1 + 3 * lengths + 2 * rough[:, -1].double())
    settled = least.isfinite() & ((least + doubt < rough[:, -1]) | (count == len(bank)))
    return Neighbours(places.gather(1, place)[:, 0], least.sqrt()), settled


def _of_rows(excluded: Tensor, rows: Tensor, count: int) -> Tensor:
    """The pairs whose query is among ``rows``, with its place there."""
    places = torch.full((count,), -1)
    places[rows] = torch.arange(len(rows))
    own = excluded[places[excluded[:, 0]] >= 0]
    return torch.stack([places[own[:, 0]], own[:, 1]], 1)
