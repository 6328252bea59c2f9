"""Any file or folder that holds one scene, by what it is."""

from __future__ import annotations

from pathlib import Path

from chorus_core.gaussians import Gaussians
from chorus_core.io.gaussian_ply import holds_gaussians, load_gaussians
from chorus_core.io.point_cloud import PointCloud, load_point_cloud
from chorus_core.io.scene_folder import load_scene
from chorus_core.io.splat_file import load_splat

FORMS = ".ply (3DGS, SuperSplat-compressed, coloured points), .splat, .npz (points), or a folder of .npy arrays"


def load_any_scene(path: str | Path) -> Gaussians | PointCloud:
    """Read a scene of any form in :data:`FORMS`; rows keep the order of the file.

    Raises:
        ValueError: of another form, or damaged; the readers' own errors say more.
        FileNotFoundError: nothing is there.
    """
    path = Path(path)
    if path.is_dir():
        return load_scene(path)[0]
    match path.suffix.lower():
        case ".splat":
            return load_splat(path)
        case ".npz":
            return load_point_cloud(path)
        case ".ply":
            return load_gaussians(path) if holds_gaussians(path) else load_point_cloud(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    raise ValueError(f"{path}: expected {FORMS}")
