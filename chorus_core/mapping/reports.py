"""What a map hands out: a copy of a part of it, and what a frame did."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from chorus_core.gaussians import Gaussians


@dataclass
class MapSnapshot:
    """A copy of (part of) the map that stays as it is while the map moves on.

    Attributes:
        gaussians: N Gaussians in the world frame.
        slots: where each lives in the map's arrays, int64 [N].
        births: serial number of each, never reused, int64 [N]; a slot whose birth changed holds another Gaussian.
        stamp: of the last integrated frame, nanoseconds.
    """

    gaussians: Gaussians
    slots: Tensor
    births: Tensor
    stamp: int

    def __getitem__(self, index: Tensor) -> MapSnapshot:
        """The Gaussians selected by a mask or index tensor."""
        return MapSnapshot(self.gaussians[index], self.slots[index], self.births[index], self.stamp)


@dataclass
class IntegrateReport:
    """What one frame did to the map."""

    pixels: int
    touched: int
    added: int
    carved: int
    evicted: int
    dropped: int
    held: str = ""
    """Why the frame was held back instead; see :mod:`chorus_core.mapping.frame_gate`."""
