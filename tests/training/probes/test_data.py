from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_core.encoder.inputs import gaussian_channels
from chorus_core.encoder.model import ModelConfig
from chorus_core.gaussians import Gaussians
from chorus_core.mapping.geometry import rotations_from_quats
from training.probes.data import LabelledScene, augment, crop, voxel_batch


def labelled(room, seed: int = 0, n: int = 200) -> LabelledScene:
    return LabelledScene.of(room(seed, n), ModelConfig(grid_size=0.02), "cpu")


def covariances(gaussians: Gaussians) -> torch.Tensor:
    axes = rotations_from_quats(gaussians.quats.double())
    return axes @ torch.diag_embed(gaussians.scales.double() ** 2) @ axes.mT


@pytest.mark.parametrize("seed", range(6))
def test_augmentation_moves_everything_by_one_similarity(room, seed: int) -> None:
    scene = labelled(room)
    scene.gaussians.scales[:] = torch.rand(200, 3, generator=torch.Generator().manual_seed(9)) * 0.1 + 0.01
    moved = augment(scene, torch.Generator().manual_seed(seed))
    scale = moved.grid_size / scene.grid_size
    assert 0.9 <= scale <= 1.1
    before = (scene.gaussians.means - scene.gaussians.means.mean(0)).double()
    turn = torch.linalg.lstsq(before, moved.gaussians.means.double()).solution.T / scale  # found from the means alone
    torch.testing.assert_close(turn @ turn.T, torch.eye(3, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(turn[2], torch.tensor((0.0, 0, 1), dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(moved.normals.double(), scene.normals.double() @ turn.T, atol=1e-5, rtol=0)
    expected = turn @ covariances(scene.gaussians) @ turn.T * scale**2
    torch.testing.assert_close(covariances(moved.gaussians), expected, atol=1e-6, rtol=1e-4)
    assert torch.equal(moved.segment, scene.segment)
    assert bool((moved.gaussians.colors >= 0).all()) and bool((moved.gaussians.colors <= 1).all())


def test_augmentations_differ_and_repeat(room) -> None:
    scene = labelled(room)
    a, b, c = (augment(scene, torch.Generator().manual_seed(seed)).gaussians for seed in (0, 0, 1))
    assert torch.equal(a.means, b.means) and torch.equal(a.colors, b.colors)
    assert not torch.equal(a.means, c.means) and not torch.equal(a.colors, c.colors)
    turns = {bool(torch.det(_turn(scene, seed)) < 0) for seed in range(12)}
    assert turns == {True, False}  # mirrored and not


def _turn(scene: LabelledScene, seed: int) -> torch.Tensor:
    moved = augment(scene, torch.Generator().manual_seed(seed)).gaussians.means
    return torch.linalg.lstsq(scene.gaussians.means - scene.gaussians.means.mean(0), moved).solution


def test_a_crop_is_around_a_label(room) -> None:
    scene = labelled(room)
    scene.segment[:] = -1
    scene.segment[17] = 1
    part = crop(scene, 40, torch.Generator().manual_seed(0))
    assert len(part) == 40 and int((part.segment >= 0).sum()) == 1
    plane = scene.gaussians.means[:, :2]
    distance = (plane - plane[17]).norm(dim=1)
    kept = (part.gaussians.means[:, :2] - plane[17]).norm(dim=1)
    assert float(kept.max()) <= float(distance.kthvalue(40).values) + 1e-6
    assert crop(scene, 200, torch.Generator()) is scene


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.sampled_from([9, 11]))
def test_batches_are_scene_after_scene(seed: int, channels: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    scenes = []
    for n in (7, 30):
        gaussians = Gaussians(
            torch.rand(n, 3, generator=rng), torch.nn.functional.normalize(torch.randn(n, 4, generator=rng), dim=1),
            torch.full((n, 3), 0.1), torch.rand(n, generator=rng), torch.rand(n, 3, generator=rng),
        )  # fmt: skip
        segment = torch.randint(-1, 3, (n,), generator=rng)
        scenes.append(LabelledScene(gaussians, torch.rand(n, 3, generator=rng) + 0.1, segment, 0.3))
    batch = voxel_batch(scenes, channels)
    assert batch.feat.shape == (len(batch.grid), channels) and int(batch.offset[-1]) == len(batch.grid)
    start, row = 0, 0
    for scene, end in zip(scenes, batch.offset.tolist(), strict=True):
        cells = torch.floor(scene.gaussians.means / 0.3).long()
        cells = cells - cells.amin(dim=0)
        of_point = batch.voxel_of_point[row : row + len(scene)]
        assert (
            torch.equal(batch.grid[of_point], cells) and int(of_point.min()) == start and int(of_point.max()) == end - 1
        )
        for voxel in range(start, end):
            inside = (of_point == voxel).nonzero().squeeze(1)
            if channels == 11:
                stands = inside[scene.gaussians.opacities[inside].argmax()]
                assert torch.equal(batch.feat[voxel], gaussian_channels(scene.gaussians)[stands])
            else:
                stands = inside[0]
            labels = scene.segment[inside]
            expected = int(scene.segment[stands]) if scene.segment[stands] >= 0 else int(labels.max())
            assert int(batch.segment[voxel]) == expected
        start, row = end, row + len(scene)
