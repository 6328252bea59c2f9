"""The sparse convolution against a dense one, and against spconv."""

from __future__ import annotations

import pytest
import torch

from chorus_core.encoder.hierarchy import Level, build_hierarchy
from chorus_core.encoder.sparse_conv import PackedConv3d, SubMConv3d, cells_of, convolve_torch

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def level_of(grid: torch.Tensor, *sizes: int) -> Level:
    """The finest level of scenes of these sizes; one scene by default."""
    return build_hierarchy(grid, torch.tensor(sizes or (len(grid),)).cumsum(0), [()], 8)[0]


def random_level(seed: int, sizes: tuple[int, ...] = (400, 300), extent: int = 12) -> Level:
    """Occupied voxels of several scenes in the same box."""
    rng = torch.Generator().manual_seed(seed)
    cells = torch.cartesian_prod(*[torch.arange(extent)] * 3)
    grid = torch.cat([cells[torch.randperm(len(cells), generator=rng)[:size]] for size in sizes])
    return level_of(grid, *sizes)


def convolve_densely(x: torch.Tensor, weight: torch.Tensor, level: Level) -> torch.Tensor:
    """The same through conv3d on the whole box, read at the occupied voxels."""
    extent = int(level.grid.max()) + 1
    dense = x.new_zeros(int(level.batch.max()) + 1, x.shape[1], extent, extent, extent)
    place = (level.batch, slice(None), *level.grid.unbind(1))
    dense[place] = x
    out = torch.nn.functional.conv3d(dense, weight.permute(0, 4, 1, 2, 3), padding=1)
    return out[place]


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_dense_convolution_at_the_occupied_voxels(seed: int) -> None:
    level = random_level(seed)
    torch.manual_seed(seed)
    conv = SubMConv3d(7, 5)
    conv.bias.data.normal_()
    x = torch.randn(len(level), 7, requires_grad=True)
    found = conv(x, level)
    expected = convolve_densely(x, conv.weight, level) + conv.bias
    assert torch.allclose(found, expected, atol=1e-5)
    direction = torch.randn_like(found)
    ours = torch.autograd.grad((found * direction).sum(), (x, conv.weight))
    theirs = torch.autograd.grad((expected * direction).sum(), (x, conv.weight))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_lonely_voxels_and_the_ends_of_the_grid() -> None:
    """Neighbours must not wrap from one axis into the next."""
    grid = torch.tensor([[0, 0, 3], [0, 1, 0], [1, 0, 0], [0, 3, 3], [3, 3, 3], [1, 3, 3]])
    level = level_of(grid)
    weight, x = torch.randn(4, 3, 3, 3, 4), torch.randn(6, 4)
    assert torch.allclose(convolve_torch(x, cells_of(weight), level), convolve_densely(x, weight, level), atol=1e-5)
    alone = level_of(torch.tensor([[5, 5, 5]]))
    assert torch.allclose(convolve_torch(x[:1], cells_of(weight), alone), x[:1] @ weight[:, 1, 1, 1].T, atol=1e-6)


def spconv_or_skip():
    spconv = pytest.importorskip("spconv.pytorch", reason="spconv is not installed", exc_type=ImportError)
    from spconv.core import ConvAlgo

    return spconv, ConvAlgo.Native


@pytest.mark.parametrize("seed", range(2))
def test_it_is_spconvs(seed: int) -> None:
    spconv, native = spconv_or_skip()
    level = random_level(seed)
    torch.manual_seed(seed)
    ours = SubMConv3d(8, 6)
    theirs = spconv.SubMConv3d(8, 6, 3, bias=True, indice_key="level", algo=native)
    assert theirs.weight.shape == ours.weight.shape, "the layout of the release is spconv's"
    with torch.no_grad():
        theirs.weight.copy_(ours.weight)
        theirs.bias.copy_(ours.bias.normal_())
    indices = torch.cat((level.batch[:, None], level.grid), dim=1).int()
    shape = (level.grid.amax(dim=0) + 1).tolist()
    x = torch.randn(len(level), 8)
    expected = theirs(spconv.SparseConvTensor(x, indices, shape, 2)).features
    assert torch.allclose(ours(x, level), expected, atol=1e-5)


@needs_cuda
@pytest.mark.parametrize("grad", [False, True])
def test_cuda_agrees_with_cpu(grad: bool) -> None:
    level = random_level(0, sizes=(1200, 900), extent=20)
    on_gpu = level_of(level.grid.cuda(), 1200, 900)
    torch.manual_seed(0)
    conv = SubMConv3d(32, 32)
    x = torch.randn(len(level), 32)
    expected = conv(x, level)
    with torch.set_grad_enabled(grad):
        found = conv.cuda()(x.cuda(), on_gpu).cpu()
    assert torch.allclose(found, expected, atol=2e-2 if not grad else 5e-3)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
@pytest.mark.parametrize(("seed", "width_in", "width_out"), [(0, 3, 5), (1, 48, 48), (2, 96, 200), (3, 130, 64)])
def test_the_packed_one_is_the_dense_convolution(device: str, seed: int, width_in: int, width_out: int) -> None:
    level = random_level(seed)
    torch.manual_seed(seed)
    weight, bias, x = torch.randn(width_out, 3, 3, 3, width_in) / 9, torch.randn(width_out), torch.randn(700, width_in)
    expected = convolve_densely(x.double(), weight.double(), level) + bias.double()
    there = level_of(level.grid.to(device), 400, 300)
    with torch.inference_mode():
        found = PackedConv3d(weight, bias).to(device)(x.to(device), there).cpu().double()
    assert torch.allclose(found, expected, atol=1e-4)


@needs_cuda
def test_the_kernel_does_not_wrap_at_the_ends_of_the_grid() -> None:
    """Extents of a power of two, where the neighbour behind the last voxel has the code of another scene's first."""
    corner = torch.cartesian_prod(*[torch.tensor([0, 1, 6, 7])] * 3)
    level = level_of(torch.cat((corner, corner)), 64, 64)
    there = level_of(level.grid.cuda(), 64, 64)
    conv, x = PackedConv3d(torch.randn(16, 3, 3, 3, 16), torch.zeros(16)), torch.randn(128, 16)
    with torch.inference_mode():
        expected = conv(x, level)
        assert torch.allclose(conv.cuda()(x.cuda(), there).cpu(), expected, atol=1e-4)


@needs_cuda
@pytest.mark.parametrize("extent", [15, 16, 31])
def test_the_kernel_on_coarser_levels_of_several_scenes(extent: int) -> None:
    """An extent of 15 takes four bits, and so does its half of 8, whose codes have three."""
    first = random_level(3, sizes=(900, 700, 800), extent=extent)
    levels, there = (
        build_hierarchy(grid, torch.tensor([900, 1600, 2400]), [(), (), ()], 8)
        for grid in (first.grid, first.grid.cuda())
    )
    torch.manual_seed(0)
    conv = PackedConv3d(torch.randn(16, 3, 3, 3, 16) / 9, torch.randn(16))
    for level, on_gpu in zip(levels, there, strict=True):
        x = torch.randn(len(level), 16)
        with torch.inference_mode():
            expected = conv.cpu()(x, level)
            assert torch.allclose(conv.cuda()(x.cuda(), on_gpu).cpu(), expected, atol=1e-4)


@needs_cuda
def test_the_kernel_in_bfloat16() -> None:
    level = random_level(0, sizes=(1200, 900), extent=20)
    there = level_of(level.grid.cuda(), 1200, 900)
    conv, x = PackedConv3d(torch.randn(96, 3, 3, 3, 64) / 24, torch.randn(96)).bfloat16(), torch.randn(2100, 64)
    expected = convolve_torch(x.bfloat16().double(), conv.cells.double(), level) + conv.bias.double()
    with torch.inference_mode():
        found = conv.cuda()(x.cuda(), there).cpu().double()
    assert torch.allclose(found, expected, rtol=1e-2, atol=1e-2)
