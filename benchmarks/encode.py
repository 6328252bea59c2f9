"""``python -m benchmarks.encode``: seconds and memory to encode maps of several sizes, whole and by part.

``chorus_mini`` with its shipped weights, or with random ones where they are absent (time does not depend on them); on
CUDA the release-size model with random weights, too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.building import rooms
from benchmarks.report import parser, peak_memory_mib, publish, repeat, reset_peak_memory, synchronize
from chorus_core.config import EncoderConfig
from chorus_core.encoder import ChorusEncoder
from chorus_core.encoder.checkpoint import SHIPPED
from chorus_core.encoder.model import ChorusModel, ModelConfig
from chorus_core.encoder.smoothing import smooth
from chorus_core.gaussians import Gaussians

VOXEL = 0.02


class TimedEncoder(ChorusEncoder):
    """An encoder that adds up the seconds of its parts; ``rest`` of an encode is cutting tiles and voxelizing."""

    def reset(self) -> None:
        self.seconds = {"hierarchy": 0.0, "backbone": 0.0, "head": 0.0}
        self.passes = 0

    def _pass(self, grid: Tensor, feat: Tensor, head: str | None) -> Tensor:
        self.passes += 1
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            clock = [self._now()]
            levels = self.model.hierarchy(grid, torch.tensor([grid.shape[0]], device=grid.device))
            clock.append(self._now())
            upcast = self.model(feat, levels)
            clock.append(self._now())
            out = (upcast if head is None else self.model.project(upcast, head)).half()
            clock.append(self._now())
        for part, seconds in zip(self.seconds, np.diff(clock), strict=True):
            self.seconds[part] += float(seconds)
        return out

    def _now(self) -> float:
        synchronize(self.device)
        return time.perf_counter()


def models(device: torch.device, only: str | None) -> Iterator[tuple[str, TimedEncoder]]:
    """The models to measure, each with a name that says where its weights are from."""
    if only in (None, "mini"):
        if (SHIPPED / "chorus_mini" / "config.json").is_file():
            yield "chorus_mini (shipped)", TimedEncoder.from_pretrained("chorus_mini", device)
        else:
            from training.configs import RECIPES

            yield "chorus_mini (random weights)", TimedEncoder(ChorusModel(RECIPES["chorus_mini"].model), device=device)
    if only == "release" or (only is None and device.type == "cuda"):
        yield "release size (random weights)", TimedEncoder(ChorusModel(ModelConfig()), device=device)


def measure_encode(encoder: TimedEncoder, scene: Gaussians, max_points: int, times: int) -> dict[str, Any]:
    """One row: p50 of the plain encoder, peak memory of that, smoothing, and the split from another timed pass."""

    def encode(which: ChorusEncoder = encoder) -> Tensor:
        return which.encode(scene, max_points=max_points)

    plain = ChorusEncoder(encoder.model, device=encoder.device)
    encode(plain)
    reset_peak_memory(encoder.device)
    seconds = repeat(lambda: encode(plain), encoder.device, warmup=0, times=times) / 1e3
    peak = peak_memory_mib(encoder.device)
    parts: list[dict[str, float]] = []
    for _ in range(min(times, 3)):
        encoder.reset()
        total = repeat(encode, encoder.device, warmup=0, times=1)[0] / 1e3
        parts.append({**encoder.seconds, "rest": total - sum(encoder.seconds.values())})
    row = {
        "Gaussians": len(scene),
        "passes": encoder.passes,
        "p50_s": float(np.median(seconds)),
        "max_s": float(seconds.max()),
    }
    row["peak_MiB"] = round(peak)
    features = torch.randn((len(scene), 96), device=encoder.device).half()  # the shipped model's width
    points, rounds = scene.means.to(encoder.device), EncoderConfig().smoothing
    grid = encoder.model.config.grid_size
    smoothing = repeat(lambda: smooth(features, points, grid, rounds), encoder.device, warmup=1, times=times) / 1e3
    row["smooth_s"] = float(np.median(smoothing))
    return row | {f"{part}_s": float(np.median([p[part] for p in parts])) for part in parts[0]}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument(
        "--gaussians", type=int, nargs="+", help="map sizes (default 50k; on CUDA also 200k, 500k and 1M)"
    )
    options.add_argument("--max-points", type=int, default=500_000, help="Gaussians of a pass at most; more are tiled")
    options.add_argument("--repeat", type=int, default=5, help="measured encodes of each map")
    options.add_argument("--model", choices=("mini", "release"), help="only this one")
    a = options.parse_args(arguments)
    device = torch.device(a.device)
    torch.manual_seed(a.seed)
    sizes = a.gaussians or ([50_000] if device.type == "cpu" else [50_000, 200_000, 500_000, 1_000_000])

    rows = []
    for name, encoder in models(device, a.model):
        parameters = sum(p.numel() for p in encoder.model.parameters()) / 1e6
        for size in sizes:
            scene = rooms(size, (0.0, 0.0, 0.0), VOXEL, a.seed).to(device)
            row = {"model": f"{name}, {parameters:.1f} M"}
            try:
                rows.append(row | measure_encode(encoder, scene, a.max_points, a.repeat))
            except torch.OutOfMemoryError:
                rows.append(row | {"Gaussians": len(scene), "p50_s": "out of memory"})
                torch.cuda.empty_cache()
    memory = "tensors allocated on the GPU, model included" if device.type == "cuda" else "resident set of the process"
    publish("encode", rows, device, a.out, input=f"floors, walls and ceilings at {VOXEL} m", **{"peak_MiB is": memory})


if __name__ == "__main__":
    main()
