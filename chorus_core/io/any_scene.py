"""Any file or folder that holds one scene, by what it is."""

from __future__ import annotations

from pathlib import Path

from chorus_core.io.gaussian_ply import holds_gaussians, read_gaussian_rows
from chorus_core.io.point_cloud import read_point_rows
from chorus_core.io.scene import GaussianRows, PointRows, Scene, SceneError, scene_of_gaussians, scene_of_points
from chorus_core.io.scene_folder import read_folder_rows
from chorus_core.io.splat_file import read_splat_rows

FORMS = ".ply (3DGS, SuperSplat-compressed, coloured points), .splat, .npz (points), or a folder of .npy arrays"


def load_any_scene(path: str | Path, drop_bad: bool = False) -> Scene:
    """Read a scene of any form in :data:`FORMS`; rows keep the order of the file.

    Coordinates are read with all the digits of the file. Where float32 would not hold them to a millimetre, as with
    UTM or earth-centred ones, the lower corner of the bulk is taken off and handed out as the scene's origin.

    Args:
        drop_bad: leave out rows that are no Gaussians or points (not finite, rotations of zeros ...), and count them.

    Raises:
        SceneError: there are such rows and they are not to be dropped, or the file is of another form.
        ReadError: damaged; the readers' own errors say more.
        FileNotFoundError: nothing is there.
    """
    rows = _read_rows(Path(path))
    if isinstance(rows, PointRows):
        return scene_of_points(path, rows, drop_bad)
    return scene_of_gaussians(path, rows, drop_bad)


def _read_rows(path: Path) -> GaussianRows | PointRows:
    if path.is_dir():
        return read_folder_rows(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    match path.suffix.lower():
        case ".splat":
            return read_splat_rows(path)
        case ".npz":
            return read_point_rows(path)
        case ".ply":
            return read_gaussian_rows(path) if holds_gaussians(path) else read_point_rows(path)
    raise SceneError(f"{path}: expected {FORMS}")
