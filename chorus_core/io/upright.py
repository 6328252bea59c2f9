"""Turn a recording whose world frame has no known vertical so that +z points up.

Robots' map frames are upright (REP 103), and the encoder was trained on such maps. Hand-held recordings (7-Scenes,
TUM) often take their first camera as the world.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator

import numpy as np
import torch

from chorus_core.config import MapConfig
from chorus_core.frames import RgbdFrame
from chorus_core.io.sequence import RgbdSequence
from chorus_core.mapping.surface import DeviceFrame, measure

_SAMPLED_FRAMES = 12
_CONES_DEGREES = (30.0, 15.0, 7.0, 4.0)


def up_direction(normals: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """The direction of horizontal surfaces' normals nearest to a guess.

    Args:
        normals: unit [N, 3].
        guess: unit, within about 30 degrees of the truth [3].

    Returns:
        Unit [3]: the mean of the normals in ever narrower cones; the guess itself where no surface agrees with it.
    """
    up = guess / np.linalg.norm(guess)
    for cone in _CONES_DEGREES:
        agreeing = normals[normals @ up > np.cos(np.deg2rad(cone))]
        if len(agreeing) < 50:
            break
        up = agreeing.mean(axis=0)
        up /= np.linalg.norm(up)
    return up


def upright_from_world(up: np.ndarray) -> np.ndarray:
    """The shortest rotation that turns a unit vector [3] onto +z, as a transform [4, 4]."""
    axis = np.cross(up, (0.0, 0.0, 1.0))
    sine, cosine = np.linalg.norm(axis), up[2]
    transform = np.eye(4)
    if sine < 1e-9:
        transform[:3, :3] = np.diag((1.0, np.sign(cosine) or 1.0, np.sign(cosine) or 1.0))
        return transform
    x, y, z = axis / sine
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    transform[:3, :3] = np.eye(3) + sine * cross + (1 - cosine) * cross @ cross  # Rodrigues' formula
    return transform


def estimate_upright(sequence: RgbdSequence) -> np.ndarray:
    """upright_from_world [4, 4] of a recording: cameras are held upright on average; floors and tables refine that."""
    frames = [sequence[int(i)] for i in np.linspace(0, len(sequence) - 1, min(_SAMPLED_FRAMES, len(sequence)))]
    guess = -np.mean([frame.world_from_camera[:3, 1] for frame in frames], axis=0)
    normals = []
    for frame in frames:
        pixels = measure(DeviceFrame.upload(frame, torch.device("cpu")), MapConfig(), stride=4)
        normals.append(pixels.normals.numpy())
    return upright_from_world(up_direction(np.concatenate(normals), guess))


class UprightSequence:
    """Another sequence, in a world frame with +z up.

    Args:
        sequence: in any world frame.
    """

    def __init__(self, sequence: RgbdSequence) -> None:
        self._sequence = sequence
        self.upright_from_world = estimate_upright(sequence)

    @property
    def dropped(self) -> Counter[str]:
        return self._sequence.dropped

    def __len__(self) -> int:
        return len(self._sequence)

    def __getitem__(self, index: int) -> RgbdFrame:
        return self._turn(self._sequence[index])

    def __iter__(self) -> Iterator[RgbdFrame]:
        return map(self._turn, self._sequence)

    def _turn(self, frame: RgbdFrame) -> RgbdFrame:
        return dataclasses.replace(frame, world_from_camera=self.upright_from_world @ frame.world_from_camera)
