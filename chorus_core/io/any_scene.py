"""Any file or folder that holds one scene, by what it is."""

from __future__ import annotations

from pathlib import Path

from chorus_core.io.gaussian_ply import holds_gaussians, read_gaussian_rows
from chorus_core.io.point_cloud import read_point_rows
from chorus_core.io.scene import GaussianRows, PointRows, Scene, SceneError, scene_of_gaussians, scene_of_points
from chorus_core.io.scene_folder import read_folder_rows
from chorus_core.io.splat_file import read_splat_rows
from chorus_core.io.spz_file import read_spz_rows

FORMS = (
    ".ply (Gaussians of 3DGS or 2DGS, SuperSplat-compressed, coloured points), .splat, .spz, .npz (points), "
    "or a folder of .npy arrays"
)

_SPLATS = "SuperSplat or splat-transform writes it as .ply"
_CLOUDS = "CloudCompare writes it as .ply with colours"
_MESHES = "a mesh: CloudCompare samples points of it into a .ply with colours"
_NOT_READ = {
    **dict.fromkeys((".sog", ".ksplat", ".splatv", ".lcc"), _SPLATS),
    **dict.fromkeys((".las", ".laz", ".pcd", ".e57", ".xyz", ".pts", ".ptx"), _CLOUDS),
    **dict.fromkeys((".obj", ".stl", ".glb", ".gltf", ".off"), _MESHES),
    ".npy": "an array alone: expected the folder with coord.npy, color.npy and others, or a .npz of points and colors",
}
"""Common forms that are not read, and what helps."""

_READERS = {".splat": read_splat_rows, ".spz": read_spz_rows, ".npz": read_point_rows}


def is_scene(path: str | Path) -> bool:
    """Whether a path is named as a scene is, of whatever form, read or not."""
    path = Path(path)
    return path.suffix.lower() in (".ply", *_READERS, *_NOT_READ) or (path / "coord.npy").is_file()


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
    suffix = path.suffix.lower()
    if suffix == ".ply":
        return read_gaussian_rows(path) if holds_gaussians(path) else read_point_rows(path)
    if suffix in _READERS:
        return _READERS[suffix](path)
    if suffix in _NOT_READ:
        raise SceneError(f"{path}: {suffix} is not read; {_NOT_READ[suffix]}")
    raise SceneError(f"{path}: expected {FORMS}")
