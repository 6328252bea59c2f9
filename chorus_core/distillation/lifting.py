"""2D features lifted onto Gaussians: the mean of what a teacher says about the pixels that a Gaussian shows in.

A Gaussian's feature is sum(w F) / sum(w) over all pixels of all views, w its compositing weight there: uplifting of
LUDVIG (arXiv 2410.14462), with the centre-sampled variant of Occam's LGS (arXiv 2412.01807) beside it. A view is
rasterised once, for its weights; features enter as one sparse product, so their width costs no rasterising.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from chorus_core.gaussians import Gaussians
from chorus_core.rendering import Contributions, View, contributions
from chorus_core.teachers.base import FeatureTable

SAMPLINGS = ("pixels", "centers")
"""Which pixels a Gaussian's feature is taken from: all that it shows in, or the one that its centre falls into."""
_ROWS = 65_536  # of features that are read out at a time


class Lifter:
    """Running weighted sums of features, one row per Gaussian.

    Memory is ``count`` x ``dim`` and what one view's weights take. Views may be added in any order.

    Args:
        count: number of Gaussians N.
        dim: width of the features D.
        device: where the sums are kept; contributions and tables are brought there.
        dtype: of the sums, float32 or float64; float16 would lose late views.

    Attributes:
        sums: of weight times feature [N, D].
        weight: total weight that says something about each Gaussian [N].

    Raises:
        ValueError: another dtype.
    """

    def __init__(
        self, count: int, dim: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"Lifter: dtype {dtype}: expected torch.float32 or torch.float64")
        self.sums = torch.zeros((count, dim), dtype=dtype, device=device)
        self.weight = torch.zeros(count, dtype=dtype, device=device)

    @torch.no_grad()
    def add(self, view: Contributions, features: FeatureTable) -> None:
        """Add what one view says. Pixels whose cell is -1 say nothing: they count in neither sum.

        Args:
            view: the weights of these Gaussians in the view.
            features: of the view's image; any float dtype, any device.

        Raises:
            ValueError: features of another width or image size, not finite, or cells outside the table.
        """
        add_view({"": self}, view, {"": features})

    def _add(self, pooled: PooledWeights, table: Tensor) -> None:
        """Add a view whose weights are pooled over the cells of a table [C, D]."""
        self.weight.index_add_(0, pooled.rows, pooled.weights)
        _add_product(self.sums, pooled, table.detach().to(self.sums))

    def _check(self, table: Tensor) -> None:
        if table.ndim != 2 or table.shape[1] != self.sums.shape[1]:
            raise ValueError(f"FeatureTable.table has shape {tuple(table.shape)}: expected [C, {self.sums.shape[1]}]")
        if not torch.isfinite(table).all():
            raise ValueError("FeatureTable.table holds values that are not finite: expected finite features")

    @torch.no_grad()
    def features(
        self, min_weight: float = 1e-3, unit: bool = False, dtype: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor]:
        """The lifted features.

        Args:
            min_weight: Gaussians of less total weight (in pixels fully covered) are not valid.
            unit: of unit length instead of the mean; a mean of no length is not valid.
            dtype: of the features, that of the sums by default; float16 halves what targets take.

        Returns:
            Features, 0 where not valid [N, D], and the valid mask [N].
        """
        found = torch.empty(self.sums.shape, dtype=dtype or self.sums.dtype, device=self.sums.device)
        valid = (self.weight >= min_weight) & (self.weight > 0)
        for first in range(0, len(found), _ROWS):
            part = slice(first, first + _ROWS)
            mean = self.sums[part] / self.weight[part, None]
            if unit:
                valid[part] &= self.sums[part].norm(dim=1) > 0
                mean = functional.normalize(mean, dim=1, eps=torch.finfo(mean.dtype).tiny)
            found[part] = torch.where(valid[part, None], mean, 0.0)
        return found, valid

    @torch.no_grad()
    def merge(self, other: Lifter) -> None:
        """Add the views of another lifter of the same Gaussians, as of another process.

        Raises:
            ValueError: another number of Gaussians or width.
        """
        if other.sums.shape != self.sums.shape:
            raise ValueError(
                f"Lifter.merge: sums of shape {tuple(other.sums.shape)}: expected {tuple(self.sums.shape)}"
            )
        self.sums += other.sums.to(self.sums.device)
        self.weight += other.weight.to(self.weight.device)


@torch.no_grad()
def add_view(lifters: Mapping[str, Lifter], view: Contributions, tables: Mapping[str, FeatureTable]) -> None:
    """Add what one view says to several lifters of the same Gaussians, by head.

    Tables with the same cells (one tensor) share the pooling of the weights, which is most of the work where features
    are narrow.

    Raises:
        ValueError: as :meth:`Lifter.add`.
    """
    pooled: dict[tuple[int, int], PooledWeights] = {}
    for head, lifter in lifters.items():
        features = tables[head]
        lifter._check(features.table)
        key = id(features.cells), len(features.table)
        if key not in pooled:
            pooled[key] = pool(view, features.cells, len(features.table), like=lifter.sums)
        lifter._add(pooled[key], features.table)


@dataclass(frozen=True)
class PooledWeights:
    """Weights of a view, summed over the pixels that share a cell: entries of a sparse matrix [N, C], sorted [Q].

    A Gaussian shows in tens of pixels but in few cells, so that the product with the table shrinks as much.

    Attributes:
        rows: Gaussians.
        columns: cells.
        weights: sums.
    """

    rows: Tensor
    columns: Tensor
    weights: Tensor


def pool(view: Contributions, cells: Tensor, count: int, like: Tensor) -> PooledWeights:
    """The weights of a view pooled over the cells of its image.

    Args:
        cells: row of a feature table of each pixel, -1 for none, int64 [H, W].
        count: rows of the table C.
        like: gives device and dtype.

    Raises:
        ValueError: cells of another image size or outside the table.
    """
    if tuple(cells.shape) != view.size:
        raise ValueError(f"FeatureTable.cells has shape {tuple(cells.shape)}: expected the view's, {view.size}")
    low, high = (int(x) for x in cells.aminmax()) if cells.numel() else (-1, -1)
    if low < -1 or high >= count:
        raise ValueError(f"FeatureTable.cells are in [{low}, {high}]: expected [-1, {count - 1}]")
    device = like.device
    cell = cells.to(device).flatten()[view.pixels.to(device)]
    said = cell >= 0
    keys, order = torch.sort(view.gaussians.to(device)[said] * count + cell[said])
    keys, counts = torch.unique_consecutive(keys, return_counts=True)
    weights = view.weights.detach().to(like)[said][order]
    sums = torch.segment_reduce(weights, "sum", lengths=counts) if keys.numel() else weights[:0]
    rows = torch.div(keys, max(count, 1), rounding_mode="floor")
    return PooledWeights(rows, keys - rows * count, sums)


@torch.no_grad()
def center_contributions(view_weights: Contributions, gaussians: Gaussians, view: View) -> Contributions:
    """Contributions of the centre-sampled variant (Occam's LGS): one pixel per Gaussian, for :meth:`Lifter.add`.

    The pixel is the one that the projected centre falls into; the weight is the sum of the Gaussian's weights in the
    view. Gaussians without weight, or with a centre outside the image, have none.

    Args:
        view_weights: of these Gaussians in this view.

    Returns:
        In the order of the Gaussians, not of the pixels.
    """
    height, width = view_weights.size
    weights = gaussians.means.new_zeros(len(gaussians))
    weights.index_add_(0, view_weights.gaussians, view_weights.weights.detach())
    seen = (weights > 0).nonzero().squeeze(1)  # [M]
    k = view.intrinsics
    camera_from_world = view.camera_from_world(gaussians.device)
    x, y, z = (gaussians.means[seen] @ camera_from_world[:3, :3].T + camera_from_world[:3, 3]).unbind(1)
    u, v = torch.round(k.fx * x / z + k.cx).long(), torch.round(k.fy * y / z + k.cy).long()
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    seen = seen[inside]
    return Contributions((v * width + u)[inside], seen, weights[seen], view_weights.size)


def lift_views(
    gaussians: Gaussians,
    views: Iterable[tuple[View, FeatureTable]],
    dim: int,
    sampling: str = "pixels",
    engine: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Lift the features of several views.

    Args:
        views: each with the features of its image.
        dim: width of the features D.
        sampling: one of :data:`SAMPLINGS`.
        engine: of the renderer, as for :func:`chorus_core.rendering.render`.

    Returns:
        Mean features, 0 where nothing was seen [N, D], and the total weight [N]; on the Gaussians' device.

    Raises:
        ValueError: unknown sampling or engine, or a table that :meth:`Lifter.add` refuses.
    """
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling {sampling!r}: expected one of {SAMPLINGS}")
    lifter = Lifter(len(gaussians), dim, gaussians.device)
    for view, table in views:
        with torch.no_grad():
            weights = contributions(gaussians, view, engine)
        if sampling == "centers":
            weights = center_contributions(weights, gaussians, view)
        lifter.add(weights, table)
    return lifter.features(min_weight=0.0)[0], lifter.weight


def _add_product(sums: Tensor, pooled: PooledWeights, table: Tensor) -> None:
    """sums += A @ table in place, A [N, C] the pooled weights; nothing of the size of ``sums`` is made."""
    rows, columns, weights = pooled.rows, pooled.columns, pooled.weights
    if weights.numel() == 0:
        return
    shape = (len(sums), len(table))
    if sums.is_cuda:
        # Of CSR the CUDA product adds to its output in place; of COO it copies the output twice.
        starts = torch.zeros(len(sums) + 1, dtype=torch.int64, device=rows.device)
        starts[1:] = torch.bincount(rows, minlength=len(sums)).cumsum(0)
        matrix = torch.sparse_csr_tensor(starts, columns, weights, shape, check_invariants=False)
        torch.addmm(sums, matrix, table, out=sums)
    else:
        # Of COO the CPU product visits the rows that have entries, of CSR all of them (5 times as long here).
        indices = torch.stack((rows, columns))
        matrix = torch.sparse_coo_tensor(indices, weights, shape, check_invariants=False, is_coalesced=True)
        sums.addmm_(matrix, table)
