"""Photometric fit of Gaussians to posed images: 3DGS (Kerbl et al. 2023) with MCMC (Kheradmand et al. 2024)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from chorus_core.gaussians import SH_C0, Gaussians
from chorus_core.rendering import gsplat_engine, torch_engine
from training.preparation.config import FitConfig
from training.preparation.initial import camera_extent
from training.preparation.mcmc import Optimizers, Parameters, make_strategy
from training.preparation.ssim import ssim
from training.preparation.views import LoadedView

logger = logging.getLogger(__name__)

_FINAL_RATE = 0.01
_REFINE_FROM, _REFINE_UNTIL = 1 / 60, 5 / 6
"""Share of the steps between which dead Gaussians are moved and new ones added: 500 and 25000 of 30000."""


def fit(
    initial: Gaussians,
    views: Sequence[LoadedView],
    config: FitConfig,
    seed: int = 0,
    engine: str = "auto",
    progress: bool = True,
) -> Gaussians:
    """Gaussians that look like the images from where these were taken.

    Repeatable under its seed, bit for bit on one thread of a CPU; elsewhere gradients are summed in any order.

    Args:
        initial: to begin with; the fit runs on their device.
        views: images with cameras, at the size to fit at.
        engine: "gsplat" (CUDA), "torch" (any device), or "auto" by the device.
        progress: show a bar.

    Returns:
        At most ``config.cap`` Gaussians, without dead ones; quaternions canonical (unit, w >= 0), opacities in (0, 1).

    Raises:
        ValueError: no views, or no Gaussians to begin with.
    """
    if not views or not len(initial):
        raise ValueError(
            f"{len(views)} views and {len(initial)} initial Gaussians: a photometric fit needs some of each"
        )
    device = initial.device
    extent = camera_extent(views)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        params = _parameters(initial[: config.cap])
        optimizers, schedule = _optimizers(params, config, extent)
        strategy = make_strategy(
            device, config.cap, config.noise, int(_REFINE_FROM * config.steps), int(_REFINE_UNTIL * config.steps),
            config.refine_every, config.min_opacity,
        )  # fmt: skip
        state = strategy.initialize_state()
        order: list[int] = []
        for step in tqdm(range(config.steps), desc="fit", unit="step", disable=None if progress else True, leave=False):
            order = order or torch.randperm(len(views)).tolist()
            loss = fit_loss(_gaussians(params), views[order.pop()], config, engine)
            loss.backward()
            for optimizer in optimizers.values():
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            rate = schedule.get_last_lr()[0]
            strategy.step_post_backward(params, optimizers, state, step, {}, lr=rate)
            schedule.step()
    with torch.no_grad():
        fitted = _gaussians(params)
        alive = (fitted.opacities > config.min_opacity) & torch.isfinite(fitted.means).all(dim=1)
        logger.info("fit: %d Gaussians from %d views, last loss %.4f", int(alive.sum()), len(views), float(loss))
        return _canonical(fitted[alive])


def fit_loss(gaussians: Gaussians, target: LoadedView, config: FitConfig, engine: str = "auto") -> Tensor:
    """(1 - s) L1 + s (1 - SSIM) + relative depth error + opacity and scale regularisation, a scalar."""
    device = gaussians.device
    color = torch.from_numpy(target.color).to(device).float() / 255.0  # [H, W, 3]
    on_gsplat = engine == "gsplat" or (engine == "auto" and device.type == "cuda")
    rasterize = gsplat_engine.rasterize if on_gsplat else torch_engine.rasterize
    drawn, alpha, depth_sum = rasterize(gaussians, gaussians.colors, target.view)
    loss = (1 - config.ssim) * (drawn - color).abs().mean() + config.ssim * (1 - ssim(drawn, color))
    if config.depth and target.depth is not None:
        depth = torch.from_numpy(target.depth).to(device)
        usable = (depth > 0) & (alpha.detach() > 0.5)
        error = (depth_sum / alpha.clamp(min=1e-6) - depth).abs() / depth.clamp(min=1e-6)
        loss = loss + config.depth * (error * usable).sum() / usable.sum().clamp(min=1)
    return loss + config.opacity_reg * gaussians.opacities.mean() + config.scale_reg * gaussians.scales.mean()


def _parameters(g: Gaussians) -> Parameters:
    """Unconstrained parameters of Gaussians."""
    values = {
        "means": g.means,
        "scales": g.scales.clamp(min=1e-6).log(),
        "quats": g.quats,
        "opacities": g.opacities.clamp(1e-4, 1 - 1e-4).logit(),
        "colors": (g.colors - 0.5) / SH_C0,
    }
    return {name: nn.Parameter(v.detach().clone()) for name, v in values.items()}


def _gaussians(params: Parameters) -> Gaussians:
    return Gaussians(
        params["means"],
        nn.functional.normalize(params["quats"], dim=1),
        params["scales"].exp(),
        params["opacities"].sigmoid(),
        (0.5 + SH_C0 * params["colors"]).clamp(min=0.0),
    )


def _canonical(g: Gaussians) -> Gaussians:
    """The same Gaussians with w >= 0 and colours in [0, 1], detached."""
    quats = torch.where(g.quats[:, :1] < 0, -g.quats, g.quats)
    values = (g.means, quats, g.scales, g.opacities, g.colors.clamp(0, 1))
    return Gaussians(*(v.detach().clone() for v in values))


def _optimizers(
    params: Parameters, config: FitConfig, extent: float
) -> tuple[Optimizers, torch.optim.lr_scheduler.ExponentialLR]:
    """An Adam for each parameter, and the schedule of the means' rate."""
    rates = {
        "means": config.means_lr * extent,
        "scales": config.scales_lr,
        "quats": config.quats_lr,
        "opacities": config.opacities_lr,
        "colors": config.colors_lr,
    }
    optimizers: Optimizers = {
        name: torch.optim.Adam([params[name]], lr=rate, eps=1e-15) for name, rate in rates.items()
    }
    return optimizers, torch.optim.lr_scheduler.ExponentialLR(optimizers["means"], _FINAL_RATE ** (1 / config.steps))
