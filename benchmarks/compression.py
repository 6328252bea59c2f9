"""``python -m benchmarks.compression``: what storing features in a compact basis does to queries.

Every label of a vocabulary asks for the Gaussians most like it, among the features of a scene as the encoder gives them
and as they are stored; the recall is the share of the top 1 % of the first that is in the top 1 % of the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.building import rooms
from benchmarks.report import parser, publish
from chorus_core.encoder import ChorusEncoder
from chorus_core.gaussians import Gaussians
from chorus_core.io.any_scene import load_any_scene
from chorus_core.semantics.relevancy import FeatureBasis
from chorus_core.semantics.text_encoder import load_text_encoder
from chorus_core.semantics.vocabulary import encode_labels, load_vocabulary


def recalls(features: Tensor, texts: Tensor, basis: FeatureBasis, share: float) -> Tensor:
    """Recall of each text's top ``share`` [T].

    Args:
        features: as the encoder gives them [N, D].
        texts: unit [T, D].
    """
    stored, queries = basis.project(features, torch.float16), basis.project(texts)
    count = max(int(share * len(features)), 1)
    found = []
    for text, query in zip(texts, queries, strict=True):
        wanted = (features.float() @ text).topk(count).indices
        answered = torch.zeros(len(features), dtype=torch.bool, device=features.device)
        answered[(stored.float() @ query).topk(count).indices] = True
        found.append(answered[wanted].float().mean())
    return torch.stack(found)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--scene", type=Path, help="a scene of Gaussians (default: rooms of our own)")
    options.add_argument("--gaussians", type=int, default=100_000, help="of these rooms")
    options.add_argument("--model", default="chorus_mini", help="name or path; one with a text side")
    options.add_argument("--grid", type=float, default=0.05, help="edge of the encoder's voxels, metres")
    options.add_argument("--vocabulary", default="indoor")
    options.add_argument("--share", type=float, default=0.01, help="of the Gaussians that count as an answer")
    options.add_argument("--dims", type=int, nargs="*", default=[32, 64, 128], help="bases fitted to this scene")
    a = options.parse_args(arguments)
    device = torch.device(a.device)
    scene = load_any_scene(a.scene).content if a.scene else rooms(a.gaussians, (0.0, 0.0, 0.0), a.grid, a.seed)
    if not isinstance(scene, Gaussians):
        raise SystemExit(f"--scene {a.scene}: expected Gaussians, found points")
    encoder = ChorusEncoder.from_pretrained(a.model, device)
    features = encoder.encode(scene, grid_size=a.grid)
    text = load_text_encoder(encoder.description["text"]["encoder"], device)
    texts = encode_labels(load_vocabulary(a.vocabulary), text).to(device)

    bases = {f"fitted to the scene, {dim}": FeatureBasis.fit(features.float(), dim) for dim in a.dims}
    if "basis" in encoder.basis:
        shipped = FeatureBasis(encoder.basis["basis"])
        bases = {f"of the model, {shipped.dim}": shipped} | bases
    rows: list[dict[str, Any]] = []
    for name, basis in bases.items():
        found = recalls(features, texts, basis, a.share)
        kept = basis.project(features.float()).square().sum(1).mean()
        row = {"basis": name, "of squared length": float(kept), "recall_mean": float(found.mean())}
        rows.append(row | {"recall_p5": float(found.quantile(0.05)), "recall_min": float(found.min())})
    source = a.scene.name if a.scene else "floors, walls and ceilings"
    publish("compression", rows, device, a.out, input=source, Gaussians=len(scene), texts=len(texts), share=a.share)


if __name__ == "__main__":
    main()
