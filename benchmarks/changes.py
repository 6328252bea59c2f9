"""``python -m benchmarks.changes``: what a step of the node costs when 1 % of the map's blocks changed.

A map of rooms is filled and given a meaning: a word for each half metre of space, so that there are objects as in a
home. Then the blocks nearest to a place change, and are taken through all that the node does but the encoder itself:

- take: find what changed, choose what to encode, and copy it with its surroundings;
- label: compare features with the vocabulary and put both into the map;
- rows: bring the host's copy up to date; objects: form those anew that the change concerns;
- cloud: the message's bytes of the whole map, which is sent whole.

Bytes are what was newly allocated, by tensors and by NumPy together; those of a GPU are counted by its allocator.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.building import rooms
from benchmarks.report import parser, publish, seconds_of
from chorus_core.config import Config, parse
from chorus_core.mapping import MapSnapshot
from chorus_core.pipeline import Pipeline
from chorus_core.region import Region

CLOUD = np.dtype(
    [("x", "f4"), ("y", "f4"), ("z", "f4"), ("rgb", "u4"), ("label", "u4"), ("instance", "i4"), ("confidence", "f4")]
)
WORD = 0.5
"""Edge of the cells that have one meaning, metres."""
STAGES = ("take", "label", "rows", "objects", "cloud")


class Allocated(TorchDispatchMode):
    """Counts the bytes of new tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        known = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for t in tree_leaves(out):
            if isinstance(t, Tensor) and t.untyped_storage()._cdata not in known:
                self.bytes += t.untyped_storage().nbytes()
        return out


def mib_of(call: Callable[[], Any], device: torch.device) -> float:
    """MiB that a call allocates."""
    tracemalloc.start()
    on_device = _device_bytes(device)
    with Allocated() as tensors:
        call()
    _, host = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return ((_device_bytes(device) - on_device if device.type == "cuda" else tensors.bytes) + host) / 2**20


def _device_bytes(device: torch.device) -> int:
    return torch.cuda.memory_stats(device)["allocated_bytes.all.allocated"] if device.type == "cuda" else 0


class Step:
    """A map and what the node does when a part of it changed, stage by stage."""

    def __init__(self, count: int, share: float, device: torch.device, seed: int) -> None:
        options = {"device": device.type, "encoder.device": device.type, "map.max_gaussians": 2 * count}
        self.pipeline = Pipeline(parse(Config, options))
        self.map, self.semantics = self.pipeline.map, self.pipeline.semantics
        self._words = self.semantics.text.embed_labels(self.pipeline.vocabulary).to(device).float()
        self._generator = torch.Generator(device).manual_seed(seed)
        self.map.insert(rooms(count, (0.0, 0.0, 0.0), self.map.config.voxel_size, seed), 1)
        whole = self.map.export()
        self.semantics.update(whole, self._features(whole.gaussians.means))
        self.semantics.follow()
        self.pipeline._encoded = self.map.cursor
        blocks = self.map.store.blocks()
        away = (self.map.store.block_centers(blocks)[:, :2] - 3.0).norm(dim=1)
        self.changed = blocks[away.topk(max(1, round(share * len(blocks))), largest=False).indices]
        self._context: MapSnapshot
        self._owned: Tensor

    def change(self) -> None:
        """A frame's worth of news in some blocks."""
        self.map.insert(self.map.export_blocks(self.changed).gaussians, 2)

    def prepare(self, stage: str) -> Callable[[], Any]:
        """What does a stage, with all that it needs at hand."""
        if stage == "label":
            features = self._features(self._context.gaussians.means[self._owned])
            return lambda: self.semantics.update(self._context[self._owned], features)
        if stage == "objects":
            return self.semantics.follow
        return {"take": self._take, "rows": self._rows, "cloud": self._cloud}[stage]

    def _take(self) -> None:
        with self.map.lock:
            self.pipeline._note_changes()
            region = self.pipeline._scheduler.next(
                len(self.map), lambda box: self.map.count_in(self.map.blocks_within(box))
            )
            assert isinstance(region, Region)
            self._context = self.pipeline._copy(region)
            self._owned = region.owns(self._context.gaussians.means)
            while self.pipeline._scheduler.pending:  # the columns beside it, which the next steps would take
                self.pipeline._scheduler._changes.clear()

    def _rows(self) -> None:
        self.semantics._refresh()

    def _cloud(self) -> bytes:
        with self.semantics.rows() as rows:
            mirror, slots = rows.mirror, rows.mirror.handed_out
            cloud = np.empty(len(slots), CLOUD)
            for axis, name in enumerate("xyz"):
                cloud[name] = mirror.means[slots, axis]
            red, green, blue = mirror.colors[slots].astype(np.uint32).T
            cloud["rgb"] = (red << 16) | (green << 8) | blue
            cloud["label"] = mirror.labels[slots]
            cloud["instance"] = rows.tracker.object_of(slots, mirror.births[slots])
            cloud["confidence"] = mirror.confidence[slots]
            return cloud.tobytes()

    def _features(self, means: Tensor) -> Tensor:
        cell = torch.floor(means / WORD).long()
        word = (cell[:, 0] * 73856093 ^ cell[:, 1] * 19349663 ^ cell[:, 2] * 83492791) % len(self._words)
        noise = torch.randn((len(means), self._words.shape[1]), device=means.device, generator=self._generator)
        return torch.nn.functional.normalize(self._words[word] + 0.02 * noise, dim=1).half()


def measure(count: int, share: float, device: torch.device, repeat: int, seed: int) -> dict[str, Any]:
    """One row of the table: medians of each stage, and what it allocates."""
    step = Step(count, share, device, seed)
    times: dict[str, list[float]] = {stage: [] for stage in STAGES}
    row: dict[str, Any] = {}
    for turn in range(repeat + 1):
        step.change()
        for stage in STAGES:
            call = step.prepare(stage)
            if turn < repeat:
                times[stage].append(1e3 * seconds_of(call, device))
            else:
                row[f"{stage} MiB"] = mib_of(call, device)
    facts = {"Gaussians": len(step.map), "changed blocks": len(step.changed), "read": len(step._context.slots)}
    medians = {f"{stage} ms": float(np.median(times[stage])) for stage in STAGES}
    return facts | {"encoded": int(step._owned.sum())} | {k: v for s in STAGES for k, v in _pair(s, medians, row)}


def _pair(stage: str, medians: dict[str, float], row: dict[str, float]) -> list[tuple[str, float]]:
    return [(f"{stage} ms", medians[f"{stage} ms"]), (f"{stage} MiB", row[f"{stage} MiB"])]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--gaussians", type=int, nargs="+", default=[100_000, 500_000, 2_000_000])
    options.add_argument("--share", type=float, default=0.01, help="of the blocks that change")
    options.add_argument("--repeat", type=int, default=5)
    a = options.parse_args(arguments)
    device = torch.device(a.device)
    rows = [measure(count, a.share, device, a.repeat, a.seed) for count in a.gaussians]
    publish("changes", rows, device, a.out)


if __name__ == "__main__":
    main()
