"""The map on scenes whose truth is known in closed form."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from bodies import CAMERA, make_frame, moved, plane_depth, rays, sphere_depth
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_core.config import MapConfig
from chorus_core.gaussians import Gaussians
from chorus_core.io.gaussian_ply import load_gaussians, save_gaussians
from chorus_core.mapping import GaussianMap
from chorus_core.mapping.gaussian_map import BLOCK
from chorus_core.mapping.geometry import rotations_from_quats

CONFIG = MapConfig(voxel_size=0.04, min_hits=1)


def state(map_: GaussianMap) -> dict[int, tuple[float, ...]]:
    """What is stored, by birth: everything a fusing frame changes."""
    snapshot = map_.export(min_hits=0)
    g = snapshot.gaussians
    kept = snapshot.births >= 0
    values = torch.cat((g.means, g.colors, map_.store.hits[snapshot.slots][:, None]), dim=1)[kept].tolist()
    return dict(zip(snapshot.births[kept].tolist(), map(tuple, values), strict=True))


class Reader:
    """Of the blocks that changed, with or without what is left in them."""

    def __init__(self, map_: GaussianMap) -> None:
        self.map, self.cursor = map_, map_.cursor

    def read(self) -> torch.Tensor:
        changes = self.map.changes_since(self.cursor, "geometry")
        self.cursor = changes.cursor
        emptied = self.map.store.find_blocks(changes.removed)
        return torch.cat((changes.blocks, emptied[emptied >= 0]))


def voxels(points: torch.Tensor, size: float) -> torch.Tensor:
    return torch.floor(points / size).long()


# ---- shape of the map ---------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000), voxel=st.sampled_from([0.02, 0.05, 0.11]), frames=st.integers(1, 3))
@settings(max_examples=12, deadline=None)
def test_a_voxel_holds_one_gaussian_at_most(seed: int, voxel: float, frames: int) -> None:
    rng = np.random.default_rng(seed)
    map_ = GaussianMap(dataclasses.replace(CONFIG, voxel_size=voxel))
    for _ in range(frames):
        depth = rng.uniform(0.3, 4.5) + rng.normal(0, 0.05, (120, 160)) * rng.integers(0, 2)
        report = map_.integrate(make_frame(depth, pose=moved(*rng.uniform(-2, 2, 3), yaw=rng.uniform(-3, 3))))
        assert report.dropped == 0
    slots = map_.export(min_hits=0).slots
    cells = map_.store.slot_cell[slots]
    assert len(cells.unique()) == len(cells) == len(map_)
    assert torch.equal(map_.store.slab.view(-1)[cells].long(), slots), "each cell names the slot that names the cell"


def test_gaussians_of_one_frame_lie_in_their_own_voxels() -> None:
    map_ = GaussianMap(CONFIG)
    report = map_.integrate(make_frame(plane_depth(np.eye(4), np.array([0.6, 0.0, 0.8]), 1.5)))
    means = map_.export().gaussians.means
    cells = voxels(means, CONFIG.voxel_size)
    assert len(cells.unique(dim=0)) == len(cells) == report.added == report.touched == len(map_)


def test_negative_coordinates_are_voxels_like_others() -> None:
    """Floor, not truncation: a plane through the origin has as many Gaussians on either side of it."""
    map_ = GaussianMap(CONFIG)
    map_.integrate(make_frame(2.0, pose=moved(0.0, 0.0, -1.0)))
    means = map_.export().gaussians.means
    left, right = (means[:, 0] < 0).sum(), (means[:, 0] > 0).sum()
    assert abs(int(left) - int(right)) <= 0.05 * len(means)
    assert len(voxels(means, CONFIG.voxel_size).unique(dim=0)) == len(means)


# ---- truth --------------------------------------------------------------------------------------------------------


def test_plane_seen_from_several_sides() -> None:
    """A tilted textured wall: position, normal and colour of its Gaussians are the wall's."""
    normal, offset = np.array([0.2, -0.1, 0.97]) / np.linalg.norm([0.2, -0.1, 0.97]), 2.5
    map_ = GaussianMap(dataclasses.replace(CONFIG, min_hits=2))

    def texture(points: np.ndarray) -> np.ndarray:
        return np.stack([0.5 + 0.4 * np.sin(2.0 * points[..., i] + i) for i in range(3)], axis=-1)

    for i in range(9):
        pose = moved(0.1 * i - 0.4, 0.02 * i, 0.05 * i, yaw=0.05 * (i - 4))
        depth = plane_depth(pose, normal, offset)
        points = (rays(CAMERA) * depth[..., None]) @ pose[:3, :3].T + pose[:3, 3]
        map_.integrate(make_frame(depth, np.round(texture(points) * 255), pose))
    g = map_.export().gaussians
    means = g.means.double().numpy()
    assert len(g) > 2000
    assert np.abs(means @ normal - offset).max() < 1e-3
    z_axes = rotations_from_quats(g.quats)[..., 2].double().numpy()
    angles = np.degrees(np.arccos(np.clip(np.abs(z_axes @ normal), 0, 1)))
    assert np.median(angles) < 0.5
    assert np.percentile(angles, 80) < 2.0  # the rest was seen at the border of the image, which knows no normal
    assert np.abs(g.colors.numpy() - texture(means)).mean() < 0.02
    # Discs: flat along the normal, wide enough to meet their neighbours.
    assert (g.scales[:, 2] < g.scales[:, 0] / 2).all()
    assert (g.scales[:, 0] >= 0.5 * CONFIG.voxel_size).all()


def test_sphere_is_covered_once() -> None:
    """A ball seen all round: its Gaussians lie on it, are spread over all of it, and face outwards."""
    centre, radius = np.zeros(3), 0.5
    map_ = GaussianMap(CONFIG)
    for yaw in np.linspace(0, 2 * np.pi, 24, endpoint=False):
        pose = moved(-1.6 * np.sin(yaw), 0.0, -1.6 * np.cos(yaw), yaw)
        map_.integrate(make_frame(sphere_depth(pose, centre, radius), pose=pose))
    g = map_.export(min_hits=2).gaussians
    means = g.means.double().numpy()
    distance = np.linalg.norm(means, axis=1)
    assert np.abs(distance - radius).mean() < 2e-3
    assert np.abs(distance - radius).max() < 1e-2
    z_axes = rotations_from_quats(g.quats)[..., 2].double().numpy()
    aligned = np.abs((z_axes * means).sum(1) / distance)
    assert np.degrees(np.arccos(np.clip(np.median(aligned), 0, 1))) < 3.0
    # As many as voxels that the belt of the sphere within reach of the cameras crosses, give or take.
    belt = np.random.default_rng(0).normal(size=(400_000, 3))
    belt *= radius / np.linalg.norm(belt, axis=1, keepdims=True)
    belt = belt[np.abs(belt[:, 1]) < 0.3]
    occupied = len(np.unique(np.floor(belt / CONFIG.voxel_size), axis=0))
    assert 0.7 * occupied < (np.abs(means[:, 1]) < 0.3).sum() <= 1.05 * occupied


@pytest.mark.parametrize("voxel", [0.02, 0.04])
def test_noise_does_not_make_sheets(voxel: float) -> None:
    """Noise of structured light at 3 m: the wall is one layer, and its Gaussians are better than any frame."""
    rng = np.random.default_rng(0)
    map_ = GaussianMap(dataclasses.replace(CONFIG, voxel_size=voxel))
    z = 3.0 + voxel / 2
    for _ in range(20):
        map_.integrate(make_frame(z + rng.normal(0, 0.012, (120, 160))))
    g = map_.export(min_hits=7).gaussians
    columns = voxels(g.means, voxel)[:, :2]
    assert len(columns) < 1.15 * len(columns.unique(dim=0))
    assert (g.means[:, 2] - z).abs().median() < 0.004
    assert abs(float(g.means[:, 2].mean()) - z) < 0.001


def test_opacity_grows_with_evidence() -> None:
    map_ = GaussianMap(CONFIG)
    opacities = []
    for _ in range(5):
        map_.integrate(make_frame(2.0))
        opacities.append(float(map_.export().gaussians.opacities.median()))
    assert opacities == sorted(opacities)
    assert 0.5 < opacities[0] < opacities[-1] <= 0.995 + 1e-6


def test_a_change_of_colour_is_followed() -> None:
    map_ = GaussianMap(dataclasses.replace(CONFIG, max_weight=5.0))
    for _ in range(20):
        map_.integrate(make_frame(1.0, (255, 0, 0)))
    for _ in range(20):
        map_.integrate(make_frame(1.0, (0, 0, 255)))
    assert map_.export().gaussians.colors.mean(0)[2] > 0.9


# ---- carving ------------------------------------------------------------------------------------------------------


def room(box_at: float | None) -> np.ndarray:
    """Depth of a wall at 3 m with a box 1.2 m away in its middle, at a column of the image."""
    depth = np.full((120, 160), 3.0)
    if box_at is not None:
        start = int(box_at)
        depth[40:80, start : start + 30] = 1.2
    return depth


def near(map_: GaussianMap, z: float) -> int:
    return int(((map_.export().gaussians.means[:, 2] - z).abs() < 0.1).sum())


def test_what_moved_away_is_carved_and_what_took_its_place_stays() -> None:
    map_ = GaussianMap(CONFIG)
    for _ in range(3):
        map_.integrate(make_frame(room(20)))
    before = map_.export().gaussians.means
    box = (before[:, 2] - 1.2).abs() < 0.1
    assert box.sum() > 20
    carved = 0
    for _ in range(12):
        carved += map_.integrate(make_frame(room(100))).carved
    means = map_.export().gaussians.means
    on_box = means[(means[:, 2] - 1.2).abs() < 0.1]
    assert carved >= box.sum() * 0.9
    assert (on_box[:, 0] > 0).all(), "only the box at its new place is left"
    assert len(on_box) > 20


def test_a_surface_beyond_the_range_of_the_map_carves_what_left_the_space_before_it() -> None:
    map_ = GaussianMap(CONFIG)
    for _ in range(3):
        map_.integrate(make_frame(2.0))
    for _ in range(12):
        map_.integrate(make_frame(CONFIG.depth_max + 1.0))
    assert near(map_, 2.0) == 0


def test_what_is_occluded_is_not_carved() -> None:
    map_ = GaussianMap(CONFIG)
    for _ in range(3):
        map_.integrate(make_frame(3.0))
    wall = len(map_)
    for _ in range(15):
        assert map_.integrate(make_frame(1.0)).carved == 0
    assert near(map_, 3.0) == wall


def test_missing_depth_carves_nothing() -> None:
    """A black or glossy thing has no depth: that is no proof that one sees through it."""
    map_ = GaussianMap(CONFIG)
    for _ in range(2):
        map_.integrate(make_frame(room(60)))
    box = near(map_, 1.2)
    depth = room(None)
    depth[40:80, 60:90] = 0.0
    for _ in range(12):
        map_.integrate(make_frame(depth))
    assert near(map_, 1.2) >= 0.9 * box


def test_carving_can_be_turned_off() -> None:
    map_ = GaussianMap(dataclasses.replace(CONFIG, carve=False))
    for _ in range(3):
        map_.integrate(make_frame(1.0))
    for _ in range(12):
        assert map_.integrate(make_frame(3.0)).carved == 0
    assert near(map_, 1.0) > 100


def test_a_small_budget_still_carves_everything_in_turn() -> None:
    map_ = GaussianMap(dataclasses.replace(CONFIG, carve_budget=1280, stride=4))
    for _ in range(2):
        map_.integrate(make_frame(1.0))
    before = near(map_, 1.0)
    for _ in range(60):
        map_.integrate(make_frame(3.0))
    assert near(map_, 1.0) < 0.05 * before


# ---- limits -------------------------------------------------------------------------------------------------------


def test_cap_is_kept_and_the_map_goes_on() -> None:
    map_ = GaussianMap(dataclasses.replace(CONFIG, max_gaussians=3000))
    evicted = 0
    for i in range(30):
        report = map_.integrate(make_frame(2.0, pose=moved(x=1.0 * i)))
        evicted += report.evicted
        assert len(map_) <= 3000
        assert report.touched > 0
    assert evicted > 0
    means = map_.export().gaussians.means
    assert means[:, 0].max() > 29.0, "what is in view now is in the map"
    assert means[:, 0].min() > 5.0, "what was seen longest ago is gone"
    assert (map_.still_there(map_.export().slots, map_.export().births)).all()


def test_a_view_larger_than_the_cap_drops_the_rest() -> None:
    map_ = GaussianMap(dataclasses.replace(CONFIG, max_gaussians=1000))
    report = map_.integrate(make_frame(4.0))
    assert report.dropped > 0
    assert report.added == len(map_) == 1000
    again = map_.integrate(make_frame(4.0))
    assert again.touched > 0
    assert len(map_) <= 1000
    assert torch.isfinite(map_.export().gaussians.means).all()


def test_a_gaussian_that_a_pixel_joins_is_not_evicted_under_it() -> None:
    """A pixel may join the Gaussian of the voxel behind its own, in a block that no pixel of the frame lies in."""
    config = MapConfig(voxel_size=0.1, min_hits=1, max_gaussians=1000, stride=1, carve=False)
    border = 2 * BLOCK * config.voxel_size
    map_ = GaussianMap(config)
    depth = np.zeros((120, 160))
    for _ in range(3):
        depth[40:80, 60:100] = border + 0.02
        map_.integrate(make_frame(depth))
    wall = map_.export()
    far = torch.cartesian_prod(torch.arange(40), torch.arange(40), torch.tensor([0]))[: 1000 - len(map_)]
    ones = torch.ones(len(far))
    quats = torch.tensor((1.0, 0, 0, 0)).repeat(len(far), 1)
    means = (far + 0.5) * config.voxel_size + torch.tensor((100.0, 0.0, 0.0))
    map_.insert(Gaussians(means, quats, 0.05 * ones[:, None].expand(-1, 3), 0.9 * ones, ones[:, None].expand(-1, 3)))
    assert len(map_) == 1000

    depth[:] = 4.0  # needs room, which only the oldest blocks can give
    depth[40:80, 60:100] = border - 0.02
    assert map_.integrate(make_frame(depth)).evicted > 0
    assert map_.still_there(wall.slots, wall.births).float().mean() > 0.9
    depths = map_.export().gaussians.means[:, 2]
    assert (((depths - border).abs() < 0.05) | ((depths - 4.0).abs() < 0.05)).all(), "two surfaces were fused into one"


@pytest.mark.parametrize("min_hits", [1, 2, 4])
def test_min_hits(min_hits: int) -> None:
    map_ = GaussianMap(dataclasses.replace(CONFIG, min_hits=min_hits, carve=False))
    for i in range(5):
        map_.integrate(make_frame(2.0))
        handed_out = len(map_.export().gaussians)
        assert (handed_out > 0) == (i + 1 >= min(min_hits, i + 1))
    map_.integrate(make_frame(1.0))
    assert near(map_, 1.0) == (0 if min_hits > 1 else len(map_.export(min_hits=1).gaussians) - near(map_, 2.0))


def test_a_room_seen_once_is_handed_out_whole() -> None:
    """Views that share nothing: what one frame saw is all that is known of its place."""
    map_ = GaussianMap(MapConfig(voxel_size=0.04))
    for i in range(6):
        map_.integrate(make_frame(2.0, pose=moved(x=5.0 * i)))
    assert len(map_.export().gaussians) == len(map_) > 3000


def test_what_only_one_of_many_frames_measured_is_not_handed_out() -> None:
    """A blob 6 cm before a wall, within the noise that carving allows for: one frame measured it, five the wall."""
    map_ = GaussianMap(MapConfig(voxel_size=0.02))
    depth = np.full((120, 160), 1.0)
    depth[40:80, 60:100] = 0.94
    map_.integrate(make_frame(depth))
    blob = int((map_.export().gaussians.means[:, 2] < 0.98).sum())
    assert blob > 100
    reader = Reader(map_)
    for _ in range(5):
        assert map_.integrate(make_frame(1.0)).carved == 0
    assert int((map_.export().gaussians.means[:, 2] < 0.98).sum()) < 0.1 * blob
    assert map_.export(min_hits=1).gaussians.means[:, 2].min() < 0.98, "it is kept, should it be seen again"
    changed = reader.read()
    assert ((map_.store.block_centers(changed)[:, 2] - 0.9).abs() < 0.1).any(), "a block that loses it is a changed one"


def test_both_sides_of_a_board_seen_once_each_are_handed_out() -> None:
    """Its far side is within the noise of the near one; a frame of one says nothing of the other."""
    map_ = GaussianMap(MapConfig(voxel_size=0.02))
    map_.integrate(make_frame(1.0))  # a side at z = 1
    behind = moved(z=2.05, yaw=np.pi)
    map_.integrate(make_frame(1.0, pose=behind))  # and one at z = 1.05
    depths = map_.export().gaussians.means[:, 2]
    assert ((depths - 1.0).abs() < 0.01).sum() > 1000
    assert ((depths - 1.05).abs() < 0.01).sum() > 1000


def test_noise_goes_when_more_frames_look() -> None:
    """Of what the first 20 frames put beside a wall, ten more leave less than a rule of two hits; the wall is whole."""
    rng = np.random.default_rng(0)
    map_ = GaussianMap(MapConfig(voxel_size=0.02))
    for i in range(30):
        if i == 20:
            last = int(map_.export(min_hits=1).births.max())
        map_.integrate(make_frame(2.0 + np.kron(rng.normal(0, 0.02, (30, 40)), np.ones((4, 4)))))
    beside, columns = {}, {}
    for rule, snapshot in {"two hits": map_.export(min_hits=2), "ours": map_.export()}.items():
        means = snapshot.gaussians.means[snapshot.births <= last]
        beside[rule] = int(((means[:, 2] - 2.0).abs() > 0.05).sum())
        columns[rule] = len(voxels(means, 0.06)[:, :2].unique(dim=0))
    assert beside["two hits"] > 200
    assert beside["ours"] < 0.1 * beside["two hits"]
    assert columns["ours"] >= columns["two hits"]


def test_blocks_hand_out_what_the_map_does() -> None:
    map_ = GaussianMap(MapConfig(voxel_size=0.03))
    rng = np.random.default_rng(1)
    for i in range(5):
        map_.integrate(make_frame(1.5 + rng.normal(0, 0.03, (120, 160)), pose=moved(x=0.2 * i)))
    whole, parts = map_.export(), map_.export_blocks(map_.store.blocks())
    assert set(whole.births.tolist()) == set(parts.births.tolist())
    assert 0 < len(whole.births) < len(map_)


# ---- dirty blocks and snapshots -------------------------------------------------------------------------------------


def blocks_of(map_: GaussianMap, births: set[int], before: dict[int, int]) -> set[int]:
    return {before[b] for b in births if b in before}


def test_a_reader_learns_of_exactly_the_blocks_that_changed() -> None:
    rng = np.random.default_rng(3)
    map_ = GaussianMap(CONFIG)

    def block_by_birth() -> dict[int, int]:
        snapshot = map_.export(min_hits=0)
        blocks = map_.store.slot_cell[snapshot.slots] // BLOCK**3
        return dict(zip(snapshot.births.tolist(), blocks.tolist(), strict=True))

    map_.integrate(make_frame(2.0))
    reader = Reader(map_)
    assert reader.read().numel() == 0
    for step in range(6):
        before, where = state(map_), block_by_birth()
        pose = moved(x=rng.uniform(-1, 1), yaw=rng.uniform(-0.5, 0.5))
        map_.integrate(make_frame(1.5 + step * 0.3, pose=pose))
        after = state(map_)
        where |= block_by_birth()
        changed = {b for b in before.keys() | after.keys() if before.get(b) != after.get(b)}
        assert set(reader.read().tolist()) == blocks_of(map_, changed, where)


def test_export_of_the_changed_blocks_is_the_part_of_the_map_that_changed() -> None:
    map_ = GaussianMap(CONFIG)
    map_.integrate(make_frame(2.0))
    reader = Reader(map_)
    map_.integrate(make_frame(2.0, pose=moved(x=5.0)))
    part = map_.export_blocks(reader.read())
    assert len(part.gaussians) == (map_.export().gaussians.means[:, 0] > 2.5).sum()
    assert (part.gaussians.means[:, 0] > 2.5).all()


def test_block_centres_are_near_their_gaussians() -> None:
    map_ = GaussianMap(CONFIG)
    map_.integrate(make_frame(2.0, pose=moved(-3.0, -2.0, -5.0)))
    for block in map_.store.blocks()[::7]:
        part = map_.export_blocks(block[None]).gaussians.means
        half = BLOCK * CONFIG.voxel_size / 2
        assert ((part - map_.store.block_centers(block[None])).abs() <= half + 1e-5).all()


def test_snapshot_stays_as_it_is_and_knows_what_became_of_it() -> None:
    map_ = GaussianMap(CONFIG)
    for _ in range(3):
        map_.integrate(make_frame(room(60), (200, 10, 10), stamp=1.0))
    snapshot = map_.export()
    copies = [t.clone() for t in (snapshot.gaussians.means, snapshot.gaussians.colors, snapshot.slots, snapshot.births)]
    assert map_.still_there(snapshot.slots, snapshot.births).all()
    for _ in range(15):
        map_.integrate(make_frame(room(None), (10, 200, 10), stamp=2.0))
    kept = (snapshot.gaussians.means, snapshot.gaussians.colors, snapshot.slots, snapshot.births)
    assert all(torch.equal(a, b) for a, b in zip(copies, kept, strict=True))
    assert snapshot.stamp == 1_000_000_000
    there = map_.still_there(snapshot.slots, snapshot.births)
    box = (snapshot.gaussians.means[:, 2] - 1.2).abs() < 0.1
    assert not there[box].any(), "the box was carved"
    assert there[(snapshot.gaussians.means[:, 2] - 3.0).abs() < 0.1].all()
    # Its slots are used again; their births tell.
    for i in range(5):
        map_.integrate(make_frame(2.0, pose=moved(x=10.0 * (i + 1))))
    reused = map_.store.birth[snapshot.slots[box]]
    assert (reused >= 0).any()
    assert not map_.still_there(snapshot.slots[box], snapshot.births[box]).any()


def test_births_are_unique_and_grow() -> None:
    map_ = GaussianMap(dataclasses.replace(CONFIG, max_gaussians=2000))
    seen: set[int] = set()
    for i in range(10):
        before = set(map_.export(min_hits=0).births.tolist())
        map_.integrate(make_frame(2.0, pose=moved(x=1.5 * i)))
        births = map_.export(min_hits=0).births
        births = births[births >= 0].tolist()
        new = set(births) - before
        assert len(births) == len(set(births))
        assert not new & seen, "a serial number came back"
        seen |= new


# ---- bad depth ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 0.0, -1.0, 65.535, 1e-6, 3e38])
def test_depth_without_information_changes_nothing(bad: float) -> None:
    map_ = GaussianMap(CONFIG)
    for _ in range(2):
        map_.integrate(make_frame(2.0))
    reader = Reader(map_)
    before, opacities = state(map_), map_.export().gaussians.opacities
    report = map_.integrate(make_frame(bad))
    assert (report.pixels, report.touched, report.added, report.carved) == (0, 0, 0, 0)
    assert state(map_) == before
    assert torch.equal(map_.export().gaussians.opacities, opacities)
    assert reader.read().numel() == 0
    assert map_.integrate(make_frame(2.0)).touched > 0


def test_bad_pixels_do_not_spoil_good_ones() -> None:
    rng = np.random.default_rng(0)
    depth = np.full((120, 160), 2.0)
    depth[rng.random(depth.shape) < 0.4] = np.nan
    depth[rng.random(depth.shape) < 0.1] = 65.535
    map_ = GaussianMap(CONFIG)
    map_.integrate(make_frame(depth))
    g = map_.export().gaussians
    assert len(g) > 500
    assert ((g.means[:, 2] - 2.0).abs() < 1e-4).all()
    assert all(torch.isfinite(t).all() for t in (g.means, g.quats, g.scales, g.opacities, g.colors))


@pytest.mark.filterwarnings("error")
def test_read_only_images_are_taken() -> None:
    """As decoders of ROS messages give them."""
    frame = make_frame(2.0)
    frame.color.flags.writeable = frame.depth.flags.writeable = False
    assert GaussianMap(CONFIG).integrate(frame).touched > 0


# ---- saving and loading -------------------------------------------------------------------------------------------


def test_an_empty_map_exports_nothing() -> None:
    map_ = GaussianMap(CONFIG)
    assert len(map_) == len(map_.export().gaussians) == 0
    map_.insert(Gaussians.empty())
    assert len(map_) == 0


def test_ply_keeps_an_exported_map_and_insert_takes_it_back(tmp_path: Path) -> None:
    map_ = GaussianMap(CONFIG)
    map_.integrate(make_frame(room(60), np.random.default_rng(0).integers(70, 255, (120, 160, 3))))
    exported = map_.export().gaussians
    save_gaussians(tmp_path / "map.ply", exported)
    loaded = load_gaussians(tmp_path / "map.ply")
    for name, tolerance in (("means", 0), ("quats", 0), ("colors", 2e-8), ("opacities", 1e-7), ("scales", 1e-7)):
        assert (getattr(loaded, name) - getattr(exported, name)).abs().max() <= tolerance, name

    again = GaussianMap(CONFIG)
    again.insert(loaded, stamp=7)
    back = again.export()
    assert back.stamp == 7
    order_a = np.lexsort(exported.means.numpy().T)
    order_b = np.lexsort(back.gaussians.means.numpy().T)
    for name in ("means", "quats", "colors", "opacities", "scales"):
        a, b = getattr(exported, name)[order_a], getattr(back.gaussians, name)[order_b]
        assert torch.allclose(a, b, atol=1e-5), name


def test_inserted_gaussians_are_handed_out_and_fused_into() -> None:
    map_ = GaussianMap(dataclasses.replace(CONFIG, min_hits=3))
    source = GaussianMap(CONFIG)
    source.integrate(make_frame(2.0))
    map_.insert(source.export().gaussians)
    before = len(map_)
    assert len(map_.export().gaussians) == before > 0
    assert map_.integrate(make_frame(2.0)).touched > 0
    assert len(map_) <= 1.1 * before


def test_one_of_several_in_a_voxel_survives_insertion() -> None:
    map_ = GaussianMap(CONFIG)
    n = 50
    means = torch.rand(n, 3, generator=torch.Generator().manual_seed(0)) * CONFIG.voxel_size
    quats = torch.tensor((1.0, 0, 0, 0)).repeat(n, 1)
    map_.insert(Gaussians(means, quats, torch.full((n, 3), 0.02), torch.full((n,), 0.9), torch.full((n, 3), 0.5)))
    assert len(map_) == 1
    g = map_.export().gaussians
    assert ((g.means >= 0) & (g.means < CONFIG.voxel_size)).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_and_cpu_make_the_same_map() -> None:
    """Which of a voxel's pixels founds it differs; what is founded does not."""
    maps = [GaussianMap(CONFIG, device) for device in ("cpu", "cuda")]
    for i in range(6):
        frame = make_frame(plane_depth(moved(0.1 * i), np.array([0.6, 0.0, 0.8]), 1.5), pose=moved(0.1 * i))
        reports = [map_.integrate(frame) for map_ in maps]
        assert reports[0].touched == pytest.approx(reports[1].touched, rel=0.01)
    a, b = (map_.export().gaussians.to("cpu") for map_ in maps)
    assert len(a) == pytest.approx(len(b), rel=0.01)
    assert (torch.cdist(a.means[::10], b.means).amin(dim=1) < CONFIG.voxel_size).float().mean() > 0.99
