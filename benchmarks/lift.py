"""``python -m benchmarks.lift``: seconds and memory to lift 2D features onto Gaussians, three ways.

Sparse weights and one product a view; the same with the pixel of the projected centre only (Occam's LGS); and the
gradient of a rendering, in chunks of channels (autograd), the baseline. The scene is the surfaces of rooms at one
Gaussian a voxel. Features are a smooth random texture of the surfaces, seen by a teacher with a row a patch, so that
what is lifted can be compared with what is there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from benchmarks.building import look, rooms
from benchmarks.report import parser, peak_memory_mib, publish, reset_peak_memory, seconds_of
from chorus_core.distillation.lifting import Lifter, center_contributions
from chorus_core.frames import CameraIntrinsics
from chorus_core.gaussians import Gaussians
from chorus_core.rendering import Contributions, View, contributions, render, torch_engine
from chorus_core.rendering.camera import DILATION, NEAR
from chorus_core.teachers.base import FeatureTable, grid_cells

ROOM = 4.0
"""Edge of a room of :func:`benchmarks.building.rooms`, metres."""
ROOM_SURFACE = 51.2
"""Floor, ceiling and two walls of it, square metres."""
WAVES = 16
"""Waves that make the texture; features are a fixed random mixture of them."""
MIN_WEIGHT = 0.1
"""Gaussians are compared that have at least this weight (in pixels fully covered) in both."""


@dataclass
class Lifted:
    """Features of a method [N, D] and weights [N], on the CPU, and what they took."""

    features: Tensor
    weight: Tensor
    row: dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    a = options().parse_args(arguments)
    device = torch.device(a.device)
    voxel = a.voxel or max(0.02, (ROOM_SURFACE / a.gaussians) ** 0.5)
    scene = rooms(a.gaussians, (0.0, 0.0, 0.0), voxel, a.seed).to(device)
    texture = Texture(a.dim, a.seed, device)
    views = list(make_views(a.views, tuple(a.size), scene, a.seed))
    tables = [texture.table(scene, view, *a.grid) for view in tqdm(views, desc="features", disable=None)]
    seen = list(zip(views, tables, strict=True))
    few = [seen[i] for i in np.unique(np.linspace(0, len(seen) - 1, a.autograd_views).round().astype(int))]

    methods: dict[str, tuple[Callable[..., Lifted], list]] = {
        "sparse product": (lift_pixels, seen),
        "centre sampling": (lift_centers, seen),
        f"autograd, {a.chunk} channels": (lift_autograd, few),
    }
    found: dict[str, Lifted] = {}
    for name, (lift, part) in methods.items():
        lift(scene, part[:1], a.dim, a.chunk)  # unmeasured: kernels are compiled and loaded
        if device.type == "cuda":
            torch.cuda.empty_cache()
        reset_peak_memory(device)
        lifted = found[name] = lift(scene, part, a.dim, a.chunk)
        lifted.row = {"method": name} | lifted.row
        lifted.row["total_s"] = lifted.row["measured_s"] * len(views) / len(part)
        if part is seen:
            lifted.row["cosine to texture"] = texture.agreement(scene, lifted)
    sparse, centers, autograd = found.values()
    same_views = lift_pixels(scene, few, a.dim, a.chunk)
    publish(
        "lift",
        [f.row for f in found.values()],
        device,
        a.out,
        input=f"{len(scene)} Gaussians at {voxel:.3g} m, {len(views)} views of {a.size[0]} x {a.size[1]}, features "
        f"of {a.dim} channels on {a.grid[0]} x {a.grid[1]} patches",
        speedup=autograd.row["total_s"] / sparse.row["total_s"],
        **{
            "total_s is": f"of {len(views)} views; for autograd measured on {len(few)} of them and scaled up",
            "cosine to texture is": "of lifted features to what is at the Gaussian's place, so with the patches' blur",
            "seen Gaussians": int((sparse.weight >= MIN_WEIGHT).sum()),
            "cosine sparse, autograd (same views)": agreement(same_views, autograd),
            "cosine sparse, centre": agreement(sparse, centers),
            "weight sparse, autograd (largest difference, of the largest weight)": float(
                (same_views.weight - autograd.weight).abs().max() / autograd.weight.max()
            ),
            "peak_MiB is": "all tensors on the GPU, scene and tables included"
            if device.type == "cuda"
            else "resident set of the process so far, later rows include earlier ones",
        },
    )


def options() -> argparse.ArgumentParser:
    o = parser(__doc__)
    o.add_argument("--gaussians", type=int, default=200_000, help="Gaussians of the scene")
    o.add_argument("--dim", type=int, default=1152, help="width of the features")
    o.add_argument("--views", type=int, default=20)
    o.add_argument("--autograd-views", type=int, default=2, help="views that autograd lifting is measured on")
    o.add_argument("--size", type=int, nargs=2, default=(640, 480), metavar=("W", "H"), help="of a view, pixels")
    o.add_argument("--grid", type=int, nargs=2, default=(30, 40), metavar=("ROWS", "COLUMNS"), help="of patches")
    o.add_argument("--chunk", type=int, default=32, help="channels of a pass of autograd lifting")
    o.add_argument("--voxel", type=float, help="metres (default 0.02, or what fills a room)")
    return o


def make_views(count: int, size: tuple[int, int], scene: Gaussians, seed: int) -> Iterator[View]:
    """Views from within random rooms towards the two walls that each has."""
    rng = np.random.default_rng(seed)
    width, height = size
    focal = 525.0 / 640.0 * width
    camera = CameraIntrinsics(focal, focal, (width - 1) / 2, (height - 1) / 2, width, height)
    rooms_of, filled = np.unique(np.floor(scene.means[:, :2].cpu().numpy() / ROOM), axis=0, return_counts=True)
    corners = rooms_of[filled > 0.9 * filled.max()] * ROOM  # the last room may lack walls
    for _ in range(count):
        x, y = corners[rng.integers(len(corners))] + rng.uniform(1.5, 3.5, 2)
        yaw, pitch = rng.uniform(1.05 * np.pi, 1.45 * np.pi), rng.uniform(-0.6, 0.1)
        yield View(camera, look((x, y, 1.2), yaw, pitch))


class Texture:
    """Features of every point of space: random waves of 0.4 to 2 m, mixed into ``dim`` channels."""

    def __init__(self, dim: int, seed: int, device: torch.device) -> None:
        rng = torch.Generator().manual_seed(seed)
        directions = functional.normalize(torch.randn(3, WAVES, generator=rng), dim=0)
        lengths = torch.empty(WAVES).uniform_(0.4, 2.0, generator=rng)
        self._frequencies = (2 * torch.pi * directions / lengths).to(device)  # [3, WAVES]
        self._phases = torch.empty(WAVES).uniform_(0, 2 * torch.pi, generator=rng).to(device)
        self._mixture = torch.randn(WAVES, dim, generator=rng).to(device)

    def waves(self, points: Tensor) -> Tensor:
        """[N, WAVES] at points [N, 3]."""
        return torch.sin(points @ self._frequencies + self._phases)

    @torch.no_grad()
    def table(self, scene: Gaussians, view: View, rows: int, columns: int) -> FeatureTable:
        """What a teacher with a row a patch sees: the mean over each patch."""
        drawn = render(scene, view, self.waves(scene.means))
        height, width = drawn.alpha.shape
        cells = grid_cells(height, width, rows, columns, device=scene.device)
        sums = torch.zeros((rows * columns, WAVES + 1), device=scene.device)
        sums.index_add_(0, cells.flatten(), torch.cat((drawn.features, drawn.alpha[..., None]), dim=-1).flatten(0, 1))
        return FeatureTable(sums[:, :-1] / sums[:, -1:].clamp(min=1e-6) @ self._mixture, cells)

    def agreement(self, scene: Gaussians, lifted: Lifted) -> float:
        """Mean cosine between lifted features and those of the Gaussians' places."""
        valid = (lifted.weight >= MIN_WEIGHT).nonzero().squeeze(1)
        total = 0.0
        for part in valid.split(65_536):
            truth = self.waves(scene.means[part.to(scene.device)]) @ self._mixture
            total += functional.cosine_similarity(truth, lifted.features[part].to(truth), dim=1).sum().item()
        return total / max(len(valid), 1)


def agreement(first: Lifted, second: Lifted) -> float:
    """Mean cosine over the Gaussians that both have seen."""
    both = ((first.weight >= MIN_WEIGHT) & (second.weight >= MIN_WEIGHT)).nonzero().squeeze(1)
    parts = both.split(65_536)
    total = sum(functional.cosine_similarity(first.features[p], second.features[p], dim=1).sum().item() for p in parts)
    return total / max(len(both), 1)


def lift_pixels(scene: Gaussians, views: list[tuple[View, FeatureTable]], dim: int, _chunk: int) -> Lifted:
    """Weights once a view, one sparse product."""
    return _lift(scene, views, dim, lambda weights, view: weights)


def lift_centers(scene: Gaussians, views: list[tuple[View, FeatureTable]], dim: int, _chunk: int) -> Lifted:
    """The same with the centre's pixel only."""
    return _lift(scene, views, dim, lambda weights, view: center_contributions(weights, scene, view))


def _lift(
    scene: Gaussians,
    views: list[tuple[View, FeatureTable]],
    dim: int,
    choose: Callable[[Contributions, View], Contributions],
) -> Lifted:
    lifter = Lifter(len(scene), dim, scene.device)
    clock = Clock(scene.device)
    for view, table in tqdm(views, desc="lifting", disable=None):
        with torch.no_grad():
            weights = clock("raster", lambda view=view: contributions(scene, view))
        chosen = clock("choose", lambda view=view, weights=weights: choose(weights, view))
        clock("product", lambda chosen=chosen, table=table: lifter.add(chosen, table))
    return _finished(lifter.sums, lifter.weight, clock)


def lift_autograd(scene: Gaussians, views: list[tuple[View, FeatureTable]], dim: int, chunk: int) -> Lifted:
    """sum(w F) as the gradient of sum(render * F) with respect to Gaussian features, ``chunk`` channels a pass."""
    sums, weight = torch.zeros((len(scene), dim), device=scene.device), torch.zeros(len(scene), device=scene.device)
    clock = Clock(scene.device)

    def add(view: View, features: FeatureTable) -> None:
        weight.add_(_gradient(scene, view, (features.cells >= 0)[..., None].float())[:, 0])
        for first in range(0, dim, chunk):
            rows = functional.pad(features.table[:, first : first + chunk], (0, 0, 0, 1))  # the last for cells of -1
            sums[:, first : first + chunk] += _gradient(scene, view, rows[features.cells])

    for view, table in tqdm(views, desc="autograd", disable=None):
        clock("passes", lambda view=view, table=table: add(view, table))
    return _finished(sums, weight, clock)


def _gradient(scene: Gaussians, view: View, picture: Tensor) -> Tensor:
    """d sum(render(x) * picture) / dx, [N, C] for a picture [H, W, C]."""
    values = torch.zeros((len(scene), picture.shape[-1]), device=scene.device, requires_grad=True)
    (_draw(scene, values, view) * picture).sum().backward()
    return values.grad


def _draw(scene: Gaussians, values: Tensor, view: View) -> Tensor:
    """Composited values [H, W, C]; on CUDA gsplat alone, without the depth that the engine draws along."""
    if scene.device.type != "cuda":
        return torch_engine.rasterize(scene, values, view)[0]
    from gsplat import rasterization

    k = view.intrinsics
    matrix = torch.tensor(k.matrix, dtype=torch.float32, device=scene.device)
    matrix[:2, 2] += 0.5
    camera = view.camera_from_world(scene.device)[None]
    geometry = (scene.means, scene.quats, scene.scales, scene.opacities)
    drawn, _, _ = rasterization(
        *geometry, values, camera, matrix[None], k.width, k.height, near_plane=NEAR, eps2d=DILATION
    )
    return drawn[0]


class Clock:
    """Seconds of the named parts of each view."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds: dict[str, list[float]] = {}

    def __call__(self, name: str, part: Callable[[], Any]) -> Any:
        results = []
        spent = seconds_of(lambda: results.append(part()), self._device)
        self.seconds.setdefault(name, []).append(spent)
        return results[0]


def _finished(sums: Tensor, weight: Tensor, clock: Clock) -> Lifted:
    """The means, in place of the sums, with the row of the table."""
    peak = peak_memory_mib(sums.device)  # before what is only done to compare
    per_view = np.sum(list(clock.seconds.values()), axis=0)  # [views]
    row = {
        "views": len(per_view),
        "view_p50_ms": 1e3 * float(np.median(per_view)),
        **{f"{name}_p50_ms": 1e3 * float(np.median(times)) for name, times in clock.seconds.items()},
        "measured_s": float(per_view.sum()),
        "peak_MiB": round(peak),
    }
    return Lifted(sums.div_(weight.clamp(min=1e-12)[:, None]).cpu(), weight.cpu(), row)


if __name__ == "__main__":
    main()
