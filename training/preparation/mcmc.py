"""3D Gaussian splatting as Markov chain Monte Carlo (Kheradmand et al. 2024): gsplat's on CUDA, a twin elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from chorus_core.mapping.geometry import rotations_from_quats

MAX_COPIES = 51
"""Gaussians that one is split into at most, as in the authors' code."""

Parameters = dict[str, nn.Parameter]
"""means [N, 3], scales (log) [N, 3], quats [N, 4], opacities (logit) [N], and any other [N, ...]."""
Optimizers = dict[str, torch.optim.Optimizer]
"""One for each parameter, by the same name."""


class Strategy(Protocol):
    """What the fit asks of a strategy; ``gsplat.MCMCStrategy`` is one."""

    def initialize_state(self) -> dict[str, Any]: ...

    def step_post_backward(
        self,
        params: Parameters,
        optimizers: Optimizers,
        state: dict[str, Any],
        step: int,
        info: dict[str, Any],
        lr: float,
    ) -> None: ...


def make_strategy(
    device: torch.device, cap: int, noise: float, start: int, stop: int, every: int, min_opacity: float
) -> Strategy:
    """gsplat's strategy on CUDA, the twin elsewhere.

    Args:
        cap: most Gaussians.
        noise: strength of the noise, times the learning rate of the means.
        start, stop, every: steps at which dead Gaussians are moved and new ones added.
        min_opacity: Gaussians below are dead.
    """
    options = {
        "cap_max": cap,
        "noise_lr": noise,
        "refine_start_iter": start,
        "refine_stop_iter": stop,
        "refine_every": every,
        "min_opacity": min_opacity,
    }
    if device.type == "cuda":
        from gsplat import MCMCStrategy

        return MCMCStrategy(**options)
    return TorchMCMC(**options)


def relocation(opacities: Tensor, scales: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Opacity and scale of the copies that together look like the Gaussian they replace (equation 9).

    Args:
        opacities: in [0, 1) [N].
        scales: standard deviations [N, 3].
        copies: Gaussians in the place of each, clamped to [1, MAX_COPIES], int64 [N].

    Returns:
        Opacities [N] and scales [N, 3] of one copy.
    """
    copies = copies.clamp(1, MAX_COPIES)
    old = opacities.double()
    new = 1.0 - (1.0 - old) ** (1.0 / copies.double())
    # sum over i = 1..n of C(i - 1, k) is C(n, k + 1)
    k = torch.arange(MAX_COPIES, device=old.device)
    binomials = torch.tensor(
        [[math.comb(n, j + 1) for j in range(MAX_COPIES)] for n in range(MAX_COPIES + 1)],
        dtype=torch.float64,
        device=old.device,
    )
    signs = (1.0 - 2.0 * (k % 2)) / (k + 1.0).sqrt()
    total = (binomials[copies] * signs * new[:, None] ** (k + 1)).sum(dim=1)
    factor = torch.where(old > 0, old / total.clamp(min=1e-30), 1.0)
    return new.to(opacities.dtype), (scales.double() * factor[:, None]).to(scales.dtype)


@dataclass
class TorchMCMC:
    """gsplat's ``MCMCStrategy`` in plain torch, with the same arguments, for machines without CUDA."""

    cap_max: int = 1_000_000
    noise_lr: float = 5e5
    refine_start_iter: int = 500
    refine_stop_iter: int = 25_000
    refine_every: int = 100
    min_opacity: float = 0.005

    def initialize_state(self) -> dict[str, Any]:
        return {}

    @torch.no_grad()
    def step_post_backward(
        self,
        params: Parameters,
        optimizers: Optimizers,
        state: dict[str, Any],
        step: int,
        info: dict[str, Any],
        lr: float,
    ) -> None:
        """After an optimisation step: move the dead and grow at times, and always add noise.

        Args:
            lr: learning rate of the means.
        """
        if self.refine_start_iter < step < self.refine_stop_iter and step % self.refine_every == 0:
            self._move_dead(params, optimizers)
            self._grow(params, optimizers)
        add_noise(params, lr * self.noise_lr)

    def _move_dead(self, params: Parameters, optimizers: Optimizers) -> None:
        """Put dead Gaussians onto living ones, drawn by opacity."""
        opacities = params["opacities"].sigmoid()
        dead = opacities <= self.min_opacity
        if not dead.any() or dead.all():
            return
        gone, alive = dead.nonzero().squeeze(1), (~dead).nonzero().squeeze(1)
        chosen = alive[torch.multinomial(opacities[alive], gone.numel(), replacement=True)]
        self._share(params, chosen)

        def move(values: Tensor) -> Tensor:
            values[gone] = values[chosen]
            return values

        def forget(moment: Tensor) -> Tensor:
            moment[chosen] = 0
            return moment

        replace_rows(params, optimizers, move, forget)

    def _grow(self, params: Parameters, optimizers: Optimizers) -> None:
        """Add a twentieth, drawn by opacity, up to the cap."""
        count = params["means"].shape[0]
        added = min(self.cap_max, int(1.05 * count)) - count
        if added <= 0:
            return
        chosen = torch.multinomial(params["opacities"].sigmoid(), added, replacement=True)
        self._share(params, chosen)
        replace_rows(
            params,
            optimizers,
            lambda values: torch.cat((values, values[chosen])),
            lambda moment: torch.cat((moment, moment.new_zeros((added, *moment.shape[1:])))),
        )

    def _share(self, params: Parameters, chosen: Tensor) -> None:
        """Give Gaussians that will be copied the opacity and scale of a copy."""
        copies = torch.bincount(chosen, minlength=params["means"].shape[0])[chosen] + 1
        opacities, scales = relocation(params["opacities"][chosen].sigmoid(), params["scales"][chosen].exp(), copies)
        opacities = opacities.clamp(self.min_opacity, 1.0 - torch.finfo(torch.float32).eps)
        params["opacities"][chosen] = opacities.logit()
        params["scales"][chosen] = scales.log()


def replace_rows(
    params: Parameters,
    optimizers: Optimizers,
    change: Callable[[Tensor], Tensor],
    change_moment: Callable[[Tensor], Tensor],
) -> None:
    """Replace every parameter, and the moments its optimiser holds, by changed ones."""
    for name, old in list(params.items()):
        optimizer = optimizers[name]
        moments = optimizer.state.pop(old, {})
        new = nn.Parameter(change(old.data))
        optimizer.param_groups[0]["params"] = [new]
        if moments:
            optimizer.state[new] = {k: v if k == "step" else change_moment(v) for k, v in moments.items()}
        params[name] = new


@torch.no_grad()
def add_noise(params: Parameters, strength: float) -> None:
    """Noise on the means, shaped by each Gaussian's covariance and strong only where opacity is low (equation 8)."""
    opacities = params["opacities"].sigmoid()
    axes = rotations_from_quats(nn.functional.normalize(params["quats"], dim=1)) * params["scales"].exp()[:, None, :]
    gate = torch.sigmoid(100.0 * ((1.0 - opacities) - 0.995))
    drawn = torch.randn_like(params["means"]) * (gate * strength)[:, None]
    params["means"].add_((axes @ (axes.transpose(1, 2) @ drawn[..., None])).squeeze(-1))
