"""PHI-S: one isotropic scale for the features of a teacher, so that teachers of unlike statistics weigh alike.

Ranzinger et al., "PHI-S: Distribution Balancing for Label-Free Multi-Teacher Distillation" (2024): rotate to the
principal axes, then by a Hadamard matrix, after which every channel has the same variance; one factor then suffices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import hadamard
from torch import Tensor


@dataclass(frozen=True)
class PhiS:
    """The standardisation of one teacher's features.

    The paper scales every channel to unit variance; here features have unit mean square length instead, which differs
    by a constant and lets one loss weight fit teachers of unit vectors as well.

    Attributes:
        mean: [D].
        rotation: orthogonal; a standardised feature is ``scale * rotation @ (x - mean)`` [D, D].
        scale: positive scalar [].
    """

    mean: Tensor
    rotation: Tensor
    scale: Tensor

    @classmethod
    def fit(cls, samples: Tensor) -> PhiS:
        """From features of that teacher [n, D], n > 1.

        Raises:
            ValueError: too few samples, constant ones, or no Hadamard matrix of order D is known here.
        """
        x = samples.double()
        if x.ndim != 2 or x.shape[0] < 2:
            raise ValueError(f"PHI-S on samples of shape {tuple(x.shape)}: expected (n, D) with n > 1")
        mean = x.mean(dim=0)
        covariance = torch.cov(x.T).reshape(x.shape[1], x.shape[1])
        variance, axes = torch.linalg.eigh(covariance)
        total = variance.clamp(min=0).sum()
        if not float(total) > 0:
            raise ValueError("PHI-S on constant samples: expected some variance")
        order = x.shape[1]
        rotation = torch.from_numpy(hadamard_matrix(order)).to(x) / order**0.5 @ axes.T
        return cls(mean.float(), rotation.float(), (1.0 / total.sqrt()).float())

    def to(self, device: torch.device) -> PhiS:
        return PhiS(self.mean.to(device), self.rotation.to(device), self.scale.to(device))

    def forward(self, features: Tensor) -> Tensor:
        """Standardised features [N, D]."""
        return (features.float() - self.mean) @ self.rotation.T * self.scale

    def inverse(self, standardized: Tensor) -> Tensor:
        """Features in the teacher's own space [N, D]."""
        return standardized.float() / self.scale @ self.rotation + self.mean


def hadamard_matrix(order: int) -> np.ndarray:
    """A Hadamard matrix of ones and minus ones, float64 [order, order], by Sylvester's and Paley's constructions.

    Raises:
        ValueError: neither yields one of that order (768, 1024 and 1152 are fine).
    """
    half = order
    while half % 2 == 0 and half > 2 and not _paley_prime(half):
        half //= 2
    if half in (1, 2):
        return hadamard(order).astype(np.float64)
    if not _paley_prime(half):
        raise ValueError(f"no Hadamard matrix of order {order} from Sylvester's and Paley's constructions")
    return np.kron(hadamard(order // half), _paley(half - 1)).astype(np.float64)


def _paley_prime(order: int) -> bool:
    q = order - 1
    return q > 2 and q % 4 == 3 and all(q % d for d in range(2, int(q**0.5) + 1))


def _paley(q: int) -> np.ndarray:
    """Paley's first construction for a prime q = 3 mod 4, order q + 1."""
    squares = {pow(x, 2, q) for x in range(1, q)}
    character = np.array([0] + [1 if x in squares else -1 for x in range(1, q)])
    jacobsthal = character[(np.arange(q)[:, None] - np.arange(q)[None, :]) % q]
    skew = np.zeros((q + 1, q + 1))
    skew[0, 1:], skew[1:, 0] = 1, -1
    skew[1:, 1:] = jacobsthal
    return skew + np.eye(q + 1)
