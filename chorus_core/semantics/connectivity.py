"""Groups of points by distance (single linkage), exactly, in time close to linear."""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

# Half of the neighbour cells within two steps: each pair of cells is looked at once.
_OFFSETS = np.array([offset for offset in product(range(-2, 3), repeat=3) if offset > (0, 0, 0)])
_PAIRS_AT_ONCE = 2_000_000
# Cells per axis that fit in a packed 63-bit key with room for the offsets.
_MAX_CELLS = 2**20


def connected_groups(points: np.ndarray, gap: float, min_count: int = 1) -> np.ndarray:
    """Groups of points linked by chains of steps no longer than ``gap``.

    Cells of edge ``gap / sqrt(3)`` hold points that are linked anyway; so only cells are linked: first by their
    first points, then, where two near cells are still apart, by all their pairs of points. The result is exactly that
    of the graph over all points.

    Args:
        points: metres [M, 3].
        gap: metres, > 0.
        min_count: smaller groups are no groups.

    Returns:
        int64 [M]: 0 is the largest group, and so on (ties by first point); -1 is none.

    Raises:
        ValueError: a value is out of range, points are not finite or spread over more than 2**20 cells.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points has shape {points.shape}: expected (M, 3)")
    if not np.isfinite(gap) or gap <= 0 or min_count < 1:
        raise ValueError(f"gap = {gap}, min_count = {min_count}: expected gap > 0 and min_count >= 1")
    if not len(points):
        return np.zeros(0, dtype=np.int64)
    if not np.isfinite(points).all():
        raise ValueError("points hold non-finite values: expected metres")

    # A hair smaller than gap / sqrt(3), so that rounding never joins what is more than gap apart.
    cells = np.floor((points - points.min(0)) / (gap / np.sqrt(3) * (1 - 1e-9)))  # [M, 3]
    if cells.max() >= _MAX_CELLS:
        raise ValueError(f"points spread over {cells.max() * gap / np.sqrt(3):.0f} m: too far for gap = {gap} m")
    order, starts, counts, sorted_keys = _sort_by_cell(cells.astype(np.int64))
    n_cells = len(starts)

    near_a, near_b = _near_cells(sorted_keys)
    first = points[order[starts]]  # [C, 3]
    linked = ((first[near_a] - first[near_b]) ** 2).sum(1) <= gap * gap
    edges_a, edges_b = near_a[linked], near_b[linked]
    component = _components(edges_a, edges_b, n_cells)

    apart = component[near_a] != component[near_b]
    more_a, more_b = _link_by_points(near_a[apart], near_b[apart], points[order], starts, counts, gap)
    component = _components(np.append(edges_a, more_a), np.append(edges_b, more_b), n_cells)

    groups = np.empty(len(points), dtype=np.int64)
    groups[order] = np.repeat(component, counts)
    return _by_size(groups, min_count)


def connected_groups_of_kinds(points: np.ndarray, kinds: np.ndarray, gap: float) -> np.ndarray:
    """Groups of points of one kind each, linked as by :func:`connected_groups`.

    Kinds are moved apart along x and grouped together, as many at a time as there is room for.

    Args:
        points: metres [M, 3].
        kinds: integer [M].
        gap: metres, > 0.

    Returns:
        int64 [M]: numbers from 0 on, in no order.

    Raises:
        ValueError: as there.
    """
    groups = np.zeros(len(points), np.int64)
    if not len(points):
        return groups
    _, kind = np.unique(kinds, return_inverse=True)
    points = np.asarray(points, dtype=np.float64)
    apart = float(np.ptp(points[:, 0])) + 2 * gap
    together = max(int((_MAX_CELLS - 1) * gap / np.sqrt(3) * (1 - 1e-6) / apart), 1)
    count = 0
    for first in range(0, int(kind.max()) + 1, together):
        rows = np.flatnonzero((kind >= first) & (kind < first + together))
        moved = points[rows]
        moved[:, 0] += apart * (kind[rows] - first)
        groups[rows] = connected_groups(moved, gap) + count
        count = int(groups[rows].max()) + 1
    return groups


def _sort_by_cell(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Order of points by cell, and of each cell its start in that order, its count and its packed key."""
    keys = _pack(cells)
    order = np.argsort(keys, kind="stable")
    unique, starts, counts = np.unique(keys[order], return_index=True, return_counts=True)
    return order, starts, counts, unique


def _pack(cells: np.ndarray) -> np.ndarray:
    """Cells [..., 3] as one integer, such that the key of a sum is the sum of keys (two cells of margin a side)."""
    width = _MAX_CELLS + 4
    return ((cells[..., 0] + 2) * width + cells[..., 1] + 2) * width + cells[..., 2] + 2


def _near_cells(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of occupied cells within two steps on every axis (farther ones are more than a gap apart)."""
    steps = _pack(_OFFSETS) - _pack(np.zeros(3, dtype=np.int64))
    pairs_a, pairs_b = [], []
    for step in steps:
        found = np.searchsorted(keys, keys + step)
        hit = np.flatnonzero(keys[np.minimum(found, len(keys) - 1)] == keys + step)
        pairs_a.append(hit)
        pairs_b.append(found[hit])
    return np.concatenate(pairs_a), np.concatenate(pairs_b)


def _link_by_points(
    cells_a: np.ndarray, cells_b: np.ndarray, points: np.ndarray, starts: np.ndarray, counts: np.ndarray, gap: float
) -> tuple[np.ndarray, np.ndarray]:
    """Those pairs of cells that hold a pair of points within the gap. ``points`` are in order of cells."""
    sizes = counts[cells_a] * counts[cells_b]
    linked = np.zeros(len(cells_a), dtype=bool)
    begin = 0
    while begin < len(cells_a):
        total = np.cumsum(sizes[begin:])
        end = begin + max(1, int(np.searchsorted(total, _PAIRS_AT_ONCE, side="right")))
        pair = np.repeat(np.arange(begin, end), sizes[begin:end])
        place = np.arange(len(pair)) - np.repeat(total[: end - begin] - sizes[begin:end], sizes[begin:end])
        a = starts[cells_a[pair]] + place // counts[cells_b[pair]]
        b = starts[cells_b[pair]] + place % counts[cells_b[pair]]
        close = ((points[a] - points[b]) ** 2).sum(1) <= gap * gap
        linked[pair[close]] = True
        begin = end
    return cells_a[linked], cells_b[linked]


def _components(a: np.ndarray, b: np.ndarray, n: int) -> np.ndarray:
    graph = coo_matrix((np.ones(len(a), dtype=np.int8), (a, b)), shape=(n, n))
    return connected_components(graph, directed=False)[1]


def _by_size(groups: np.ndarray, min_count: int) -> np.ndarray:
    """Groups renumbered from the largest down; smaller ones than ``min_count`` become -1."""
    _, first, inverse, counts = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    rank = np.lexsort((first, -counts))
    number = np.empty(len(counts), dtype=np.int64)
    number[rank] = np.arange(len(counts))
    number[counts < min_count] = -1
    return number[inverse]
