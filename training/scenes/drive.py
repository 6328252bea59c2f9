"""A simulated omnidirectional robot: follows way-points at a walking pace and turns towards what it should look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from training.scenes.camera import FreeSpace, plan_path, smooth


@dataclass(frozen=True)
class Waypoint:
    """Go to ``at`` (x, y) while looking at ``look`` (x, y), metres in the world."""

    at: tuple[float, float]
    look: tuple[float, float]


@dataclass(frozen=True)
class DriveLimits:
    """Speeds of the robot, in metres, radians and seconds."""

    speed: float = 0.75
    acceleration: float = 0.8
    yaw_rate: float = float(np.deg2rad(55))
    yaw_acceleration: float = float(np.deg2rad(140))


@dataclass(frozen=True)
class Drive:
    """base poses over time: stamps [N] seconds, xy [N, 2] metres, yaw [N] radians (continuous)."""

    stamps: np.ndarray
    xy: np.ndarray
    yaw: np.ndarray

    def at(self, stamp: float) -> tuple[np.ndarray, float]:
        """Position [2] and yaw at a time, interpolated."""
        x, y, yaw = (np.interp(stamp, self.stamps, v) for v in (self.xy[:, 0], self.xy[:, 1], self.yaw))
        return np.array([x, y]), float(yaw)


def simulate(space: FreeSpace, waypoints: Sequence[Waypoint], limits: DriveLimits, step: float = 0.02) -> Drive:
    """Drive through the way-points in order.

    The robot slows down while it still has to turn, so that it has seen what it passes.
    """
    legs = [plan_path(space, np.array(a.at), np.array(b.at)) for a, b in pairwise(waypoints)]
    path = smooth(np.concatenate([legs[0]] + [leg[1:] for leg in legs[1:]]), 9)
    ends = np.concatenate([[0], np.cumsum([len(leg) - 1 for leg in legs])])  # index in path of every way-point
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    # The look changes half way between way-points.
    change = (length[ends][1:] + length[ends][:-1]) / 2
    first = waypoints[0]
    yaw = float(np.arctan2(first.look[1] - first.at[1], first.look[0] - first.at[0]))
    travelled, speed, rate, time = 0.0, 0.0, 0.0, 0.0
    rows = []
    while True:
        xy = np.array([np.interp(travelled, length, path[:, k]) for k in range(2)])
        rows.append((time, *xy, yaw))
        wanted = waypoints[int(np.searchsorted(change, travelled))].look
        error = (np.arctan2(wanted[1] - xy[1], wanted[0] - xy[0]) - yaw + np.pi) % (2 * np.pi) - np.pi
        if travelled >= length[-1] - 0.01 and abs(error) < 0.05:
            break
        brake = np.sqrt(2 * limits.yaw_acceleration * max(abs(error) - 0.01, 0.0)) * 0.7
        target_rate = np.sign(error) * min(limits.yaw_rate, brake)
        rate += np.clip(target_rate - rate, -limits.yaw_acceleration * step, limits.yaw_acceleration * step)
        stop = np.sqrt(2 * limits.acceleration * max(length[-1] - travelled, 0.0))
        target_speed = min(limits.speed * float(np.clip(1.35 - abs(error) / 0.9, 0.12, 1.0)), stop)
        speed += np.clip(target_speed - speed, -limits.acceleration * step, limits.acceleration * step)
        travelled, yaw, time = min(travelled + speed * step, length[-1]), yaw + rate * step, time + step
        if time > 600:
            raise ValueError("the robot did not arrive within ten minutes; check the way-points")
    table = np.array(rows)
    return Drive(table[:, 0], table[:, 1:3], table[:, 3])
