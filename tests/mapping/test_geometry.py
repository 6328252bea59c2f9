"""Quaternions of the map against scipy."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from chorus_core.mapping.geometry import quats_from_normals, rotations_from_quats

component = st.floats(-1, 1, width=32)
vectors = st.tuples(component, component, component).filter(lambda v: np.linalg.norm(v) > 0.1)


@given(st.lists(vectors, min_size=1, max_size=20))
def test_quats_turn_z_onto_the_normal_or_its_opposite(normals: list[tuple[float, float, float]]) -> None:
    n = torch.nn.functional.normalize(torch.tensor(normals, dtype=torch.float32), dim=1)
    quats = quats_from_normals(n)
    assert torch.allclose(quats.norm(dim=1), torch.ones(len(n)), atol=1e-6)
    assert (quats[:, 0] >= 0.7).all()  # w = cos(half the angle), and the angle is at most 90 degrees
    turned = Rotation.from_quat(quats.double().numpy(), scalar_first=True).apply((0.0, 0.0, 1.0))
    assert np.allclose(np.abs((turned * n.double().numpy()).sum(1)), 1.0, atol=1e-6)
    assert np.allclose(quats[:, 3].numpy(), 0.0)  # the shortest rotation does not spin about z


def test_rotations_are_scipys() -> None:
    quats = torch.nn.functional.normalize(torch.randn(100, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    expected = Rotation.from_quat(quats.double().numpy(), scalar_first=True).as_matrix()
    assert np.allclose(rotations_from_quats(quats).numpy(), expected, atol=1e-6)
