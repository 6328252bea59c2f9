"""What preparation can be told; the command line's options are generated from these fields."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from chorus_core.config import ConfigError, MapConfig, option


@dataclass(frozen=True)
class FitConfig:
    """The photometric fit. Rates are those of 3DGS (Kerbl et al. 2023), the rest of MCMC (Kheradmand et al. 2024)."""

    steps: int = option(30_000, "optimisation steps, one image each", ge=1)
    cap: int = option(1_500_000, "most Gaussians of a scene", ge=1)
    initial: int = option(200_000, "Gaussians to begin with", ge=1)
    ssim: float = option(0.2, "share of 1 - SSIM in the colour loss, beside L1", ge=0.0, le=1.0)
    depth: float = option(0.1, "weight of the relative depth error, where images have depth", ge=0.0)
    opacity_reg: float = option(0.01, "weight of the mean opacity, which lets useless Gaussians die", ge=0.0)
    scale_reg: float = option(0.01, "weight of the mean scale in metres, which keeps Gaussians small", ge=0.0)
    noise: float = option(5e5, "strength of the exploration noise on the means, times their learning rate", ge=0.0)
    means_lr: float = option(
        1.6e-4, "learning rate of the means, times the scene's extent; falls to a hundredth", gt=0.0
    )
    scales_lr: float = option(5e-3, "learning rate of the log scales", gt=0.0)
    quats_lr: float = option(1e-3, "learning rate of the quaternions", gt=0.0)
    opacities_lr: float = option(5e-2, "learning rate of the opacity logits", gt=0.0)
    colors_lr: float = option(2.5e-3, "learning rate of the colours, as degree-0 spherical harmonics", gt=0.0)
    min_opacity: float = option(
        0.005, "Gaussians below are dead: moved while fitting, dropped at the end", gt=0.0, le=1.0
    )
    refine_every: int = option(100, "steps between two rounds of moving dead Gaussians and adding new ones", ge=1)


@dataclass(frozen=True)
class LiftConfig:
    """Teacher features from images to Gaussians."""

    max_width: int = option(
        640, "wider images are resized to it for teachers and lifting, pixels; 0 = as they are", ge=0
    )
    batch: int = option(4, "images in one pass of a teacher", ge=1)
    center: bool = option(False, "sample features at projected centres only (Occam's LGS) instead of at every pixel")
    min_weight: float = option(
        1e-2, "summed compositing weight, in pixels over all views, that a Gaussian needs to get features", ge=0.0
    )


@dataclass(frozen=True)
class CutConfig:
    """Cutting large scenes into chunks; the SceneSplat releases use 6 m, stride 4 m, 50000 and a grid of 1 cm."""

    size: float = option(0.0, "edge of a chunk on the ground plane, metres; 0 keeps scenes whole", ge=0.0)
    stride: float = option(4.0, "metres between the corners of neighbouring chunks, at most", gt=0.0)
    height: float = option(0.0, "height of a chunk, metres, for houses of several floors; 0 = all of it", ge=0.0)
    min_gaussians: int = option(50_000, "smaller chunks are merged with a neighbour", ge=1)
    grid: float = option(0.0, "edge of the cells that keep one Gaussian each, metres; 0 keeps all", ge=0.0)

    def __post_init__(self) -> None:
        if self.size and self.stride > self.size:
            raise ConfigError(f"chunk.stride = {self.stride}: expected at most chunk.size = {self.size}")


NO_CACHE = "off"
"""Value of ``feature_cache`` that keeps nothing of what teachers say of images."""


@dataclass(frozen=True)
class PrepareConfig:
    """How a scene is prepared."""

    gaussians: str = option(
        "auto",
        "where Gaussians come from: the data set, the online map (RGB-D), a photometric fit, or the first possible",
        choices=("auto", "given", "map", "fit"),
    )
    every: int = option(1, "use every n-th image", ge=1)
    views: int = option(0, "use at most n images, evenly spread; 0 = no limit", ge=0)
    label_reach: float = option(0.1, "a Gaussian takes the label of the nearest labelled point within, metres", gt=0.0)
    device: str = option("auto", "where to compute", choices=("auto", "cpu", "cuda"))
    engine: str = option("auto", "renderer behind fit and lifting", choices=("auto", "torch", "gsplat"))
    seed: int = option(0, "seed of everything random", ge=0)
    feature_cache: str = option(
        "",
        'folder that keeps what teachers say of every image; empty: kept until the scene is finished; "off": not kept, '
        "for teachers faster than the disk",
    )
    keep_stages: bool = option(False, "keep the intermediate results of finished scenes")
    lift: LiftConfig = field(default_factory=LiftConfig)
    map: MapConfig = field(default_factory=MapConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    chunk: CutConfig = field(default_factory=CutConfig)

    @property
    def torch_device(self) -> torch.device:
        """The device to compute on; "auto" takes CUDA where there is one."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)
