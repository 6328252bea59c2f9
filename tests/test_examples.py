"""Every example runs as its first lines say, on a short piece of the shipped recording."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from chorus_core.io.rgbd import open_sequence


@pytest.fixture(scope="module")
def recording(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight frames of the house as a folder."""
    folder = tmp_path_factory.mktemp("house")
    for name in ("color", "depth", "pose"):
        (folder / name).mkdir()
    sequence = open_sequence(repository / "data" / "house_drive" / "bag")
    for number in range(8):
        frame = sequence[5 * number]
        cv2.imwrite(str(folder / "color" / f"{number}.png"), frame.color[:, :, ::-1])
        cv2.imwrite(str(folder / "depth" / f"{number}.png"), np.rint(frame.depth * 1000).astype(np.uint16))
        np.savetxt(folder / "pose" / f"{number}.txt", frame.world_from_camera)
    c = frame.intrinsics
    calibration = {"fx": c.fx, "fy": c.fy, "cx": c.cx, "cy": c.cy, "width": c.width, "height": c.height}
    (folder / "intrinsics.json").write_text(json.dumps(calibration))
    return folder


@pytest.fixture(scope="module")
def saved(repository: Path, recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("out") / "map.ply"
    said = run(repository, "map_a_recording.py", recording, path)
    assert f"saved {path}" in said
    assert re.search(r"^object 1: \w+ of \d+ Gaussians at", said, re.MULTILINE)
    return path


def run(repository: Path, name: str, *arguments: object) -> str:
    """What an example prints."""
    done = subprocess.run(
        [sys.executable, str(repository / "examples" / name), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(repository), os.environ.get("PYTHONPATH", "")))},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ask_a_map(repository: Path, saved: Path) -> None:
    said = run(repository, "ask_a_map.py", saved, "floor", "an elephant")
    assert re.match(r"map [0-9a-f-]{36}: \d+ Gaussians, \d+ objects\n", said)
    assert "floor: 0." in said or "floor: 1." in said


def test_encode_a_scene(repository: Path, saved: Path) -> None:
    said = run(repository, "encode_a_scene.py", saved, "wall", "floor", "bed")
    counts = {name: int(count) for name, count, _ in re.findall(r"(\w+): (\d+) of (\d+) Gaussians", said)}
    assert set(counts) == {"wall", "floor", "bed"}
    assert counts["floor"] > 0


def test_lift_a_teacher(repository: Path, recording: Path) -> None:
    said = run(repository, "lift_a_teacher.py", recording, "embedded", "floor", "a plant")
    assert len(re.findall(r"most similar -?\d\.\d\d at \[", said)) == 2


def test_all_examples_are_told_of(repository: Path) -> None:
    names = {path.name for path in (repository / "examples").glob("*.py")}
    tested = set(re.findall(r'run\(repository, "(\w+\.py)"', Path(__file__).read_text(encoding="utf-8")))
    assert names - tested == {"query_client.py"}, "which tests/ros/test_nodes.py runs"
