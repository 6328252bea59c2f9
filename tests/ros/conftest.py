"""Fixtures of the tests that run nodes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import rclpy
import torch
from rclpy.node import Node

sys.path.append(str(Path(__file__).parent))  # for harness, which pytest's importlib mode does not find

from harness import CAMERA, FRAMES, Client, render

from chorus_core.encoder import ChorusModel, ModelConfig, write_model


@pytest.fixture
def lone_node() -> Iterator[Node]:
    """A node of nothing, in a context of its own that does not handle signals."""
    context = rclpy.context.Context()
    rclpy.init(context=context, domain_id=99)
    node = rclpy.create_node("lone", context=context)
    yield node
    node.destroy_node()
    context.try_shutdown()


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


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model folder: these tests are about the node, whatever the model knows."""
    torch.manual_seed(0)
    config = ModelConfig(
        enc_channels=(16, 16, 16),
        enc_depths=(1, 1, 1),
        enc_num_head=(2, 2, 2),
        patch_size=128,
        heads={"lang": 384},
        head_ratio=1,
        grid_size=0.05,
    )
    folder = tmp_path_factory.mktemp("model")
    write_model(folder, ChorusModel(config), {"name": "untrained", "text": {"encoder": "minilm", "head": "lang"}})
    return folder


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.close()
