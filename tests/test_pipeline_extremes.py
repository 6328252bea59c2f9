"""What the configuration lets through works: at its least, at its most, and in the background."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
import torch

from chorus_core.config import Config, options, parse
from chorus_core.frames import CameraIntrinsics, RgbdFrame
from chorus_core.pipeline import Pipeline
from chorus_core.stamps import SECOND

LEAST = {o.name: o.ge for o in options(Config) if o.ge is not None}
MOST = {o.name: o.le for o in options(Config) if o.le is not None}


def wall() -> RgbdFrame:
    color = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    depth = np.tile(np.linspace(1, 1.5, 64, dtype=np.float32), (48, 1))
    return RgbdFrame(color, depth, CameraIntrinsics(60, 60, 32, 24, 64, 48), np.eye(4), 0)


@pytest.mark.parametrize(
    ("extremes", "aside"),
    [(LEAST, {}), (MOST, {"map.depth_min": 0.2, "map.voxel_size": 0.05, "map.stride": 1})],
    ids=["least", "most"],
)
def test_every_option_at_its_bound(extremes: dict[str, float], aside: dict[str, float]) -> None:
    pipeline = Pipeline(parse(Config, {"map.voxel_size": 0.05, **extremes, **aside}))
    for stamp in range(3):
        pipeline.integrate(dataclasses.replace(wall(), stamp=stamp * SECOND))
    pipeline.encode_all()
    assert len(pipeline.labelled_map()) > 100
    assert pipeline.query("w").text == "w"  # of no more characters than the least allows
    pipeline.objects()


def test_the_thread_outlives_a_gpu_in_a_bad_way(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Pipeline(parse(Config, {"encoder.period": 0.01}))
    called, again = [], threading.Event()

    def fail() -> None:
        called.append(1)
        if len(called) > 1:
            again.set()
        raise torch.cuda.OutOfMemoryError("no memory")

    def worse() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(pipeline, "encode_step", fail)
    monkeypatch.setattr(torch.cuda, "empty_cache", worse)
    pipeline.start()
    try:
        assert again.wait(30)
        assert pipeline.ended == ""
    finally:
        pipeline.stop()


def test_no_period_is_too_long_to_wait_for() -> None:
    """Only a configuration made in Python, which nobody checks, has one beyond a day."""
    config = Config()
    pipeline = Pipeline(dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, period=1e300)))
    pipeline.start()
    pipeline._thread.join(0.3)
    assert pipeline.ended == ""
    pipeline.stop()
