"""Votes for instances, and scene files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("embreex")

from chorus_core.frames import CameraIntrinsics
from chorus_core.gaussians import Gaussians
from training.scenes.colors import COLOR_NAMES, color_jitter, color_name
from training.scenes.instance import Instance
from training.scenes.label import LabelView, vote_labels
from training.scenes.scene_file import SceneFileError, load_scene, save_scene

INTRINSICS = CameraIntrinsics(50.0, 50.0, 19.5, 14.5, 40, 30)


def wall_view(depth: float = 2.0, instance: np.ndarray | None = None) -> LabelView:
    """A camera at the origin before a wall; the left half is instance 0, the right half 1."""
    if instance is None:
        instance = np.zeros((30, 40), np.int32)
        instance[:, 20:] = 1
    return LabelView(np.full((30, 40), depth, np.float32), instance, INTRINSICS, np.eye(4))


def test_points_take_the_instance_they_project_to():
    means = np.array([[-0.5, 0, 2.0], [0.5, 0, 2.0], [0.5, 0, 1.0], [0.5, 0, 3.0], [0, 0, -2.0], [9, 0, 2.0]])
    assert vote_labels(means, [wall_view()], 2).tolist() == [0, 1, -1, -1, -1, -1]


def test_a_tie_is_ambiguous_and_a_majority_is_not():
    other = wall_view(instance=np.ones((30, 40), np.int32))
    means = np.array([[-0.5, 0, 2.0]])
    assert vote_labels(means, [wall_view(), other], 2).tolist() == [-1]
    assert vote_labels(means, [wall_view(), wall_view(), other], 2).tolist() == [0]


def test_unlabelled_pixels_do_not_vote():
    none = wall_view(instance=np.full((30, 40), -1, np.int32))
    assert vote_labels(np.array([[-0.5, 0, 2.0]]), [none, wall_view()], 2).tolist() == [0]
    assert vote_labels(np.zeros((0, 3)), [none], 2).shape == (0,)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_votes_follow_a_rigid_change_of_world(seed: int):
    rng = np.random.default_rng(seed)
    means = np.column_stack([rng.uniform(-0.7, 0.7, (50, 2)), rng.uniform(1.9, 2.1, 50)])
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    move = np.eye(4)
    move[:3, :3], move[:3, 3] = q * np.sign(np.linalg.det(q)), rng.normal(size=3)
    view = wall_view()
    moved = LabelView(view.depth, view.instance, view.intrinsics, move @ view.world_from_camera)
    away = np.abs(means[:, 0]) > 0.03  # a pixel's width: the border itself may round either way
    before = vote_labels(means, [view], 2)[away]
    after = vote_labels(means @ move[:3, :3].T + move[:3, 3], [moved], 2)[away]
    assert (before == after).mean() > 0.98


def test_scene_file_round_trip(tmp_path):
    g = torch.Generator().manual_seed(0)
    n = 500
    gaussians = Gaussians(
        torch.rand(n, 3, generator=g) * 6 - 1,
        torch.nn.functional.normalize(torch.randn(n, 4, generator=g), dim=-1),
        torch.rand(n, 3, generator=g) * 0.03 + 0.002,
        torch.rand(n, generator=g),
        torch.rand(n, 3, generator=g),
    )
    labels = np.arange(n) % 3 - 1
    instances = [Instance("chair", "c1", "red", (0.5, 0.4, 0.9)), Instance("wall", "made:wall", structure=True)]
    save_scene(tmp_path / "train_0", gaussians, labels, instances, {"voxel_size": 0.03})
    back = load_scene(tmp_path / "train_0.npz")
    assert back.instances == instances and back.facts == {"voxel_size": 0.03}
    assert (back.instance.numpy() == labels).all()
    torch.testing.assert_close(back.gaussians.means, gaussians.means, atol=6e-4, rtol=0)
    torch.testing.assert_close(back.gaussians.scales, gaussians.scales, atol=2e-5, rtol=1e-3)
    torch.testing.assert_close(back.gaussians.colors, gaussians.colors, atol=3e-3, rtol=0)
    assert ((back.gaussians.quats * gaussians.quats).sum(-1).abs() > 0.999).all()
    assert not list(tmp_path.glob("*.tmp"))


def test_scene_file_errors(tmp_path):
    with pytest.raises(SceneFileError, match="expected both"):
        load_scene(tmp_path / "absent")
    (tmp_path / "bad.json").write_text("{}")
    np.savez(tmp_path / "bad.npz", means=np.zeros((1, 3)))
    with pytest.raises(SceneFileError, match=r"bad\.npz: no array origin and quats and .* \(it has means\)"):
        load_scene(tmp_path / "bad")


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((10, 10, 10), "black"), ((250, 250, 250), "white"), ((128, 128, 130), "grey"), ((220, 30, 30), "red"),
        ((30, 60, 200), "blue"), ((40, 160, 60), "green"), ((110, 70, 35), "brown"), ((230, 210, 180), "beige"),
        ((250, 220, 40), "yellow"), ((250, 140, 20), "orange"), ((64, 210, 200), "turquoise"),
        ((130, 50, 200), "purple"),
    ],
)  # fmt: skip
def test_color_names(rgb, name):
    assert color_name(np.array(rgb)) == name


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_every_color_has_a_name(rgb):
    assert color_name(np.array(rgb)) in COLOR_NAMES


@given(st.integers(0, 1000))
def test_turning_the_hue_keeps_grey_and_luma(seed: int):
    matrix = color_jitter(np.random.default_rng(seed), hue=3.0)
    luma = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(matrix @ np.ones(3), np.ones(3), atol=1e-3)
    np.testing.assert_allclose(luma @ matrix, luma, atol=1e-3)
