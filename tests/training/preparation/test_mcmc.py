"""The MCMC strategy's twin against what its equations mean, and against gsplat's kernel where there is CUDA."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import nn

from training.preparation.mcmc import MAX_COPIES, TorchMCMC, add_noise, relocation, replace_rows


def make_parameters(opacities: list[float]) -> tuple[dict, dict]:
    """Parameters in a row along x, with optimisers that have taken a step (so that they hold moments)."""
    count = len(opacities)
    values = {
        "means": torch.arange(count).float()[:, None].repeat(1, 3),
        "scales": torch.full((count, 3), math.log(0.1)),
        "quats": torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1),
        "opacities": torch.tensor(opacities).logit(),
        "colors": torch.arange(count).float()[:, None].repeat(1, 3),
    }
    params = {name: nn.Parameter(v) for name, v in values.items()}
    optimizers = {name: torch.optim.Adam([p], lr=0.0) for name, p in params.items()}
    sum(p.sum() for p in params.values()).backward()
    for optimizer in optimizers.values():
        optimizer.step()
        optimizer.zero_grad()
    return params, optimizers


@settings(max_examples=25, deadline=None)
@given(st.floats(0.01, 0.99), st.integers(1, MAX_COPIES), st.floats(0.001, 2.0))
def test_copies_together_look_like_the_one_they_replace(opacity: float, copies: int, scale: float) -> None:
    new, scales = relocation(
        torch.tensor([opacity], dtype=torch.float64),
        torch.full((1, 3), scale, dtype=torch.float64),
        torch.tensor([copies]),
    )
    # At the centre they cover as much.
    assert 1 - (1 - float(new)) ** copies == pytest.approx(opacity, rel=1e-9)
    # Along a line, what they cover has the integral of the one: composited alpha is 1 - (1 - o g(x))^n.
    covered = quad(lambda x: 1 - (1 - float(new) * math.exp(-0.5 * x * x)) ** copies, -12, 12, epsabs=1e-12)[0]
    assert float(scales[0, 0]) * covered == pytest.approx(opacity * scale * math.sqrt(2 * math.pi), rel=1e-5)


def test_more_copies_than_the_table_holds_count_as_its_last_row() -> None:
    opacity, scale = torch.tensor([0.7, 0.7]), torch.ones(2, 3)
    new, scales = relocation(opacity, scale, torch.tensor([MAX_COPIES, 10_000]))
    assert new[0] == new[1] and torch.equal(scales[0], scales[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="gsplat's relocation is a CUDA kernel")
def test_relocation_is_gsplats() -> None:
    from gsplat import MCMCStrategy
    from gsplat.relocation import compute_relocation

    rng = torch.Generator().manual_seed(0)
    opacities = torch.empty(500).uniform_(0.01, 0.95, generator=rng)
    scales, copies = torch.rand(500, 3, generator=rng), torch.randint(1, 12, (500,), generator=rng)
    binomials = MCMCStrategy().initialize_state()["binoms"].cuda()
    theirs = compute_relocation(opacities.cuda(), scales.cuda(), copies.cuda(), binomials)
    ours = relocation(opacities, scales, copies)
    torch.testing.assert_close(theirs[0].cpu(), ours[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(theirs[1].cpu(), ours[1], rtol=2e-3, atol=1e-5)


def test_the_dead_move_onto_the_living() -> None:
    torch.manual_seed(0)
    params, optimizers = make_parameters([0.9, 0.001, 0.8, 0.002])
    before = optimizers["means"].state[params["means"]]["exp_avg"].clone()
    strategy = TorchMCMC(cap_max=4, noise_lr=0.0, refine_start_iter=0, refine_every=1)
    strategy.step_post_backward(params, optimizers, {}, 1, {}, lr=1e-3)
    assert (params["opacities"].sigmoid() > 0.005).all()
    for moved in (1, 3):
        home = int(params["means"][moved, 0])
        assert home in (0, 2)
        for values in params.values():
            assert torch.equal(values[moved], values[home])
        assert (optimizers["means"].state[params["means"]]["exp_avg"][home] == 0).all()
    assert (before != 0).all()


def test_growth_is_a_twentieth_and_stops_at_the_cap() -> None:
    torch.manual_seed(0)
    params, optimizers = make_parameters([0.5] * 40)
    strategy = TorchMCMC(cap_max=43, noise_lr=0.0, refine_start_iter=0, refine_every=1)
    counts = []
    for step in (1, 2, 3):
        strategy.step_post_backward(params, optimizers, {}, step, {}, lr=1e-3)
        counts.append(len(params["means"]))
    assert counts == [42, 43, 43]
    moments = optimizers["colors"].state[params["colors"]]
    assert moments["exp_avg"].shape == params["colors"].shape and (moments["exp_avg"][40:] == 0).all()
    sum(p.sum() for p in params.values()).backward()
    optimizers["colors"].step()  # the optimiser follows the new tensor


def test_nothing_moves_outside_the_refinement_steps() -> None:
    params, optimizers = make_parameters([0.9, 0.001])
    strategy = TorchMCMC(noise_lr=0.0, refine_start_iter=10, refine_stop_iter=20, refine_every=5)
    for step in (0, 5, 10, 20, 25, 16):
        strategy.step_post_backward(params, optimizers, {}, step, {}, lr=1e-3)
    assert len(params["means"]) == 2 and params["opacities"].sigmoid()[1] < 0.005


def test_a_scene_of_dead_ones_is_left_alone() -> None:
    params, optimizers = make_parameters([0.001, 0.001])
    TorchMCMC(cap_max=2, noise_lr=0.0, refine_start_iter=0, refine_every=1).step_post_backward(
        params, optimizers, {}, 1, {}, lr=1e-3
    )
    assert torch.equal(params["means"][:, 0], torch.tensor([0.0, 1.0]))


def test_noise_has_the_gaussians_covariance_and_spares_the_opaque() -> None:
    torch.manual_seed(0)
    count = 20_000
    quat = nn.functional.normalize(torch.tensor([[0.8, 0.3, -0.2, 0.5]]), dim=1)
    params = {
        "means": nn.Parameter(torch.zeros(count, 3)),
        "scales": nn.Parameter(torch.tensor([[0.3, 0.1, 0.02]]).log().repeat(count, 1)),
        "quats": nn.Parameter(quat.repeat(count, 1)),
        "opacities": nn.Parameter(torch.cat((torch.full((count // 2,), -12.0), torch.full((count // 2,), 3.0)))),
    }
    add_noise(params, 2.0)
    faint, opaque = params["means"].detach().split(count // 2)
    assert opaque.abs().max() < 1e-6
    from scipy.spatial.transform import Rotation

    rotation = torch.from_numpy(Rotation.from_quat(quat[0].numpy(), scalar_first=True).as_matrix()).float()
    covariance = rotation @ torch.diag(torch.tensor([0.3, 0.1, 0.02]).square()) @ rotation.T
    gate = 1 / (1 + math.exp(-100 * (1 - 1 / (1 + math.exp(12.0)) - 0.995)))
    expected = (2.0 * gate) ** 2 * covariance @ covariance
    torch.testing.assert_close(faint.T @ faint / len(faint), expected, rtol=0.05, atol=2e-4)


def test_rows_without_moments_are_replaced_too() -> None:
    params = {"means": nn.Parameter(torch.zeros(2, 3))}
    optimizers = {"means": torch.optim.Adam([params["means"]], lr=0.1)}
    replace_rows(params, optimizers, lambda v: torch.cat((v, v)), lambda m: torch.cat((m, m)))
    assert params["means"].shape == (4, 3) and optimizers["means"].param_groups[0]["params"][0] is params["means"]
