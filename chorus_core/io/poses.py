"""Rigid transforms from vectors and quaternions, and between samples in time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation, Slerp


def matrix_from_pose(translation: Sequence[float], quaternion_xyzw: Sequence[float]) -> np.ndarray:
    """Rigid transform, float64 [4, 4], from a translation in metres [3] and a quaternion in ROS order xyzw [4].

    The quaternion is normalised. Non-finite input gives a non-finite matrix, for the caller to find with
    :func:`chorus_core.frames.check_rigid`; so does a quaternion shorter than 1e-6, which has no direction.
    """
    quaternion = np.asarray(quaternion_xyzw, dtype=np.float64)
    matrix = np.eye(4)
    matrix[:3, 3] = translation
    length = math.hypot(*quaternion)
    if not 1e-6 <= length < math.inf:
        matrix[:3, :3] = np.nan
    else:
        matrix[:3, :3] = Rotation.from_quat(quaternion / length).as_matrix()
    return matrix


def interpolate(stamp_a: float, a: np.ndarray, stamp_b: float, b: np.ndarray, stamp: float) -> np.ndarray:
    """Between two rigid transforms [4, 4] at ``stamp_a`` < ``stamp_b``: translation linear, rotation slerp."""
    fraction = (stamp - stamp_a) / (stamp_b - stamp_a)
    matrix = np.eye(4)
    # slerp as a part of the turn from a to b: a third of the time of scipy's Slerp, which is made for many times
    b_in_a = Rotation.from_matrix(a[:3, :3].T @ b[:3, :3]).as_rotvec()
    matrix[:3, :3] = a[:3, :3] @ Rotation.from_rotvec(fraction * b_in_a).as_matrix()
    matrix[:3, 3] = (1.0 - fraction) * a[:3, 3] + fraction * b[:3, 3]
    return matrix


def interpolate_trajectory(
    stamps: np.ndarray, transforms: np.ndarray, at: np.ndarray, max_gap: float
) -> tuple[np.ndarray, np.ndarray]:
    """A trajectory sampled at other times: translation linear, rotation slerp, nothing extrapolated.

    Args:
        stamps: strictly increasing, in any unit [M].
        transforms: rigid [M, 4, 4].
        at: in that unit [K].
        max_gap: in that unit, between the two samples around a time at most; a wider gap is not bridged.

    Returns:
        transforms [K, 4, 4] and whether each is known, bool [K] (identity where not).
    """
    result = np.tile(np.eye(4), (len(at), 1, 1))
    known = np.zeros(len(at), dtype=bool)
    if len(stamps) == 0 or len(at) == 0:
        return result, known
    after = np.clip(np.searchsorted(stamps, at, side="left"), 0, len(stamps) - 1)
    exact = stamps[after] == at
    before = np.maximum(after - 1, 0)
    known = exact | ((stamps[before] < at) & (at < stamps[after]) & (stamps[after] - stamps[before] <= max_gap))
    if not known.any():  # scipy before 1.16 refuses to turn no rotations
        return result, known
    if len(stamps) == 1:
        result[known] = transforms[0]
        return result, known
    times, inside = stamps - stamps[0], at[known] - stamps[0]  # as floats they would lose digits
    result[known, :3, :3] = Slerp(times, Rotation.from_matrix(transforms[:, :3, :3]))(inside).as_matrix()
    for axis in range(3):
        result[known, axis, 3] = np.interp(inside, times, transforms[:, axis, 3])
    return result, known


def associate(stamps_a: np.ndarray, stamps_b: np.ndarray, tolerance: float) -> list[tuple[int, int]]:
    """Pairs (index into a, index into b) of stamps at most ``tolerance`` apart, the closest taken first.

    The greedy rule of the TUM benchmark's association tool. Each index occurs once at most; the pairs are in the order
    of ``stamps_a``. Stamps [M], [K], in one unit, need not be sorted.
    """
    order = np.argsort(stamps_b, kind="stable")
    first = np.searchsorted(stamps_b[order], stamps_a - tolerance, side="left")
    last = np.searchsorted(stamps_b[order], stamps_a + tolerance, side="right")
    candidates = [(int(a), int(b)) for a in range(len(stamps_a)) for b in order[first[a] : last[a]]]
    candidates.sort(key=lambda pair: abs(stamps_a[pair[0]] - stamps_b[pair[1]]))
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for a, b in candidates:
        if a not in pairs and b not in taken:
            pairs[a] = b
            taken.add(b)
    return sorted(pairs.items(), key=lambda pair: stamps_a[pair[0]])
