"""The transform buffer against tf2's own rules, written down again from its ``TimeCache``, edge by edge.

What differs is on purpose, and tested elsewhere: a limit to interpolate over, a clock that is set back, and that the
earlier parent's own samples are interpolated between two under different parents, where tf2 holds the earlier one.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from chorus_core.io.transform_buffer import TransformBuffer, TransformError, TransformNotYetError

CACHE = 10.0


class TimeCache:
    """What tf2 keeps of a child: ``insertData``, ``findClosest`` and ``getData`` of tf2/src/cache.cpp, as rules."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, str, np.ndarray]] = []  # by stamp

    def insert(self, stamp: float, parent: str, matrix: np.ndarray) -> bool:
        """Data older than the newest by more than the cache is ignored; what the cache no longer reaches goes."""
        if self.samples and self.samples[-1][0] > stamp + CACHE:
            return False
        self.samples.append((stamp, parent, matrix))
        self.samples.sort(key=lambda sample: sample[0])
        newest = self.samples[-1][0]
        self.samples = [sample for sample in self.samples if sample[0] + CACHE >= newest]
        return True

    def get(self, stamp: float) -> tuple[str, np.ndarray | None]:
        """The parent at a stamp and parent_from_child; None, for the matrix, where it would extrapolate."""
        if not self.samples:
            return "", None
        stamps = [sample[0] for sample in self.samples]
        if stamp in stamps:
            return self.samples[stamps.index(stamp)][1:]
        if stamp < stamps[0] or stamp > stamps[-1]:
            return "past" if stamp < stamps[0] else "future", None
        after = next(i for i, there in enumerate(stamps) if there > stamp)
        (t0, parent, a), (t1, other, b) = self.samples[after - 1], self.samples[after]
        return parent, a if parent != other else between(a, b, (stamp - t0) / (t1 - t0))


def between(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """Positions on a line, rotations on the shorter arc, by quaternions as in tf2."""
    p, q = (Rotation.from_matrix(m[:3, :3]).as_quat() for m in (a, b))
    q = q if p @ q >= 0 else -q
    angle = math.acos(min(1.0, float(p @ q)))
    weights = (1 - share, share) if angle < 1e-7 else (math.sin((1 - share) * angle), math.sin(share * angle))
    found = np.eye(4)
    found[:3, :3] = Rotation.from_quat(weights[0] * p + weights[1] * q).as_matrix()
    found[:3, 3] = (1 - share) * a[:3, 3] + share * b[:3, 3]
    return found


def random_pose(rng: np.random.Generator) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = Rotation.random(random_state=int(rng.integers(2**31))).as_matrix()
    pose[:3, 3] = rng.normal(size=3)
    return pose


def asked(buffer: TransformBuffer, parent: str, stamp: float) -> tuple[str, np.ndarray | None]:
    try:
        return parent, buffer.lookup(parent, "child", stamp)
    except TransformNotYetError:
        return "future", None
    except TransformError:
        return "past", None


@given(
    st.lists(st.integers(0, 400), min_size=1, max_size=40, unique=True), st.lists(st.integers(-20, 420), max_size=30)
)
@settings(max_examples=150, deadline=None)
def test_one_parent(arrivals: list[int], questions: list[int]) -> None:
    """Samples in any order within the cache: the same transform, or the same end of what is known is passed."""
    rng = np.random.default_rng(len(arrivals))
    cache, buffer = TimeCache(), TransformBuffer(history=CACHE)
    for tick in arrivals:
        stamp, pose = tick / 16, random_pose(rng)
        if cache.insert(stamp, "parent", pose):  # older ones mean, here, that the clock was set back
            buffer.set_transform("parent", "child", stamp, pose)
    for stamp in [tick / 16 for tick in (*questions, *arrivals)] + [a / 16 + 0.01 for a in arrivals]:
        expected, found = cache.get(stamp), asked(buffer, "parent", stamp)
        assert expected[0] == found[0]
        if expected[1] is None:
            assert found[1] is None
        else:
            np.testing.assert_allclose(found[1], expected[1], atol=1e-9)


@given(st.integers(0, 10_000))
@settings(max_examples=100, deadline=None)
def test_two_parents(seed: int) -> None:
    """A child hangs, at each stamp, from the parent that was named last before it, and has what it had at a sample."""
    rng = np.random.default_rng(seed)
    cache, buffer = TimeCache(), TransformBuffer(history=CACHE)
    for name in ("one", "two"):
        buffer.set_transform("root", name, 0.0, np.eye(4), static=True)
    stamps = np.sort(rng.choice(np.arange(1, 160), 14, replace=False)) / 16
    for stamp in stamps:
        pose, parent = random_pose(rng), ("one", "two")[int(rng.integers(2))]
        cache.insert(float(stamp), parent, pose)
        buffer.set_transform(parent, "child", float(stamp), pose)
    for stamp, (_, parent, pose) in zip(stamps, cache.samples, strict=True):
        np.testing.assert_allclose(buffer.lookup("root", "child", float(stamp)), pose, atol=1e-9)
        assert cache.get(float(stamp))[0] == parent
    for before, after in zip(cache.samples, cache.samples[1:], strict=False):
        middle = (before[0] + after[0]) / 2
        parent, expected = cache.get(middle)
        if before[1] == after[1]:
            np.testing.assert_allclose(buffer.lookup("root", "child", middle), expected, atol=1e-9)
    for stamp, kind in ((stamps[0] - 0.01, TransformError), (stamps[-1] + 0.01, TransformNotYetError)):
        with pytest.raises(kind):
            buffer.lookup("root", "child", float(stamp))


def test_what_is_older_than_the_cache_is_gone() -> None:
    cache, buffer = TimeCache(), TransformBuffer(history=CACHE)
    for stamp in (0.0, 4.0, 12.0):
        cache.insert(stamp, "parent", np.eye(4))
        buffer.set_transform("parent", "child", stamp, np.eye(4))
    assert cache.get(1.0) == ("past", None)
    with pytest.raises(TransformError, match=r"3\.000 s before the oldest sample, at 4\.000000 s"):
        buffer.lookup("parent", "child", 1.0)
    assert buffer.lookup("parent", "child", 5.0) is not None
