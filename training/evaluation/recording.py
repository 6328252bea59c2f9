"""A recording through the pipeline without threads, some frames held out to judge the map's renders by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from chorus_core.frames import RgbdFrame
from chorus_core.gaussians import Gaussians
from chorus_core.io.rgbd import RgbdSequence
from chorus_core.pipeline import Pipeline
from chorus_core.rendering import View, render

_COVERED = 0.5


def hold_out(frames: int, count: int) -> list[int]:
    """``count`` places out of ``frames``, evenly spread, never the first or last; fewer where there are too few."""
    step = max(2, frames // max(1, count))
    return list(range(step // 2, frames, step))[:count]


def map_recording(pipeline: Pipeline, sequence: RgbdSequence, held_out: list[int]) -> list[RgbdFrame]:
    """Integrate all frames but those held out, which are returned, and encode the map."""
    skipped, kept = set(held_out), []
    for number, frame in enumerate(tqdm(sequence, total=len(sequence), desc="integrate", disable=None)):
        if number in skipped:
            kept.append(frame)
        else:
            pipeline.integrate(frame)
    pipeline.encode_all()
    return kept


@dataclass(frozen=True)
class RenderQuality:
    """Means over views.

    Attributes:
        psnr: decibels over all pixels, the uncovered ones black.
        psnr_covered: decibels over pixels the map covers.
        coverage: share of pixels covered by more than half.
        depth_error: median absolute error of z-depth where there is a measured and a drawn one, metres.
        views: how many.
    """

    psnr: float
    psnr_covered: float
    coverage: float
    depth_error: float
    views: int


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Peak signal-to-noise ratio of values in [0, 1] of any one shape, decibels (infinite where they are equal)."""
    mse = float(np.mean((first.astype(np.float64) - second.astype(np.float64)) ** 2))
    return float("inf") if mse == 0 else -10 * float(np.log10(mse))


def render_quality(gaussians: Gaussians, frames: list[RgbdFrame], size: tuple[int, int] = (320, 240)) -> RenderQuality:
    """How well the map draws frames that it was not made from, resized to ``size`` (width, height)."""
    rows = []
    for frame in tqdm(frames, desc="render", disable=None):
        frame = frame.resized(*size)
        with torch.inference_mode():
            drawn = render(gaussians, View(frame.intrinsics, frame.world_from_camera))
        color, alpha, depth = (t.cpu().numpy() for t in (drawn.color.clamp(0, 1), drawn.alpha, drawn.depth))
        real, covered = frame.color / 255.0, alpha > _COVERED
        both = covered & (frame.depth > 0)
        rows.append(
            (
                psnr(color, real),
                psnr(color[covered], real[covered]) if covered.any() else float("nan"),
                float(covered.mean()),
                float(np.median(np.abs(depth - frame.depth)[both])) if both.any() else float("nan"),
            )
        )
    means = np.nanmean(np.array(rows), axis=0).tolist() if rows else [float("nan")] * 4
    return RenderQuality(*means, views=len(rows))
