"""Kernels against their plain twins; they run on CUDA alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from chorus_core.encoder.acceleration import current, use_kernels
from chorus_core.encoder.backbone import add_norm
from chorus_core.encoder.placement import place
from chorus_core.encoder.serialization import ORDERS, Walks, encode, encode_torch, walk

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def test_a_cpu_uses_none() -> None:
    with torch.no_grad():
        assert not use_kernels(torch.zeros(1))


@needs_cuda
def test_gradients_are_left_to_torch() -> None:
    x = torch.zeros(1, device="cuda")
    assert not use_kernels(x)
    with torch.inference_mode():
        assert use_kernels(x)


@needs_cuda
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("count", "depth"), [(1, 1), (1023, 5), (5000, 11), (3000, 16)])
def test_curves(order: str, count: int, depth: int) -> None:
    rng = torch.Generator().manual_seed(depth)
    grid = torch.randint(0, 1 << depth, (count, 3), generator=rng)
    batch = torch.randint(0, 5, (count,), generator=rng)
    expected = encode_torch(grid, batch, depth, order.startswith("hilbert"), order.endswith("trans"))
    with torch.inference_mode():
        assert torch.equal(encode(grid.cuda(), batch.cuda(), depth, order).cpu(), expected)


@needs_cuda
def test_all_curves_are_sorted_as_one() -> None:
    rng = torch.Generator().manual_seed(0)
    levels = []
    for count, depth, orders in ((3000, 9, ORDERS), (700, 6, ORDERS[1:]), (5, 3, ()), (64, 16, ORDERS[2:])):
        grid = torch.randint(0, 1 << depth, (count, 3), generator=rng).unique(dim=0)
        levels.append(Walks(grid, torch.arange(len(grid)) * 3 // len(grid), depth, tuple(orders)))
    expected = walk(levels, 3)
    on_gpu = [Walks(w.grid.cuda(), w.batch.cuda(), w.depth, w.orders) for w in levels]
    for theirs, ours in zip(expected, walk(on_gpu, 3), strict=True):
        assert [o.cpu().tolist() for o in ours] == [t.tolist() for t in theirs]


@needs_cuda
@pytest.mark.parametrize("inner", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("count", "width"), [(1, 8), (777, 48), (1000, 96), (65, 384), (33, 512)])
def test_add_norm(count: int, width: int, dtype: torch.dtype, inner: bool) -> None:
    torch.manual_seed(width)
    norms = [nn.LayerNorm(width), nn.LayerNorm(width)]
    for norm in norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x, slots = torch.randn(count, width) + 3.0, torch.randn(count + 9, width).half()
    places = torch.randperm(count + 9)[:count]
    branch = slots[places]
    plain = [nn.LayerNorm(width).double() for _ in norms]
    for copy, norm in zip(plain, norms, strict=True):
        copy.load_state_dict(norm.state_dict())
    total = x.double() + (plain[0](branch.double()) if inner else branch.double())
    with torch.inference_mode():
        on_gpu = [norm.cuda() for norm in norms]
        first = on_gpu[0] if inner else None
        found, normed = add_norm(x.cuda(), slots.cuda(), first, on_gpu[1], dtype, places.cuda())
        plainly = add_norm(x.cuda(), branch.cuda(), first, on_gpu[1], dtype)
    assert torch.equal(found, plainly[0]) and torch.equal(normed, plainly[1])
    assert normed.dtype == dtype
    torch.testing.assert_close(found.cpu().double(), total, rtol=1e-5, atol=1e-5)
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(normed.cpu().double(), plain[1](total), rtol=tolerance, atol=tolerance)


@needs_cuda
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("width", [12, 96, 1152])
def test_place(width: int, unit: bool) -> None:
    torch.manual_seed(width)
    features, chosen = torch.randn(40, width), torch.randint(0, 40, (70,))
    features[3] = 0.0
    rows = torch.randperm(100)[:70]
    length = features.norm(dim=1) if unit else None
    found, expected = torch.full((100, width), 7.0).half(), torch.full((100, width), 7.0).half()
    place(expected, rows, features, chosen, length)
    with torch.inference_mode():
        found = found.cuda()
        place(found, rows.cuda(), features.cuda(), chosen.cuda(), length if length is None else length.cuda())
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_gpu_that_is_not_the_current_one() -> None:
    grid = torch.randint(0, 64, (100, 3))
    batch = torch.zeros(100, dtype=torch.int64)
    with torch.inference_mode():
        expected = encode(grid, batch, 6, "hilbert")
        assert not use_kernels(grid.to("cuda:1"))
        assert torch.equal(encode(grid.to("cuda:1"), batch.to("cuda:1"), 6, "hilbert").cpu(), expected)
        with current(torch.device("cuda:1")):
            assert use_kernels(grid.to("cuda:1"))
            assert torch.equal(encode(grid.to("cuda:1"), batch.to("cuda:1"), 6, "hilbert").cpu(), expected)
