"""Class-agnostic instance proposals, made without ground truth; each is a set of points that hang together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor

from chorus_core.io.scene_folder import SceneFolderError
from chorus_core.semantics.connectivity import connected_groups

PROPOSALS_FILE = "proposals.npy"
_PAIRS_AT_ONCE = 1 << 20


def proposals_from_labels(points: np.ndarray, labels: np.ndarray, gap: float, min_points: int) -> np.ndarray:
    """Connected components of each predicted class.

    Args:
        points: metres [N, 3].
        labels: predicted class, negative = none [N].
        gap: neighbours of a component are at most this far apart, metres.
        min_points: smaller components are none.

    Returns:
        Proposal of each point, counted from 0, -1 = none, int64 [N].
    """
    out = np.full(len(points), -1, dtype=np.int64)
    count = 0
    for label in np.unique(labels[labels >= 0]):
        rows = np.flatnonzero(labels == label)
        groups = connected_groups(points[rows], gap, min_points)
        out[rows] = np.where(groups >= 0, groups + count, -1)
        count += int(groups.max(initial=-1)) + 1
    return out


def proposals_from_features(
    points: np.ndarray, features: Tensor, gap: float, similarity: float, min_points: int
) -> np.ndarray:
    """Connected components of neighbours with like features.

    Args:
        points: metres [N, 3].
        features: of each, zero = none [N, d].
        gap: neighbours are at most this far apart, metres.
        similarity: cosine from which neighbours belong together.
        min_points: smaller components are none.

    Returns:
        Proposal of each point, the largest first, -1 = none, int64 [N].
    """
    known = features.float().norm(dim=1) > 0
    unit = torch.nn.functional.normalize(features.float(), dim=1)
    pairs = torch.from_numpy(cKDTree(points).query_pairs(gap, output_type="ndarray").astype(np.int64))
    pairs = pairs.to(unit.device)
    alike = [
        part[(unit[part[:, 0]] * unit[part[:, 1]]).sum(dim=1) >= similarity] for part in pairs.split(_PAIRS_AT_ONCE)
    ]
    a, b = torch.cat(alike).cpu().numpy().T if alike else np.zeros((2, 0), np.int64)
    graph = coo_matrix((np.ones(len(a), dtype=np.int8), (a, b)), shape=(len(points),) * 2)
    component = connected_components(graph, directed=False)[1]
    sizes = np.bincount(component[known.cpu().numpy()], minlength=component.max(initial=-1) + 1)
    order = np.argsort(-sizes, kind="stable")
    place = np.full(len(sizes), -1, dtype=np.int64)
    large = order[sizes[order] >= max(min_points, 1)]
    place[large] = np.arange(len(large))
    return np.where(known.cpu().numpy(), place[component], -1)


def read_proposals(folder: str | Path, count: int) -> np.ndarray:
    """``proposals.npy`` of a prepared scene: the proposal of each Gaussian, negative = none, int64 [N].

    Raises:
        SceneFolderError: missing, unreadable, or not one integer for each of ``count`` Gaussians.
    """
    path = Path(folder) / PROPOSALS_FILE
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SceneFolderError(f"{path}: not a readable array of proposals ({error})") from error
    if found.shape != (count,) or found.dtype.kind not in "iu":
        raise SceneFolderError(f"{path} is {found.dtype} {found.shape}: expected integers ({count},)")
    return found.astype(np.int64)
