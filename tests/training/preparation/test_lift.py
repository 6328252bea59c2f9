"""Lifting several teachers at once, against the definition in float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_rooms import CAMERA, ColorTeacher, poses, wall_and_floor

from chorus_core.rendering import View, contributions, render
from chorus_core.teachers.base import TeacherError
from training.datasets.base import DatasetError, PosedImage
from training.preparation.config import LiftConfig
from training.preparation.heads import TeacherOfHeads, load_named
from training.preparation.lift import lift_teachers, lift_views, same_size_batches
from training.preparation.views import LoadedView, load_view, load_views, select_views


def images_of(count: int) -> list[PosedImage]:
    g = wall_and_floor(0)
    found = []
    for number, pose in enumerate(poses(count)):
        drawn = render(g, View(CAMERA, pose))
        color = (drawn.color.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        depth = drawn.depth.numpy()
        found.append(PosedImage(str(number), CAMERA, pose, lambda c=color: c, lambda d=depth: d))
    return found


def test_features_are_the_weighted_means_of_the_definition() -> None:
    g, images = wall_and_floor(0), images_of(3)
    lifted = lift_teachers(g, images, [ColorTeacher()], LiftConfig(max_width=0, batch=2, min_weight=0.05))["color"]
    sums, weight = np.zeros((len(g), 3)), np.zeros(len(g))
    for image in images:
        c = contributions(g, View(CAMERA, image.world_from_camera))
        pooled = image.color().reshape(12, 4, 16, 4, 3).astype(np.float64).mean(axis=(1, 3)) / 255
        v, u = np.divmod(c.pixels.numpy(), 64)
        np.add.at(sums, c.gaussians.numpy(), c.weights.double().numpy()[:, None] * pooled[v // 4, u // 4])
        np.add.at(weight, c.gaussians.numpy(), c.weights.double().numpy())
    seen = weight >= 0.05
    assert 0 < seen.sum() < len(g)
    np.testing.assert_array_equal((lifted.index >= 0).numpy(), seen)
    assert lifted.table.dtype == torch.float16 and len(lifted.table) == seen.sum()
    found = lifted.table[lifted.index[torch.from_numpy(seen)]].float().numpy()
    np.testing.assert_allclose(found, sums[seen] / weight[seen, None], atol=1e-3)


def test_images_a_pass_do_not_change_features_and_teachers_see_every_image_once() -> None:
    g, images = wall_and_floor(0), images_of(5)
    one, many = ColorTeacher(), ColorTeacher()
    first = lift_teachers(g, images, [one], LiftConfig(batch=1))["color"]
    second = lift_teachers(g, images, [many], LiftConfig(batch=4))["color"]
    assert one.images == many.images == 5
    assert torch.equal(first.table, second.table) and torch.equal(first.index, second.index)


def test_centre_sampling_takes_one_pixel_and_keeps_what_is_seen() -> None:
    g, images = wall_and_floor(0), images_of(3)
    everywhere = lift_teachers(g, images, [ColorTeacher()], LiftConfig())["color"]
    centres = lift_teachers(g, images, [ColorTeacher()], LiftConfig(center=True))["color"]
    both = (everywhere.index >= 0) & (centres.index >= 0)
    assert both.sum() > 150
    apart = everywhere.table[everywhere.index[both]].float() - centres.table[centres.index[both]].float()
    assert 0 < apart.abs().mean() < 0.1


def test_lifted_features_train() -> None:
    """Features made here may enter a graph, unlike tensors of inference mode."""
    lifted = lift_teachers(wall_and_floor(0), images_of(1), [ColorTeacher()])["color"]
    weight = torch.ones(3, requires_grad=True)
    (lifted.table.float() * weight).sum().backward()
    assert weight.grad is not None


def test_normals_face_the_cameras_that_saw_them() -> None:
    g = wall_and_floor(0)
    half = len(g) // 2
    g.scales[:half, 2], g.scales[half:, 1] = 0.002, 0.002
    normals = lift_views(g, images_of(3), [], LiftConfig(), progress=False).normals
    seen = lift_teachers(g, images_of(3), [ColorTeacher()])["color"].index >= 0
    wall, floor = normals[:half][seen[:half]], normals[half:][seen[half:]]
    torch.testing.assert_close(wall, torch.tensor([[0.0, 0.0, -1.0]]).expand_as(wall))
    torch.testing.assert_close(floor, torch.tensor([[0.0, -1.0, 0.0]]).expand_as(floor))


def test_two_teachers_of_one_head_are_an_error_until_one_is_renamed() -> None:
    g, images = wall_and_floor(0), images_of(1)
    with pytest.raises(ValueError, match="'color' is taught by a and by b"):
        lift_teachers(g, images, [ColorTeacher(name="a"), ColorTeacher(name="b")])
    renamed = TeacherOfHeads(ColorTeacher(name="b"), ["other"])
    lifted = lift_teachers(g, images, [ColorTeacher(name="a"), renamed])
    assert torch.equal(lifted["color"].table, lifted["other"].table)
    assert renamed.name == "b as other"


def test_heads_of_a_teacher_are_chosen_by_name(tmp_path: Path) -> None:
    from small_rooms import write_teacher

    folder = write_teacher(tmp_path / "teacher")
    assert dict(load_named(f"gen=embedded:{folder}", "cpu").heads) == {"gen": 4}
    assert dict(load_named(f"embedded:{folder}", "cpu").heads) == {"lang": 8, "gen": 4}
    with pytest.raises(TeacherError, match=r"no head 'obj'; it has lang, gen"):
        load_named(f"gen+obj=embedded:{folder}", "cpu")


def test_wide_images_are_resized_with_their_camera() -> None:
    image = images_of(1)[0]
    loaded = load_view(image, max_width=32, depth=True)
    assert loaded.color.shape == (24, 32, 3) and loaded.depth.shape == (24, 32)
    assert loaded.view.intrinsics == CAMERA.scaled(32, 24)
    assert np.isin(loaded.depth, image.depth()).all()  # depth is never mixed
    assert load_view(image, max_width=64).color is not None and load_view(image).depth is None


def test_images_that_do_not_fit_their_camera_are_refused() -> None:
    image = images_of(1)[0]
    with pytest.raises(DatasetError, match="0: color is uint8"):
        load_view(replace(image, color=lambda: np.zeros((10, 10, 3), np.uint8)))
    with pytest.raises(DatasetError, match="0: depth of shape"):
        load_view(replace(image, depth=lambda: np.zeros((10, 10), np.float32)), depth=True)


def test_a_reading_error_reaches_the_caller_and_order_is_kept() -> None:
    images = images_of(6)

    def broken() -> np.ndarray:
        raise DatasetError("no such file")

    names = [item.name for item in load_views(images)]
    assert names == ["0", "1", "2", "3", "4", "5"]
    images[3] = replace(images[3], color=broken)
    with pytest.raises(DatasetError, match="no such file"):
        list(load_views(images, ahead=2))


@pytest.mark.parametrize(
    ("every", "at_most", "chosen"), [(1, 0, range(10)), (3, 0, (0, 3, 6, 9)), (1, 3, (0, 4, 9)), (4, 9, (0, 4, 8))]
)
def test_views_are_spread_evenly(every: int, at_most: int, chosen: tuple[int, ...]) -> None:
    assert select_views(list(range(10)), every, at_most) == list(chosen)


def test_batches_hold_one_size() -> None:
    def view(name: str, width: int) -> LoadedView:
        k = CAMERA.scaled(width, 48)
        return LoadedView(name, View(k, np.eye(4)), np.zeros((48, width, 3), np.uint8), None)

    views = [view("a", 8), view("b", 8), view("c", 8), view("d", 9), view("e", 8)]
    assert ["".join(v.name for v in batch) for batch in same_size_batches(views, 2)] == ["ab", "c", "d", "e"]
