"""Lifting against dense float64 sums over the renderer's pictures, and against the gradient of a rendering."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_core.distillation import lifting
from chorus_core.distillation.lifting import Lifter, add_view, center_contributions, lift_views, pool
from chorus_core.frames import CameraIntrinsics
from chorus_core.gaussians import Gaussians
from chorus_core.rendering import Contributions, View, contributions, render, torch_engine
from chorus_core.teachers.base import FeatureTable, grid_cells

CAMERA = CameraIntrinsics(24.0, 25.0, 13.3, 9.8, 28, 20)
HEIGHT, WIDTH = CAMERA.height, CAMERA.width
COUNT, DIM = 60, 5


def make_view(seed: int = 0) -> View:
    angle = 0.25 * seed
    pose = np.eye(4)
    pose[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    pose[:3, 3] = (-1.6 * np.sin(angle), 0.05 * seed, 1.6 - 1.6 * np.cos(angle))
    return View(CAMERA, pose)


def make_scene(seed: int = 0, count: int = COUNT) -> Gaussians:
    """Before the camera, some out of the picture, some behind others, one that nobody sees (behind all cameras)."""
    rng = torch.Generator().manual_seed(seed)
    means = torch.randn(count, 3, generator=rng) * 0.6 + torch.tensor((0.0, 0.0, 1.6))
    means[0] = torch.tensor((0.0, 0.0, -50.0))
    quats = torch.nn.functional.normalize(torch.randn(count, 4, generator=rng), dim=1)
    scales = torch.exp(torch.empty(count, 3).uniform_(-4.0, -1.8, generator=rng))
    opacities = torch.empty(count).uniform_(0.1, 0.99, generator=rng)
    return Gaussians(means, quats, scales, opacities, torch.rand(count, 3, generator=rng))


def random_table(seed: int, rows: int = 12, dim: int = DIM, silent: float = 0.2) -> FeatureTable:
    """Features of cells of any shape; some pixels have none."""
    rng = torch.Generator().manual_seed(seed + 100)
    cells = torch.randint(0, rows, (HEIGHT, WIDTH), generator=rng)
    cells[torch.rand(HEIGHT, WIDTH, generator=rng) < silent] = -1
    return FeatureTable(torch.randn(rows, dim, generator=rng), cells)


def patch_table(seed: int, rows: int = 4, columns: int = 7) -> FeatureTable:
    rng = torch.Generator().manual_seed(seed + 200)
    return FeatureTable(torch.randn(rows * columns, DIM, generator=rng), grid_cells(HEIGHT, WIDTH, rows, columns))


def picture(table: FeatureTable) -> tuple[np.ndarray, np.ndarray]:
    """Feature of each pixel, 0 where there is none, float64 [P, D], and where there is one [P]."""
    cells = table.cells.flatten().numpy()
    said = cells >= 0
    return np.where(said[:, None], table.table.double().numpy()[np.maximum(cells, 0)], 0.0), said


def drawn_weights(scene: Gaussians, view: View) -> np.ndarray:
    """How much of each Gaussian is in each pixel: the picture of one-hot features, float64 [P, N]."""
    return render(scene, view, torch.eye(len(scene)), engine="torch").features.flatten(0, 1).double().numpy()


def brute_force(scene: Gaussians, views: list[tuple[View, FeatureTable]]) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean, 0 without weight, [N, D] and weight [N]."""
    sums, weight = np.zeros((len(scene), DIM)), np.zeros(len(scene))
    for view, table in views:
        matrix = drawn_weights(scene, view)
        features, said = picture(table)
        sums += matrix.T @ features
        weight += matrix.T @ said
    return np.divide(sums, weight[:, None], out=np.zeros_like(sums), where=weight[:, None] > 0), weight


@pytest.mark.parametrize("make_table", [random_table, patch_table])
@pytest.mark.parametrize("seed", range(3))
def test_lifting_is_the_weighted_mean_over_all_pixels(seed: int, make_table) -> None:
    scene = make_scene(seed)
    views = [(make_view(i), make_table(10 * seed + i)) for i in range(3)]
    expected, expected_weight = brute_force(scene, views)
    features, weight = lift_views(scene, views, DIM)
    assert (expected_weight > 0.5).sum() > COUNT / 2, "the views say something"
    assert np.allclose(weight.numpy(), expected_weight, rtol=1e-5, atol=1e-6)
    seen = expected_weight > 1e-3
    assert np.allclose(features.numpy()[seen], expected[seen], atol=1e-4)
    assert (features[torch.from_numpy(expected_weight == 0)] == 0).all()
    assert weight[0] == 0


@pytest.mark.parametrize("seed", range(2))
def test_lifting_is_the_gradient_of_a_rendering(seed: int) -> None:
    """sum over pixels of w F is d sum(render * F) / d features (facts of the method, 4.3 a)."""
    scene, view, table = make_scene(seed), make_view(seed), random_table(seed)
    pixels, said = picture(table)
    pixels = torch.from_numpy(np.concatenate((pixels, said[:, None]), axis=1)).float()
    values = torch.zeros(COUNT, DIM + 1, requires_grad=True)
    drawn, _, _ = torch_engine.rasterize(scene, values, view)
    (drawn.flatten(0, 1) * pixels).sum().backward()
    lifter = Lifter(COUNT, DIM)
    lifter.add(contributions(scene, view), table)
    assert torch.allclose(lifter.sums, values.grad[:, :-1], atol=1e-4)
    assert torch.allclose(lifter.weight, values.grad[:, -1], atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_constant_lifts_to_itself(dtype: torch.dtype) -> None:
    scene = make_scene()
    constant = torch.randn(DIM, generator=torch.Generator().manual_seed(3)).to(dtype)
    lifter = Lifter(COUNT, DIM)
    for i in range(4):
        table = random_table(i)
        lifter.add(contributions(scene, make_view(i)), replace(table, table=constant.expand(12, -1)))
    features, valid = lifter.features()
    assert valid.sum() > COUNT / 2
    assert not valid[0]
    assert torch.allclose(features[valid], constant.float().expand(int(valid.sum()), -1), rtol=2e-6, atol=1e-7)
    assert (features[~valid] == 0).all()


@given(st.integers(0, 1000), st.floats(-3, 3), st.floats(-3, 3))
@settings(max_examples=20, deadline=None)
def test_lifting_is_linear_in_the_table(seed: int, a: float, b: float) -> None:
    scene, first, second = make_scene(seed % 3), random_table(seed), random_table(seed + 1)
    view = contributions(scene, make_view(seed % 4))
    mixed = replace(first, table=a * first.table + b * second.table)
    lifters = []
    for table in (mixed, first, replace(second, cells=first.cells)):
        lifters.append(Lifter(COUNT, DIM, dtype=torch.float64))
        lifters[-1].add(view, table)
    assert torch.allclose(lifters[0].sums, a * lifters[1].sums + b * lifters[2].sums, atol=1e-5)
    assert torch.equal(lifters[0].weight, lifters[1].weight)


@given(st.permutations(range(5)), st.integers(0, 4))
@settings(max_examples=20, deadline=None)
def test_order_and_merging_do_not_matter(order: list[int], cut: int) -> None:
    scene = make_scene()
    weights = [contributions(scene, make_view(i)) for i in range(5)]
    tables = [random_table(i) for i in range(5)]
    straight, first, second = (Lifter(COUNT, DIM) for _ in range(3))
    for i in range(5):
        straight.add(weights[i], tables[i])
    for position, i in enumerate(order):
        (first if position < cut else second).add(weights[i], tables[i])
    first.merge(second)
    assert torch.allclose(first.sums, straight.sums, atol=1e-4)
    assert torch.allclose(first.weight, straight.weight, rtol=1e-5, atol=1e-6)


def test_pixels_of_no_cell_count_in_neither_sum() -> None:
    """Only the left half speaks: the same as a camera that has only the left half."""
    scene, table = make_scene(), random_table(0, silent=0.0)
    table.cells[:, WIDTH // 2 :] = -1
    view = contributions(scene, make_view())
    left = view.pixels % WIDTH < WIDTH // 2
    expected = Lifter(COUNT, DIM)
    expected.add(Contributions(view.pixels[left], view.gaussians[left], view.weights[left], view.size), table)
    found = Lifter(COUNT, DIM)
    found.add(view, table)
    assert torch.equal(found.sums, expected.sums)
    assert torch.equal(found.weight, expected.weight)
    nothing = Lifter(COUNT, DIM)
    nothing.add(view, replace(table, cells=torch.full_like(table.cells, -1)))
    assert (nothing.weight == 0).all()
    assert (nothing.sums == 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_center_sampling_by_its_definition(seed: int) -> None:
    scene = make_scene(seed)
    views = [(make_view(i), random_table(10 * seed + i)) for i in range(3)]
    sums, weight = np.zeros((COUNT, DIM)), np.zeros(COUNT)
    for view, table in views:
        accumulated = drawn_weights(scene, view).sum(0)
        camera_from_world = np.linalg.inv(view.world_from_camera)
        for i, mean in enumerate(scene.means.double().numpy()):
            x, y, z = camera_from_world[:3, :3] @ mean + camera_from_world[:3, 3]
            if accumulated[i] == 0:
                continue
            u, v = np.floor(CAMERA.fx * x / z + CAMERA.cx + 0.5), np.floor(CAMERA.fy * y / z + CAMERA.cy + 0.5)
            if not (0 <= u < WIDTH and 0 <= v < HEIGHT):
                continue
            cell = int(table.cells[int(v), int(u)])
            if cell >= 0:
                sums[i] += accumulated[i] * table.table[cell].double().numpy()
                weight[i] += accumulated[i]
    features, found_weight = lift_views(scene, views, DIM, sampling="centers")
    assert (weight > 0).sum() > COUNT / 3, "the views say something"
    assert np.allclose(found_weight.numpy(), weight, rtol=1e-5, atol=1e-6)
    seen = weight > 1e-3
    assert np.allclose(features.numpy()[seen], sums[seen] / weight[seen, None], atol=1e-4)


def test_centers_outside_the_image_are_not_sampled() -> None:
    """A large Gaussian that shows at the left edge, centred outside: seen by its pixels, not by its centre."""
    scene = make_scene(count=1)
    scene.means[0] = torch.tensor((-0.75, 0.0, 1.2))
    scene.scales[0] = 0.2
    weights = contributions(scene, make_view())
    assert weights.weights.sum() > 1
    assert center_contributions(weights, scene, make_view()).gaussians.numel() == 0


def test_heads_that_share_cells_are_lifted_as_if_each_were_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, table = contributions(make_scene(), make_view()), random_table(0)
    other = replace(table, table=torch.randn(len(table.table), 5))
    third = random_table(1)
    tables = {"a": table, "b": other, "c": third}
    pools = []
    monkeypatch.setattr(lifting, "pool", lambda *a, **k: pools.append(1) or pool(*a, **k))
    together = {head: Lifter(COUNT, t.table.shape[1]) for head, t in tables.items()}
    add_view(together, weights, tables)
    assert len(pools) == 2, "one for the two that share"
    for head, features in tables.items():
        alone = Lifter(COUNT, features.table.shape[1])
        alone.add(weights, features)
        assert torch.equal(alone.sums, together[head].sums)
        assert torch.equal(alone.weight, together[head].weight)
    assert together["a"].sums.abs().sum() > 0


def test_features_of_unit_length() -> None:
    """Some of no length, some hardly seen."""
    lifter = Lifter(5, 2)
    lifter.sums.copy_(torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 1e-5], [0.0, 0.0], [-1e-12, 0.0]]))
    lifter.weight.copy_(torch.tensor([2.0, 2.0, 1e-5, 0.0, 3.0]))
    mean, valid = lifter.features(min_weight=1e-3)
    assert torch.allclose(mean[0], torch.tensor([1.5, 2.0]))
    assert valid.tolist() == [True, True, False, False, True]
    unit, valid = lifter.features(min_weight=1e-3, unit=True)
    assert valid.tolist() == [True, False, False, False, True]
    assert torch.allclose(unit, torch.tensor([[0.6, 0.8], [0, 0], [0, 0], [0, 0], [-1, 0]]))
    everything, valid = lifter.features(min_weight=0.0, unit=True, dtype=torch.float16)
    assert valid.tolist() == [True, False, True, False, True]
    assert everything.dtype == torch.float16


def test_reading_out_in_parts_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    lifter = Lifter(COUNT, DIM)
    lifter.add(contributions(make_scene(), make_view()), random_table(0))
    whole = lifter.features(unit=True)
    monkeypatch.setattr("chorus_core.distillation.lifting._ROWS", 7)
    parts = lifter.features(unit=True)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


def test_nothing_to_lift() -> None:
    empty = Gaussians.empty()
    features, weight = lift_views(empty, [(make_view(), random_table(0))], DIM)
    assert features.shape == (0, DIM)
    assert weight.shape == (0,)
    features, weight = lift_views(make_scene(), [], DIM)
    assert (features == 0).all()
    assert (weight == 0).all()


def test_what_does_not_fit_is_refused() -> None:
    scene = make_scene()
    view, good = contributions(scene, make_view()), random_table(0)
    lifter = Lifter(COUNT, DIM)
    holed = good.table.clone()
    holed[3, 1] = torch.nan
    bad = [
        (replace(good, table=good.table[:, :-1]), rf"table has shape .*\[C, {DIM}\]"),
        (replace(good, table=good.table[0]), "table has shape"),
        (replace(good, cells=good.cells.T), "cells has shape"),
        (replace(good, table=good.table[:-1]), r"cells are in \[-1, 11\]: expected \[-1, 10\]"),
        (replace(good, cells=good.cells - 1), r"cells are in \[-2"),
        (replace(good, table=holed), "not finite"),
    ]
    for table, message in bad:
        with pytest.raises(ValueError, match=message):
            lifter.add(view, table)
    assert (lifter.weight == 0).all(), "a refused view leaves nothing behind"
    with pytest.raises(ValueError, match="merge"):
        lifter.merge(Lifter(COUNT, DIM + 1))
    with pytest.raises(ValueError, match="float16"):
        Lifter(COUNT, DIM, dtype=torch.float16)
    with pytest.raises(ValueError, match="'corners'"):
        lift_views(scene, [], DIM, sampling="corners")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares the CUDA product with the CPU's: needs CUDA")
@pytest.mark.parametrize("sampling", ["pixels", "centers"])
@pytest.mark.parametrize("dim", [DIM, 1152])
def test_cuda_lifts_what_the_cpu_lifts(sampling: str, dim: int) -> None:
    scene = make_scene(count=500)
    views = [(make_view(i), random_table(i, dim=dim)) for i in range(3)]
    expected, expected_weight = lift_views(scene, views, dim, sampling)
    found, weight = lift_views(scene.to("cuda"), views, dim, sampling, engine="torch")
    assert torch.allclose(weight.cpu(), expected_weight, rtol=1e-4, atol=1e-2)
    seen = expected_weight > 0.05
    close = (found.cpu() - expected)[seen].abs().amax(1) < 0.01
    assert close.float().mean() > 0.99  # rounding at alpha 1/255 may drop a pixel, or move a centre to the next one


@pytest.mark.skipif(not torch.cuda.is_available(), reason="adds to the sums in place on CUDA: needs CUDA")
def test_cuda_adds_in_place() -> None:
    """The sums are the largest thing there is: a view must not copy them."""
    scene, view, table = make_scene().to("cuda"), make_view(), random_table(0, dim=64)
    lifter = Lifter(1_000_000, 64, "cuda")  # 256 MB
    weights = contributions(scene, view, engine="torch")
    lifter.add(weights, table)
    once = lifter.sums.clone()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    lifter.add(weights, table)
    assert torch.cuda.max_memory_allocated() - before < 128 * 2**20
    assert torch.allclose(lifter.sums, 2 * once, rtol=1e-5, atol=1e-6)
