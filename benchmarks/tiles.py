"""``python -m benchmarks.tiles``: what cutting a scene into tiles costs, and what becomes of its features.

For each width of the halo: tiles, Gaussians read for each one encoded, seconds, the cosine between the features of the
tiled and of the whole scene, and the share of Gaussians that keep their label.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.building import rooms
from benchmarks.report import parser, publish, seconds_of
from chorus_core.encoder import ChorusEncoder
from chorus_core.encoder.tiles import tiles
from chorus_core.gaussians import Gaussians
from chorus_core.io.any_scene import load_any_scene
from chorus_core.semantics.relevancy import classify
from chorus_core.semantics.text_encoder import load_text_encoder
from chorus_core.semantics.vocabulary import encode_labels, load_vocabulary

VOXEL = 0.02


def measure(
    encoder: ChorusEncoder, scene: Gaussians, whole: Tensor, names: Tensor, grid: float, max_points: int, halo: float
) -> dict[str, Any]:
    """One row.

    Args:
        whole: features of the scene in one pass [N, d].
        names: embedded labels [L, d].
    """
    labels = classify(whole, names)[0]
    read = [len(region) for region, _ in tiles(scene.means, max_points, halo)]
    found: list[Tensor] = []
    seconds = seconds_of(
        lambda: found.append(encoder.encode(scene, grid_size=grid, max_points=max_points, halo=halo)), encoder.device
    )
    cosine = torch.nn.functional.cosine_similarity(found[0].float(), whole.float(), dim=1)
    return {
        "halo_m": halo,
        "tiles": len(read),
        "read_per_encoded": round(sum(read) / len(scene), 3),
        "seconds": round(seconds, 2),
        "cosine_mean": round(float(cosine.mean()), 5),
        "cosine_p1": round(float(cosine.sort().values[len(cosine) // 100]), 5),
        "same_label": round(float((classify(found[0], names)[0] == labels).float().mean()), 5),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--scene", type=Path, help="a scene of Gaussians (default: rooms of our own)")
    options.add_argument("--gaussians", type=int, default=200_000, help="of these rooms")
    options.add_argument("--model", default="chorus_mini", help="name or path")
    options.add_argument("--grid", type=float, default=VOXEL, help="edge of the encoder's voxels, metres")
    options.add_argument("--max-points", type=int, default=60_000, help="Gaussians of a tile at most, with its halo")
    options.add_argument("--halo", type=float, nargs="+", default=[0.0, 0.2, 0.4, 0.8, 1.6], help="metres")
    a = options.parse_args(arguments)
    device = torch.device(a.device)
    scene = load_any_scene(a.scene).content if a.scene else rooms(a.gaussians, (0.0, 0.0, 0.0), VOXEL, a.seed)
    if not isinstance(scene, Gaussians):
        raise SystemExit(f"--scene {a.scene}: expected Gaussians, found points")
    encoder, scene = ChorusEncoder.from_pretrained(a.model, device), scene.to(device)
    text = load_text_encoder(encoder.description["text"]["encoder"], device)
    names = encode_labels(load_vocabulary("indoor"), text).to(device)
    whole = encoder.encode(scene, grid_size=a.grid, max_points=len(scene))
    rows = [measure(encoder, scene, whole, names, a.grid, a.max_points, halo) for halo in a.halo]
    source = a.scene.name if a.scene else f"floors, walls and ceilings at {VOXEL} m"
    publish("tiles", rows, device, a.out, input=f"{source}, {len(scene)} Gaussians", model=a.model)


if __name__ == "__main__":
    main()
