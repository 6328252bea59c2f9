"""``python -m benchmarks.incremental``: what it costs to encode a large map again when a part of it changed.

A share of the map, the Gaussians nearest to a place in plan, takes other colours. Compared are the whole map in one go,
the whole map region by region, as the node goes over it when everything changed, and the regions that the node encodes
after this change; all without the node's copy of the map, its smoothing and its labels. Beside them stands the cosine
between features after the change and those of a new encode of everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from benchmarks.building import rooms
from benchmarks.encode import make_bases, models
from benchmarks.report import parser, publish, repeat
from chorus_core.config import Config, parse
from chorus_core.encoder import ChorusEncoder
from chorus_core.gaussians import Gaussians
from chorus_core.region import RegionScheduler

VOXEL = 0.02
BLOCK = 8 * VOXEL


class Map:
    """Gaussians and their features, encoded by the node's regions.

    Args:
        max_gaussians: of a pass.
        halo: metres of context.
    """

    def __init__(
        self,
        encoder: ChorusEncoder,
        scene: Gaussians,
        bases: Mapping[str | None, Tensor],
        max_gaussians: int,
        halo: float,
    ) -> None:
        self._encoder, self.scene, self._bases = encoder, scene, bases
        options = parse(Config, {"encoder.max_gaussians": max_gaussians, "encoder.halo": halo}).encoder
        self._scheduler, self._options = RegionScheduler(options), options
        self._origin = torch.zeros(3, dtype=torch.int64, device=encoder.device)
        self.features = self.whole(scene)
        self.read = self.regions = 0

    def whole(self, scene: Gaussians) -> dict[str | None, Tensor]:
        """Features of a scene in as few passes as fit."""
        found = self._encoder.encode_heads(
            scene, self._bases, max_points=self._options.max_gaussians, halo=self._options.halo, origin=self._origin
        )
        return {head: features.clone() for head, features in found.items()}  # of which rows may be written

    def blocks(self, changed: Tensor) -> Tensor:
        """Centres of the blocks that some Gaussians [M] lie in, metres [B, 3]."""
        return (torch.floor(self.scene.means[changed] / BLOCK).unique(dim=0) + 0.5) * BLOCK

    def update(self, blocks: Tensor) -> None:
        """Encode again what the scheduler hands out after blocks changed, given by their centres [B, 3]."""
        self._scheduler.add(blocks, BLOCK)
        self.read = self.regions = 0
        while (region := self._scheduler.next(len(self.scene), self._count)) is not None:
            context = region.reads(self.scene.means).nonzero().squeeze(1)
            read = self.scene[context]
            owned = region.owns(read.means)
            found = self._encoder.encode_heads(
                read, self._bases, asked=owned, origin=self._origin, max_points=2 * self._options.max_gaussians
            )
            for head, features in found.items():
                self.features[head][context[owned]] = features
            self.read += len(context)
            self.regions += 1

    def _count(self, corners: Tensor) -> int:
        low, high = corners.to(self.scene.device)
        plane = self.scene.means[:, :2]
        return int(((plane >= low) & (plane <= high)).all(dim=1).sum())


def change(scene: Gaussians, share: float, place: tuple[float, float]) -> tuple[Gaussians, Tensor]:
    """The scene with other colours near a place, and which Gaussians these are."""
    distance = (scene.means[:, :2] - scene.means.new_tensor(place)).abs().amax(dim=1)
    changed = distance.topk(int(share * len(scene)), largest=False).indices
    colors = scene.colors.clone()
    colors[changed] = 1.0 - colors[changed]
    return Gaussians(scene.means, scene.quats, scene.scales, scene.opacities, colors), changed


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--gaussians", type=int, default=1_000_000)
    options.add_argument("--share", type=float, default=0.05, help="of them that change")
    options.add_argument("--place", type=float, nargs=2, default=(3.0, 3.0), help="where, metres")
    options.add_argument("--max-gaussians", type=int, default=500_000, help="of a pass at most")
    options.add_argument("--halo", type=float, default=0.8, help="metres of context")
    options.add_argument("--basis", type=int, default=128, help="stored width of each head")
    options.add_argument("--model", choices=("mini", "release"), default="release")
    options.add_argument("--repeat", type=int, default=5)
    a = options.parse_args(arguments)
    device = torch.device(a.device)
    torch.manual_seed(a.seed)
    name, encoder = next(models(device, a.model))
    heads = [head for head in ("lang", "dino") if head in encoder.model.config.heads]
    scene = rooms(a.gaussians, (0.0, 0.0, 0.0), VOXEL, a.seed).to(device)
    kept = Map(encoder, scene, make_bases(encoder, heads, a.basis), a.max_gaussians, a.halo)
    kept.scene, changed = change(scene, a.share, a.place)
    all_blocks, changed_blocks = kept.blocks(torch.arange(len(scene), device=device)), kept.blocks(changed)

    rows: list[dict[str, Any]] = []
    for what, call in (
        ("whole map", lambda: kept.whole(kept.scene)),
        ("whole map, by regions", lambda: kept.update(all_blocks)),
        (f"{a.share:.0%} changed", lambda: kept.update(changed_blocks)),
    ):
        times = repeat(call, device, 2, a.repeat)
        milliseconds = sorted(times)[len(times) // 2]
        row = {"what": what, "ms": milliseconds, "of_whole": milliseconds / (rows[0]["ms"] if rows else milliseconds)}
        rows.append(row | ({"regions": kept.regions, "read": kept.read} if rows else {}))
    rows[2]["of_regions"] = rows[2]["ms"] / rows[1]["ms"]

    kept.features = kept.whole(scene)
    kept.update(changed_blocks)
    new = kept.whole(kept.scene)
    agreement = {
        f"cosine to a new encode, {head}": float(
            cosine_similarity(kept.features[head].float(), new[head].float()).mean()
        )
        for head in heads
    }
    publish("incremental", rows, device, a.out, model=name, Gaussians=len(scene), changed=len(changed), **agreement)


if __name__ == "__main__":
    main()
