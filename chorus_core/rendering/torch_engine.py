"""The renderer in plain torch: any device, differentiable, and the reference that gsplat is held to.

Every pair of a Gaussian and a pixel it may touch is listed, sorted by pixel and depth, and composited with segmented
cumulative sums. Rows of the image are drawn in bands, so that the list stays bounded.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from chorus_core.gaussians import Gaussians
from chorus_core.rendering.camera import MIN_ALPHA, MIN_TRANSMITTANCE, Splats, View, project
from chorus_core.rendering.compositing import Contributions, pair_alphas, transmittances

_MAX_PAIRS = 12_000_000


def contributions(gaussians: Gaussians, view: View) -> Contributions:
    """What each Gaussian adds to each pixel of a view; differentiable in all parameters of the Gaussians."""
    splats = project(gaussians, view)
    k = view.intrinsics
    parts = [_composite(splats, gaussians.opacities, rows, k.width) for rows in _bands(splats, k.height)]
    return Contributions(
        torch.cat([pixels for pixels, _, _ in parts]),
        torch.cat([owners for _, owners, _ in parts]),
        torch.cat([weights for _, _, weights in parts]),
        (k.height, k.width),
    )


def rasterize(gaussians: Gaussians, values: Tensor, view: View) -> tuple[Tensor, Tensor, Tensor]:
    """Composite per-Gaussian values.

    Args:
        values: [N, D].

    Returns:
        Composited values [H, W, D], alpha [H, W], and the weighted sum of z-depths [H, W].
    """
    k = view.intrinsics
    c = contributions(gaussians, view)
    third_row = view.camera_from_world(gaussians.device)[2]
    z = gaussians.means @ third_row[:3] + third_row[3]
    columns = torch.cat((values, z[:, None], torch.ones_like(z)[:, None]), dim=1)
    drawn = columns.new_zeros((k.height * k.width, columns.shape[1]))
    drawn = drawn.index_add(0, c.pixels, columns[c.gaussians] * c.weights[:, None]).view(k.height, k.width, -1)
    return drawn[..., :-2], drawn[..., -1], drawn[..., -2]


def _bands(splats: Splats, height: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows, each with a bounded number of pairs."""
    widths = 2 * splats.radii[:, 0] + 1
    drawn = splats.radii[:, 0] > 0
    top = (splats.centers[:, 1] - splats.radii[:, 1]).clamp(0, height - 1).long()
    bottom = (splats.centers[:, 1] + splats.radii[:, 1]).clamp(0, height - 1).long()
    change = torch.zeros(height + 1, dtype=torch.float64, device=widths.device)
    change.index_add_(0, top[drawn], widths[drawn].double())
    change.index_add_(0, bottom[drawn] + 1, -widths[drawn].double())
    per_row = change.cumsum(0)[:height].tolist()
    first, load = 0, 0.0
    for row, pairs in enumerate(per_row):
        if load and load + pairs > _MAX_PAIRS:
            yield first, row
            first, load = row, 0.0
        load += pairs
    yield first, height


def _composite(splats: Splats, opacities: Tensor, rows: tuple[int, int], width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels, Gaussians and weights of the contributions to a band of rows [first, last)."""
    low = torch.ceil(splats.centers - splats.radii).long()
    high = torch.floor(splats.centers + splats.radii).long()
    x0, x1 = low[:, 0].clamp(min=0), high[:, 0].clamp(max=width - 1)
    y0, y1 = low[:, 1].clamp(min=rows[0]), high[:, 1].clamp(max=rows[1] - 1)
    columns = (x1 - x0 + 1).clamp(min=0)
    counts = columns * (y1 - y0 + 1).clamp(min=0) * (splats.radii[:, 0] > 0)

    owner = torch.repeat_interleave(torch.arange(counts.numel(), device=counts.device), counts)  # [P]
    nth = torch.arange(owner.numel(), device=counts.device) - (counts.cumsum(0) - counts)[owner]
    u = x0[owner] + nth % columns[owner]
    v = y0[owner] + torch.div(nth, columns[owner], rounding_mode="floor")

    alpha = pair_alphas(u, v, splats.centers[owner], splats.conics[owner], opacities[owner])
    seen = alpha >= MIN_ALPHA
    owner, alpha, pixels = owner[seen], alpha[seen], (v * width + u)[seen]

    # Sorted by depth first, then stably by pixel: front to back within every pixel.
    order = torch.argsort(splats.depths.detach()[owner], stable=True)
    order = order[torch.argsort(pixels[order], stable=True)]
    owner, alpha, pixels = owner[order], alpha[order], pixels[order]

    transmittance = transmittances(pixels, alpha)
    kept = transmittance * (1.0 - alpha) > MIN_TRANSMITTANCE  # of what is left behind it, as 3DGS and gsplat stop
    return pixels[kept], owner[kept], (alpha * transmittance)[kept]
