"""Fixtures of the tests that run nodes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))  # for harness, which pytest's importlib mode does not find

from harness import CAMERA, FRAMES, Client, render


@pytest.fixture(scope="module")
def sequence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The room as a numbered folder; frames are 1/30 s apart."""
    folder = tmp_path_factory.mktemp("room")
    for name in ("color", "depth", "pose"):
        (folder / name).mkdir()
    for number in range(FRAMES):
        color, depth, pose = render(number)
        cv2.imwrite(str(folder / "color" / f"{number}.png"), color[:, :, ::-1])
        cv2.imwrite(str(folder / "depth" / f"{number}.png"), depth)
        np.savetxt(folder / "pose" / f"{number}.txt", pose)
    c = CAMERA
    calibration = {"fx": c.fx, "fy": c.fy, "cx": c.cx, "cy": c.cy, "width": c.width, "height": c.height}
    (folder / "intrinsics.json").write_text(json.dumps(calibration))
    return folder


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.close()
