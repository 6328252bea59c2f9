"""What the gate lets into the map of a room: true frames all, wrong ones not, and what turned out true after all."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable

import numpy as np
import pytest
from bodies import FURNITURE, Box, looking, make_frame, room_frame

from chorus_core.config import GateConfig, MapConfig
from chorus_core.frames import RgbdFrame
from chorus_core.mapping import FrameGate, GaussianMap
from chorus_core.stamps import SECOND

RATE = 10.0
CONFIG = GateConfig(still_frames=0)


class Gated:
    """A map behind a gate."""

    def __init__(self, config: GateConfig = CONFIG) -> None:
        self.gate, self.map = FrameGate(config), GaussianMap(MapConfig(voxel_size=0.04, min_hits=1))

    def feed(self, frames: Iterable[RgbdFrame]) -> list[str]:
        """The causes, one a frame."""
        causes = []
        for frame in frames:
            causes.append(self.gate.judge(frame, self.map))
            if not causes[-1]:
                self.map.integrate(frame)
        return causes


def tour(count: int, start: int = 0) -> list[np.ndarray]:
    """Poses of a robot that circles in the room and looks outwards."""
    angles = 0.05 * np.arange(start, start + count)
    return [looking(0.8 * np.cos(a) - 0.5, 0.8 * np.sin(a), a) for a in angles]


def seen(poses: Iterable[np.ndarray], start: int = 0, boxes: Iterable[Box] = FURNITURE) -> list[RgbdFrame]:
    rng = np.random.default_rng(0)
    return [room_frame(pose, (start + i) / RATE, tuple(boxes), rng) for i, pose in enumerate(poses)]


@pytest.fixture(scope="module")
def after_a_round() -> Gated:
    gated = Gated()
    assert not any(gated.feed(seen(tour(130))))
    return gated


@pytest.fixture
def toured(after_a_round: Gated) -> Gated:
    """After one round of the room (frames 0 to 129)."""
    return copy.deepcopy(after_a_round)


def turned(frame: RgbdFrame, by: np.ndarray) -> RgbdFrame:
    pose = frame.world_from_camera.copy()
    pose[:3, :3] = pose[:3, :3] @ by
    return dataclasses.replace(frame, world_from_camera=pose)


def far_away(frame: RgbdFrame, metres: float = 50.0) -> RgbdFrame:
    pose = frame.world_from_camera.copy()
    pose[0, 3] += metres
    return dataclasses.replace(frame, world_from_camera=pose)


# ---- pose_jump ----------------------------------------------------------------------------------------------------


def test_three_frames_far_off_leave_nothing_in_the_map(toured: Gated) -> None:
    frames = seen(tour(8, 130), 130)
    causes = toured.feed([*frames[:2], *map(far_away, frames[2:5]), *frames[5:]])
    assert causes == ["", "", "pose_jump", "pose_jump", "pose_jump", "", "", ""]
    assert toured.gate.held == {"pose_jump": 3}
    assert float(toured.map.export().gaussians.means[:, 0].max()) < 3.2


def test_a_turn_faster_than_any_robot_is_a_jump() -> None:
    gated = Gated()
    frames = seen([looking(0, 0, 0.0)] * 2 + [looking(0, 0, 3.0)] + [looking(0, 0, 0.02)])
    assert gated.feed(frames) == ["", "", "pose_jump", ""]


def test_a_teleport_that_stays_is_let_in_after_as_many_frames_as_configured(toured: Gated) -> None:
    causes = toured.feed(map(far_away, seen(tour(15, 130), 130)))
    assert causes == ["pose_jump"] * CONFIG.release + [""] * (15 - CONFIG.release)


def test_poses_that_fit_nothing_are_never_let_in(toured: Gated) -> None:
    rng = np.random.default_rng(1)
    frames = [far_away(f, float(rng.uniform(50, 1e4))) for f in seen(tour(30, 130), 130)]
    assert set(toured.feed(frames)) == {"pose_jump"}


def test_a_jump_to_where_the_map_agrees_is_a_relocalisation(toured: Gated) -> None:
    assert toured.feed(seen(tour(3, 60), 130)) == ["", "", ""], "half a round in a tenth of a second"


def test_the_same_view_elsewhere_is_no_relocalisation(toured: Gated) -> None:
    assert toured.feed([far_away(seen(tour(1, 130), 130)[0], 1.6)]) == ["pose_jump"]


@pytest.mark.parametrize("change", [{"timed": False}, {"stamp": 0}])
def test_stamps_that_are_made_up_or_go_back_are_no_ground_to_judge_speed(toured: Gated, change: dict) -> None:
    frame = dataclasses.replace(far_away(seen(tour(1, 130), 130)[0]), **change)
    assert toured.feed([frame]) == [""]


def test_time_that_passed_allows_for_the_way() -> None:
    gated = Gated()
    there = make_frame(2.0, pose=looking(20.0, 0, 0), stamp=3.0)
    assert gated.feed([make_frame(2.0, pose=looking(0, 0, 0), stamp=0.0), there]) == ["", ""]


# ---- against_map --------------------------------------------------------------------------------------------------

ROLLED = np.diag([-1.0, -1.0, 1.0])  # the image upside down
ABOUT = np.diag([-1.0, 1.0, -1.0])  # looking back


@pytest.mark.parametrize(("by", "share"), [(ROLLED, 0.7), (ABOUT, 0.5)])
def test_most_views_turned_against_the_map_are_held_back(toured: Gated, by: np.ndarray, share: float) -> None:
    """The turn alone would be a jump: with invented stamps, only the map can tell.

    Not all: what seems to stand before the map may be people.
    """
    frames = [dataclasses.replace(turned(f, by), timed=False) for f in seen(tour(130, 130)[::9], 130)]
    gated = Gated(dataclasses.replace(CONFIG, release=1000))
    gated.map = toured.map
    causes = gated.feed(frames)
    assert causes.count("against_map") > share * len(causes), causes


def test_a_world_that_changed_wholly_is_accepted_and_the_gate_watches_again(toured: Gated) -> None:
    """A lift that opens its doors elsewhere: same pose, everything farther away."""
    pose, start = tour(1, 130)[0], 130
    stays = [room_frame(pose, (start + i) / RATE) for i in range(3)]
    assert toured.feed(stays) == ["", "", ""]
    elsewhere = [
        make_frame(stays[0].depth + 1.5 + np.linspace(0, 1, 160), pose=pose, stamp=14 + i / RATE) for i in range(30)
    ]
    causes = toured.feed(elsewhere)
    assert causes == ["against_map"] * CONFIG.release + [""] * (30 - CONFIG.release)
    upset = dataclasses.replace(elsewhere[-1], depth=elsewhere[-1].depth * 2, stamp=17 * SECOND)
    assert toured.feed([upset]) != [""]


def test_walking_people_trip_nothing(toured: Gated) -> None:
    """Two people cross the view close by, stand, and go again, while the robot drives."""
    causes = []
    for i, pose in enumerate(tour(130, 130)):
        ahead = pose[:2, 3] + 1.0 * pose[:2, 2] + 0.8 * np.sin(0.15 * i) * pose[:2, 0]
        beside = pose[:2, 3] + 1.6 * pose[:2, 2] + 1.0 * np.cos(0.1 * i) * pose[:2, 0]
        people = tuple(((x - 0.25, y - 0.25, 0.0), (x + 0.25, y + 0.25, 1.8)) for x, y in (ahead, beside))
        causes += toured.feed([room_frame(pose, (130 + i) / RATE, (*FURNITURE, *people))])
    assert not any(causes)


def test_a_hand_before_the_lens_and_gone_again_trips_nothing(toured: Gated) -> None:
    pose = tour(1, 130)[0]
    hand = [make_frame(0.4, pose=pose, stamp=13 + i / RATE) for i in range(20)]
    after = [room_frame(pose, 15 + i / RATE) for i in range(3)]
    assert not any(toured.feed([*hand, *after]))


# ---- depth_scale --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.001, 0.2, 0.5, 1.5, 2.0, 5.0, 1000.0])
def test_depth_off_by_a_factor_is_held_back(toured: Gated, factor: float) -> None:
    frames = [dataclasses.replace(f, depth=f.depth * np.float32(factor)) for f in seen(tour(5, 130), 130)]
    assert toured.feed(frames) == ["depth_scale"] * 5


def test_a_board_put_before_a_wall_is_no_scale() -> None:
    gated = Gated()
    wall = [make_frame(2.0, stamp=i / RATE) for i in range(5)]
    board = [make_frame(1.2, stamp=(5 + i) / RATE) for i in range(5)]
    assert not any(gated.feed([*wall, *board]))


# ---- options ------------------------------------------------------------------------------------------------------


def test_every_check_can_be_turned_off(toured: Gated) -> None:
    off = GateConfig(max_speed=0, max_turn_rate=0, against_map=0, depth_scale=0, still_frames=0)
    gated = Gated(off)
    gated.map = toured.map
    frames = seen(tour(4, 130), 130)
    wrong = [far_away(frames[0]), turned(frames[1], ROLLED), dataclasses.replace(frames[2], depth=frames[2].depth * 2)]
    assert gated.feed([frames[3], *wrong]) == [""] * 4


def test_missing_depth_is_no_doubt(toured: Gated) -> None:
    pose = tour(1, 130)[0]
    assert toured.feed([make_frame(np.nan, pose=pose, stamp=13.0), make_frame(0.0, pose=pose, stamp=13.1)]) == ["", ""]
