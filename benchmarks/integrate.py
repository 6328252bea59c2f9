"""``python -m benchmarks.integrate``: milliseconds to fuse a 640x480 frame into maps of several sizes.

The view is the same for every size (a drive down a synthetic hall, or a recording); the rest of the map is rooms
outside the camera's range. So the table shows whether time depends on what a frame sees or on what the map holds.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.building import drive, rooms
from benchmarks.report import parser, publish, seconds_of, spread, synchronize
from chorus_core.config import MapConfig
from chorus_core.frames import RgbdFrame
from chorus_core.mapping import GaussianMap


class StagedMap(GaussianMap):
    """A map that notes the time of each stage. The clock's waiting costs time itself: totals come from a plain map."""

    def __init__(self, config: MapConfig, device: torch.device) -> None:
        super().__init__(config, device)
        self.milliseconds: dict[str, list[float]] = {}

    def integrate(self, frame: RgbdFrame) -> Any:
        before = {stage: sum(times) for stage, times in self.milliseconds.items()}
        synchronize(self.device)
        began = time.perf_counter()
        report = super().integrate(frame)
        synchronize(self.device)
        total = 1e3 * (time.perf_counter() - began)
        stages = sum(
            sum(times) - before.get(stage, 0.0) for stage, times in self.milliseconds.items() if stage != "measure"
        )
        self.milliseconds.setdefault("measure", []).append(total - stages)
        return report

    def _slots_of(self, *arguments: Any) -> Any:
        return self._timed("slots", super()._slots_of, *arguments)

    def _fuse(self, *arguments: Any) -> Any:
        return self._timed("fuse", super()._fuse, *arguments)

    def _look_again(self, *arguments: Any) -> Any:
        return self._timed("carve", super()._look_again, *arguments)

    def _timed(self, stage: str, call: Any, *arguments: Any) -> Any:
        synchronize(self.device)
        began = time.perf_counter()
        result = call(*arguments)
        synchronize(self.device)
        self.milliseconds.setdefault(stage, []).append(1e3 * (time.perf_counter() - began))
        return result


def load_frames(sequence: Path | None, count: int, seed: int) -> list[RgbdFrame]:
    """``count`` frames of a recording (played back and forth where it is shorter), or of the synthetic drive."""
    if sequence is None:
        return drive(count, seed=seed)
    from chorus_core.io.rgbd import open_sequence

    recording = open_sequence(sequence)
    frames = []
    for frame in recording:
        frames.append(frame)
        if len(frames) == count:
            break
    there_and_back = frames + frames[-2:0:-1]
    return [there_and_back[i % len(there_and_back)] for i in range(count)]


def prepare(map_: GaussianMap, frames: Sequence[RgbdFrame], size: int, reach: Sequence[RgbdFrame]) -> None:
    """Integrate the warm-up frames and fill the map up to ``size`` with rooms out of any frame's range."""
    for frame in frames:
        map_.integrate(frame)
    missing = size - len(map_)
    if missing <= 0:
        return
    positions = np.stack([frame.world_from_camera[:3, 3] for frame in reach])
    away = map_.config.depth_max + 3.0
    origin = (float(positions[:, 0].min()), float(positions[:, 1].max()) + away, float(positions[:, 2].min()) - 1.2)
    voxel = map_.config.voxel_size
    map_.insert(rooms(missing, tuple(round(x / voxel) * voxel for x in origin), voxel))


def measure_size(
    frames: Sequence[RgbdFrame], warmup: int, size: int, config: MapConfig, device: torch.device
) -> dict[str, Any]:
    """One row of the table: times of the frames after the warm-up in a map of a size, whole and by stage."""
    map_ = GaussianMap(config, device)
    prepare(map_, frames[:warmup], size, frames)
    start = len(map_)
    times, touched = [], 0
    for frame in tqdm(frames[warmup:], desc=f"{size:,} Gaussians", leave=False, disable=None):
        synchronize(device)
        began = time.perf_counter()
        report = map_.integrate(frame)
        synchronize(device)
        times.append(1e3 * (time.perf_counter() - began))
        touched += report.touched
    row = {"Gaussians at start": start, "at end": len(map_), "frames": len(times), **spread(times)}
    row["touched a frame"] = round(touched / len(times))
    del map_

    staged = StagedMap(config, device)
    prepare(staged, frames[:warmup], size, frames)
    staged.milliseconds.clear()
    for frame in frames[warmup:]:
        staged.integrate(frame)
    for stage in ("measure", "slots", "fuse", "carve"):
        row[f"{stage} p50"] = float(np.median(staged.milliseconds.get(stage, [0.0])))
    return row


def measure_open3d(frames: Sequence[RgbdFrame], warmup: int, config: MapConfig) -> dict[str, Any] | str:
    """The same frames into Open3D's sparse TSDF on the CPU (from empty: it has no way to take Gaussians)."""
    try:
        import open3d as o3d
    except (ImportError, OSError) as error:
        return f"not measured: open3d is not installed ({error})"
    core = o3d.core
    cpu = core.Device("CPU:0")
    grid = o3d.t.geometry.VoxelBlockGrid(
        attr_names=("tsdf", "weight", "color"), attr_dtypes=(core.float32,) * 3, attr_channels=((1), (1), (3)),
        voxel_size=config.voxel_size, block_resolution=8, block_count=60_000, device=cpu,
    )  # fmt: skip
    times = []
    for frame in tqdm(frames, desc="Open3D", leave=False, disable=None):
        intrinsic = core.Tensor(frame.intrinsics.matrix)
        extrinsic = core.Tensor(np.linalg.inv(frame.world_from_camera))

        def integrate(frame: RgbdFrame = frame, intrinsic: Any = intrinsic, extrinsic: Any = extrinsic) -> None:
            depth = o3d.t.geometry.Image(core.Tensor(np.ascontiguousarray(frame.depth)))
            color = o3d.t.geometry.Image(core.Tensor(np.ascontiguousarray(frame.color)).to(core.float32))
            blocks = grid.compute_unique_block_coordinates(depth, intrinsic, extrinsic, 1.0, config.depth_max)
            grid.integrate(blocks, depth, color, intrinsic, intrinsic, extrinsic, 1.0, config.depth_max)

        times.append(1e3 * seconds_of(integrate, torch.device("cpu")))
    used = int(grid.hashmap().size())
    return {"Open3D": o3d.__version__, "blocks of 8^3": used, "frames": len(times) - warmup, **spread(times[warmup:])}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--voxel", type=float, default=0.02, help="edge of a voxel, metres")
    options.add_argument("--gaussians", type=int, nargs="+", default=[100_000, 1_000_000, 2_000_000], help="map sizes")
    options.add_argument("--frames", type=int, default=240, help="frames measured for each size")
    options.add_argument("--warmup", type=int, default=20, help="frames before that")
    options.add_argument("--sequence", type=Path, help="recording to use instead of the synthetic drive")
    a = options.parse_args(arguments)
    device = torch.device(a.device)
    torch.manual_seed(a.seed)

    frames = load_frames(a.sequence, a.warmup + a.frames, a.seed)
    config = dataclasses.replace(MapConfig(), voxel_size=a.voxel, max_gaussians=2 * max(a.gaussians) + 500_000)
    measure_size(frames[: a.warmup + 5], a.warmup, min(a.gaussians), config, device)  # first calls compile and allocate
    rows = [measure_size(frames, a.warmup, size, config, device) for size in a.gaussians]
    camera = frames[0].intrinsics
    extra: dict[str, Any] = {
        "input": f"{a.sequence.name if a.sequence else 'synthetic hall'}, {camera.width}x{camera.height}",
        "voxel_m": a.voxel,
    }
    if len(rows) > 1:
        medians = [row["p50_ms"] for row in rows]
        extra["ratio of medians, largest over smallest map"] = medians[-1] / medians[0]
    if device.type == "cpu":
        open3d = measure_open3d(frames, a.warmup, config)
        if isinstance(open3d, dict):
            rows.append({"Gaussians at start": f"Open3D {open3d.pop('Open3D')} TSDF", **open3d})
        else:
            extra["Open3D TSDF"] = open3d
    publish("integrate", rows, device, a.out, **extra)


if __name__ == "__main__":
    main()
