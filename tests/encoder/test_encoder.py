"""From Gaussians to features: voxels, tiles, and the encoder as others use it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

import chorus_core.encoder.encoder as encoder_module
from chorus_core.encoder import ChorusEncoder, ChorusModel, ModelConfig
from chorus_core.encoder.fragments import FRAGMENTS
from chorus_core.encoder.inputs import (
    ALIGNMENT,
    gaussian_channels,
    grid_origin,
    mean_channels,
    point_channels,
    rank_in_voxel,
    voxelize,
)
from chorus_core.encoder.tiles import tiles, voxel_tiles
from chorus_core.gaussians import Gaussians

TINY = ModelConfig(
    enc_channels=(8, 16, 24),
    enc_depths=(1, 1, 1),
    enc_num_head=(2, 2, 4),
    patch_size=64,
    heads={"lang": 12},
    head_ratio=1,
)


def make_scene(count: int, seed: int = 0, extent: float = 2.0) -> Gaussians:
    rng = torch.Generator().manual_seed(seed)
    means = torch.rand(count, 3, generator=rng) * torch.tensor((extent, extent, 0.3)) - torch.tensor(
        (extent / 2, 5.0, 0.1)
    )
    quats = torch.nn.functional.normalize(torch.randn(count, 4, generator=rng), dim=1)
    scales, colors = torch.rand(count, 3, generator=rng) * 0.02, torch.rand(count, 3, generator=rng)
    return Gaussians(means, quats, scales, torch.rand(count, generator=rng), colors)


@pytest.fixture(scope="module")
def encoder() -> ChorusEncoder:
    torch.manual_seed(0)
    return ChorusEncoder(ChorusModel(TINY))


# ---- channels and voxels --------------------------------------------------------------------------------------------


def test_gaussian_channels_follow_the_release() -> None:
    g = make_scene(200)
    channels = gaussian_channels(Gaussians(g.means, g.quats * 3.0, g.scales, g.opacities, g.colors))
    assert channels.shape == (200, 11)
    assert torch.allclose(channels[:, :3], g.colors * 2 - 1)
    assert torch.equal(channels[:, 3], g.opacities)
    assert (channels[:, 4] >= 0).all()
    assert torch.allclose((channels[:, 4:8] * g.quats).sum(1).abs(), torch.ones(200), atol=1e-5), "the same rotation"
    assert torch.equal(channels[:, 8:], g.scales)


def test_point_channels_are_centred_on_the_floor() -> None:
    points = make_scene(100).means
    channels = point_channels(points, torch.full((100, 3), 0.75), torch.randn(100, 3) * 5)
    assert channels.shape == (100, 9)
    coord = channels[:, :3]
    assert torch.allclose(coord.amin(0)[:2], -coord.amax(0)[:2], atol=1e-5)
    assert coord[:, 2].min() == 0
    assert torch.allclose(channels[:, 3:6], torch.full((100, 3), 0.5))
    assert torch.allclose(channels[:, 6:].norm(dim=1), torch.ones(100), atol=1e-5)


@given(st.integers(1, 300), st.integers(0, 1000), st.sampled_from([0.02, 0.1, 0.7]))
@settings(max_examples=40, deadline=None)
def test_voxels_hold_their_points_and_show_the_one_of_highest_priority(count: int, seed: int, size: float) -> None:
    g = make_scene(count, seed)
    channels = gaussian_channels(g)
    voxels = voxelize(g.means, channels, size, g.opacities)
    cells = torch.floor(g.means / size).long()
    cells = cells - cells.amin(0)
    assert torch.equal(voxels.grid[voxels.voxel_of_point], cells)
    assert len(voxels.grid.unique(dim=0)) == len(voxels.grid) == len(voxels.representative)
    assert torch.equal(voxels.feat, channels[voxels.representative])
    assert torch.equal(voxels.voxel_of_point[voxels.representative], torch.arange(len(voxels.grid)))
    best = torch.zeros(len(voxels.grid)).scatter_reduce(
        0, voxels.voxel_of_point, g.opacities, "amax", include_self=False
    )
    assert torch.equal(g.opacities[voxels.representative], best)


def test_without_priority_the_first_point_stands_for_its_voxel() -> None:
    points = torch.tensor([[0.01, 0, 0], [0.5, 0, 0], [0.015, 0, 0], [0.51, 0, 0]])
    assert voxelize(points, torch.zeros(4, 1), 0.1).representative.sort().values.tolist() == [0, 1]


# ---- tiles ----------------------------------------------------------------------------------------------------------


@given(
    st.integers(1, 400),
    st.integers(0, 1000),
    st.integers(1, 500),
    st.sampled_from([0.0, 0.1, 0.8]),
    st.sampled_from([0.0, 3.0]),
)
@settings(max_examples=60, deadline=None)
def test_tiles_own_every_point_once_and_hold_their_halo(
    count: int, seed: int, max_points: int, halo: float, extent: float
) -> None:
    points = make_scene(count, seed, extent).means
    owners = torch.zeros(count, dtype=torch.int64)
    pieces = list(tiles(points, max_points, halo))
    for region, owned in pieces:
        assert len(region.unique()) == len(region) == len(owned)
        mine = points[region[owned], :2]
        low, high = mine.amin(0), mine.amax(0)
        near = ((points[:, :2] >= low - halo) & (points[:, :2] <= high + halo)).all(1)
        assert set(region.tolist()) == set(near.nonzero().squeeze(1).tolist())
        assert len(region) <= max_points or float((high - low).max()) <= 2 * halo
        owners[region[owned]] += 1
    assert (owners == 1).all()
    if count <= max_points:
        assert len(pieces) == 1


def test_many_points_in_one_column_end() -> None:
    points = torch.zeros(1000, 3)
    points[:500, 0] = 1.0
    assert sum(int(owned.sum()) for _, owned in tiles(points, 100, 0.0)) == 1000


@given(st.integers(1, 600), st.integers(0, 1000), st.integers(1, 120), st.sampled_from([0.05, 0.2]))
@settings(max_examples=40, deadline=None)
def test_tiles_of_voxels_keep_their_points_together(count: int, seed: int, most: int, grid: float) -> None:
    points = make_scene(count, seed, 2.0).means
    voxel = torch.unique(torch.floor(points / grid), dim=0, return_inverse=True)[1]
    owner = torch.full((count,), -1)
    for number, (region, owned) in enumerate(voxel_tiles(points, grid, most, 0.1)):
        plane = points[region[owned], :2]
        small = float((plane.amax(0) - plane.amin(0)).max()) <= 0.2 + 2 * grid
        assert len(voxel[region].unique()) <= most or small
        assert torch.isin(voxel, voxel[region]).sum() == len(region), "all points of the voxels read"
        assert bool((owner[region[owned]] == -1).all())
        owner[region[owned]] = number
    assert bool((owner >= 0).all())
    for number in voxel.unique():
        assert len(owner[voxel == number].unique()) == 1


def test_a_dense_scene_is_read_in_as_few_tiles_as_its_voxels_fill(
    encoder: ChorusEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    g = make_scene(4000, extent=3.0)
    passes = []
    read = encoder._pass
    monkeypatch.setattr(
        encoder, "_pass", lambda feat, *rest, **more: (passes.append(len(feat)), read(feat, *rest, **more))
    )
    occupied = len(torch.floor(g.means / 0.3).unique(dim=0))
    assert occupied < 1000
    encoder.encode(g, grid_size=0.3, max_points=1000)
    assert passes == [occupied]


def test_the_grid_that_a_model_reads_best_comes_with_it(encoder: ChorusEncoder) -> None:
    best = ChorusEncoder(encoder.model, {"grid_size": 0.25})
    g = make_scene(300)
    assert (best.grid_size, encoder.grid_size) == (0.25, encoder.model.config.grid_size)
    assert torch.equal(best.encode(g), encoder.encode(g, grid_size=0.25))
    for wrong in (0, -1.0, float("nan"), "fine", True, 11.0):
        with pytest.raises(ValueError, match=r"grid_size = .*: expected a number from 0\.0001 to 10"):
            ChorusEncoder(encoder.model, {"grid_size": wrong})


# ---- encoding -------------------------------------------------------------------------------------------------------


def test_features_are_unit_vectors_in_the_order_of_the_gaussians(encoder: ChorusEncoder) -> None:
    g = make_scene(800)
    features = encoder.encode(g)
    assert features.dtype == torch.float16
    assert features.shape == (800, 12)
    assert torch.allclose(features.float().norm(dim=1), torch.ones(800), atol=2e-3)
    shuffle = torch.randperm(800)
    assert torch.allclose(encoder.encode(g[shuffle]).float(), features[shuffle].float(), atol=5e-3)
    assert encoder.encode(g, head=None).shape == (800, 48)


def test_gaussians_of_one_voxel_share_its_feature(encoder: ChorusEncoder) -> None:
    g = make_scene(800)
    features = encoder.encode(g, grid_size=0.3)
    cells = torch.floor(g.means / 0.3).long()
    _, cell = cells.unique(dim=0, return_inverse=True)
    for which in cell.unique():
        rows = features[cell == which]
        assert (rows == rows[0]).all()


def test_tiling_that_fits_is_one_pass_and_tiling_with_context_is_close(encoder: ChorusEncoder) -> None:
    g = make_scene(3000, extent=6.0)
    whole = encoder.encode(g, grid_size=0.1)
    assert torch.equal(encoder.encode(g, grid_size=0.1, max_points=3000), whole)
    tiled = encoder.encode(g, grid_size=0.1, max_points=1500, halo=0.8)
    assert torch.isfinite(tiled).all()
    assert torch.nn.functional.cosine_similarity(tiled.float(), whole.float()).median() > 0.9


@pytest.mark.parametrize("max_points", [3000, 1200])
@pytest.mark.parametrize("per_voxel", ["first", "fragments"])
def test_what_is_not_asked_for_is_context(encoder: ChorusEncoder, max_points: int, per_voxel: str) -> None:
    g = make_scene(3000, extent=6.0)
    how = {"grid_size": 0.1, "max_points": max_points, "per_voxel": per_voxel}
    asked = g.means[:, 0] > 1.0
    expected = encoder.encode(g, **how)[asked]
    found = encoder.encode(g, asked=asked, **how)
    assert torch.allclose(found.float(), expected.float(), atol=2e-3)
    assert encoder.encode(g, asked=torch.zeros_like(asked), **how).shape == (0, 12)


def test_several_heads_in_one_pass_and_in_a_basis() -> None:
    torch.manual_seed(0)
    config = ModelConfig.from_dict({**TINY.to_dict(), "heads": {"lang": 12, "pe": 7}})
    encoder, g = ChorusEncoder(ChorusModel(config)), make_scene(500)
    basis = torch.linalg.qr(torch.randn(12, 5))[0]
    together = encoder.encode_heads(g, {"lang": basis, "pe": None, None: None})
    assert {head: tuple(f.shape) for head, f in together.items()} == {"lang": (500, 5), "pe": (500, 7), None: (500, 48)}
    torch.testing.assert_close(together["lang"].float(), encoder.encode(g).float() @ basis, atol=3e-3, rtol=0)
    upcast = together[None].float()
    with torch.no_grad():
        plain = encoder.model.project(upcast, "pe")
    torch.testing.assert_close(together["pe"].float(), plain, atol=1e-2, rtol=1e-2)
    assert float((plain.norm(dim=1) - 1).abs().max()) > 0.1, "raw heads are not normalised"


@pytest.mark.parametrize("per_voxel", ["first", "fragments"])
def test_a_memory_budget_makes_tiles(encoder: ChorusEncoder, per_voxel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    g = make_scene(3000, extent=6.0)
    read: list[int] = []

    def counted(points: torch.Tensor, most: int, halo: float) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for region, owned in tiles(points, most, halo):
            read.append(len(region))
            yield region, owned

    monkeypatch.setattr(encoder_module, "tiles", counted)
    how = {"grid_size": 0.1, "per_voxel": per_voxel, "halo": 0.2}
    whole = encoder.encode(g, **how)
    assert torch.equal(encoder.encode(g, memory_gib=4.0, **how), whole)
    assert torch.equal(encoder.encode(g, memory_gib=0.0, **how), whole), "no limit"
    assert read == [3000]
    read.clear()
    budget = next(b / 1e4 for b in range(1, 10_000) if _fits(encoder, b / 1e4, per_voxel) > 1000)
    tiled = encoder.encode(g, memory_gib=budget, **how)
    assert len(read) > 1 and max(read) <= encoder.plan(budget, 3000, {"lang": None}, per_voxel).voxels < 3000
    assert torch.nn.functional.cosine_similarity(tiled.float(), whole.float()).median() > 0.9
    with pytest.raises(ValueError, match=r"memory of 0\.001 GiB: expected at least 0\.\d+ for 3000 Gaussians"):
        encoder.encode(g, grid_size=0.1, memory_gib=0.001)


def _fits(encoder: ChorusEncoder, budget: float, per_voxel: str) -> int:
    """Voxels of a pass within a budget, 0 where there is no room at all."""
    try:
        return encoder.plan(budget, 3000, {"lang": None}, per_voxel).voxels
    except ValueError:
        return 0


@pytest.mark.parametrize("channels", [11, 9])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_hardly_anything_to_encode(count: int, channels: int) -> None:
    encoder = ChorusEncoder(ChorusModel(ModelConfig.from_dict({**TINY.to_dict(), "in_channels": channels})))
    features = encoder.encode(make_scene(5)[:count])
    assert features.shape == (count, 12)
    assert torch.isfinite(features).all()


def test_points_too_far_apart_for_the_curves_are_refused(encoder: ChorusEncoder) -> None:
    """They would fall into the voxels of others."""
    g = make_scene(2)
    far = dataclasses.replace(g, means=torch.tensor([[0.01, 0.0, 0.0], [65_536 * 0.02 + 0.01, 0.0, 0.0]]))
    with pytest.raises(ValueError, match="65537 voxels along an axis: expected 65535 at most"):
        encoder.encode(far)


def test_a_later_change_of_the_model_does_not_show() -> None:
    torch.manual_seed(0)
    model, g = ChorusModel(TINY).train(), make_scene(300)
    encoder = ChorusEncoder(model)
    before = encoder.encode(g)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert torch.equal(encoder.encode(g), before)
    assert model.training


def test_wrong_inputs_are_named(encoder: ChorusEncoder) -> None:
    g = make_scene(10)
    with pytest.raises(ValueError, match="9 channels, the model reads 11"):
        encoder.encode_points(g.means, g.colors, g.means)
    with pytest.raises(KeyError, match="no head 'dino'"):
        encoder.encode(g, head="dino")


def test_the_point_variant_reads_gaussians_as_discs() -> None:
    """Centres, colours, and the axis along which a Gaussian is thinnest."""
    config = ModelConfig.from_dict({**TINY.to_dict(), "in_channels": 9})
    encoder, g = ChorusEncoder(ChorusModel(config)), make_scene(300)
    axes = Rotation.from_quat(g.quats.numpy(), scalar_first=True).as_matrix()
    normals = np.stack([axes[i][:, k] for i, k in enumerate(g.scales.argmin(dim=1).tolist())])
    expected = encoder.encode_points(g.means, g.colors, torch.from_numpy(normals).float())
    assert expected.shape == (300, 12)
    torch.testing.assert_close(encoder.encode(g).float(), expected.float(), atol=2e-3, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_agrees_with_cpu(encoder: ChorusEncoder) -> None:
    g = make_scene(2000)
    expected = encoder.encode(g)
    torch.manual_seed(0)
    found = ChorusEncoder(ChorusModel(TINY), device="cuda").encode(g.to("cuda")).cpu()
    assert torch.nn.functional.cosine_similarity(found.float(), expected.float()).mean() > 0.999


@given(st.integers(0, 10_000))
def test_a_part_is_pooled_as_in_the_whole(seed: int) -> None:
    """Cells of every size that a model pools to hold the same voxels, and coordinates stay small."""
    rng = np.random.default_rng(seed)
    points = torch.from_numpy(rng.uniform(-20, 20, (200, 3)))
    part = points[points[:, 0] > rng.uniform(-15, 15)]
    if not len(part):
        return
    size = float(rng.uniform(0.02, 0.3))
    whole, cut = (voxelize(p, p, size, origin=grid_origin(points, size)) for p in (points, part))
    where = whole.grid[whole.voxel_of_point][points[:, 0] >= part[:, 0].min()]
    shift = where - cut.grid[cut.voxel_of_point]
    assert (shift == shift[0]).all()
    assert (shift[0] % ALIGNMENT == 0).all()
    low = cut.grid.amin(dim=0)
    assert ((low >= 0) & (low < ALIGNMENT)).all()
    assert (whole.grid.amin(dim=0) == 0).all(), "a whole scene begins at zero, as upstream's do"


# ---- several Gaussians in a voxel ------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=40))
def test_points_are_ranked_within_their_voxel(rows: list[tuple[int, int]]) -> None:
    """By priority, equal ones in their order; against sorting each voxel by itself."""
    voxel = torch.unique(torch.tensor([v for v, _ in rows]), return_inverse=True)[1]
    priority = torch.tensor([float(p) for _, p in rows])
    rank = rank_in_voxel(voxel, priority)
    for v in voxel.unique():
        members = (voxel == v).nonzero().squeeze(1).tolist()
        expected = sorted(members, key=lambda i: -float(priority[i]))
        assert [int(rank[i]) for i in expected] == list(range(len(members)))
    assert rank_in_voxel(torch.zeros(3, dtype=torch.long)).tolist() == [0, 1, 2]


def test_a_voxel_can_be_the_mean_of_what_is_in_it() -> None:
    g = make_scene(300, extent=0.5)
    channels = gaussian_channels(g).double()
    voxels = voxelize(g.means, channels, 0.1, g.opacities)
    mean = mean_channels(channels, voxels, g.opacities.double())
    for v in range(len(voxels.grid)):
        inside = voxels.voxel_of_point == v
        weight = g.opacities[inside].double()[:, None]
        expected = (channels[inside] * weight).sum(0) / weight.sum()
        expected[4:8] = channels[voxels.representative[v], 4:8]  # rotations have no mean
        assert torch.allclose(mean[v], expected, atol=1e-9)


def stacked(scene: Gaussians, copies: int) -> Gaussians:
    """Each Gaussian once more and more in its own voxel, in other colours, ever less opaque."""
    parts = [
        Gaussians(scene.means, scene.quats, scene.scales, scene.opacities * 0.5**k, (scene.colors + 0.31 * k) % 1.0)
        for k in range(copies)
    ]
    return Gaussians.cat(parts)


def one_a_voxel(size: float) -> Gaussians:
    scene = make_scene(600)
    return scene[voxelize(scene.means, gaussian_channels(scene), size, scene.opacities).representative]


@pytest.mark.parametrize("per_voxel", ["first", "mean", "fragments"])
def test_one_a_voxel_is_the_same_in_every_way(encoder: ChorusEncoder, per_voxel: str) -> None:
    scene = one_a_voxel(0.05)
    expected = encoder.encode(scene, grid_size=0.05).float()
    found = encoder.encode(scene, grid_size=0.05, per_voxel=per_voxel).float()
    assert torch.allclose(found, expected, atol=2e-3)


def test_fragments_are_passes_over_one_gaussian_each(encoder: ChorusEncoder) -> None:
    scene = one_a_voxel(0.05)
    layers = stacked(scene, 3)
    found = encoder.encode(layers, grid_size=0.05, per_voxel="fragments").float().split(len(scene))
    for k in range(3):
        alone = encoder.encode(layers[k * len(scene) : (k + 1) * len(scene)], grid_size=0.05).float()
        assert torch.allclose(found[k], alone, atol=2e-3)
    assert torch.allclose(encoder.encode(layers, grid_size=0.05).float()[: len(scene)], found[0], atol=2e-3)


def test_what_no_pass_reads_takes_the_voxels_mean(encoder: ChorusEncoder) -> None:
    scene = one_a_voxel(0.05)
    layers = stacked(scene, FRAGMENTS + 2)
    found = encoder.encode(layers, grid_size=0.05, per_voxel="fragments").float().reshape(FRAGMENTS + 2, len(scene), -1)
    mean = torch.nn.functional.normalize(found[:FRAGMENTS].mean(0), dim=1)
    for k in (FRAGMENTS, FRAGMENTS + 1):
        assert torch.allclose(found[k], mean, atol=4e-3)
