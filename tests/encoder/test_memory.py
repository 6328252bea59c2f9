"""Voxels that fit a budget."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.building import rooms
from chorus_core.encoder import ChorusEncoder, ChorusModel, ModelConfig
from chorus_core.encoder.memory import GIB, plan_pass, weight_bytes

RELEASE = ModelConfig()


def test_more_memory_holds_more_voxels_and_wider_outputs_leave_less() -> None:
    plans = [plan_pass(gib, RELEASE, 1_000_000, [128, 128], 2, 32_768) for gib in (2.0, 6.0, 12.0)]
    assert plans[0].voxels < plans[1].voxels < plans[2].voxels
    assert plans[1].head_rows == plans[2].head_rows == 32_768
    assert plan_pass(6.0, RELEASE, 1_000_000, [1152, 1024], 2, 32_768).voxels < plans[1].voxels


@given(st.floats(0.05, 30.0), st.floats(1.0, 2.0), st.integers(1, 3_000_000))
def test_a_larger_budget_does_not_make_smaller_passes_but_for_a_tenth(
    budget: float, factor: float, points: int
) -> None:
    try:
        small = plan_pass(budget, RELEASE, points, [128], 2, 65_536)
    except ValueError as error:
        advised = float(str(error).split("at least ")[1].split()[0])
        plan_pass(advised, RELEASE, points, [128], 2, 65_536)  # the advice holds
        return
    large = plan_pass(budget * factor, RELEASE, points, [128], 2, 65_536)
    assert min(large.voxels, points) >= 0.9 * min(small.voxels, points)


def test_sums_over_passes_take_room() -> None:
    plain = plan_pass(6.0, RELEASE, 1_000_000, [1152], 2, 32_768)
    assert plan_pass(6.0, RELEASE, 1_000_000, [1152], 2, 32_768, kept_width=1152).voxels < plain.voxels / 3


def test_weights_are_those_of_the_model() -> None:
    with torch.device("meta"):
        model = ChorusModel(RELEASE)
    counted = sum(p.numel() for p in model.parameters())
    assert weight_bytes(RELEASE, 4) == pytest.approx(4 * counted, rel=0.05)


def test_a_budget_below_the_output_is_refused() -> None:
    with pytest.raises(ValueError, match="memory of 1 GiB: expected at least"):
        plan_pass(1.0, RELEASE, 1_000_000, [1152], 2, 32_768)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("budget", [1.5, 2.5])
def test_an_encode_keeps_to_its_budget(budget: float) -> None:
    torch.manual_seed(0)
    encoder, scene = ChorusEncoder(ChorusModel(RELEASE), device="cuda"), rooms(800_000, (0.0, 0.0, 0.0), 0.02)
    torch.cuda.reset_peak_memory_stats()
    basis = torch.linalg.qr(torch.randn(1152, 64))[0].cuda()
    encoder.encode(scene, "lang", basis, memory_gib=budget, max_points=10_000_000)
    assert torch.cuda.max_memory_allocated() < budget * GIB
