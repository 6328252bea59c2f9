"""One way to open a posed RGB-D recording, whatever its layout."""

from __future__ import annotations

from pathlib import Path

from chorus_core.io.bag_files import METADATA, is_bag
from chorus_core.io.bag_topics import BagOptions
from chorus_core.io.folders import COLOR_SUFFIXES, open_numbered_folder, open_replica, open_scannet, open_seven_scenes
from chorus_core.io.sequence import RgbdSequence, SequenceError
from chorus_core.io.tum import open_tum
from chorus_core.io.upright import UprightSequence

__all__ = ["BagOptions", "RgbdSequence", "SequenceError", "open_sequence"]


def open_sequence(path: str | Path, bag: BagOptions | None = None, upright: bool = False) -> RgbdSequence:
    """Open a recording; what its folder holds tells the layout.

    ============================ =====================================================================================
    rosbag2                      a ``.mcap`` or ``.db3`` file, or a folder of them, with ``metadata.yaml`` or without
    TUM RGB-D                    ``rgb.txt``, ``depth.txt``, ``groundtruth.txt``
    Replica (NICE-SLAM)          ``results/``, ``traj.txt``, ``cam_params.json`` (there or in the parent)
    ScanNet export               ``color/``, ``depth/``, ``pose/``, ``intrinsic/``
    numbered folder              ``color/``, ``depth/``, ``pose/``, ``intrinsics.json``
    7-Scenes, 12-Scenes, 3RScan  ``frame-NNNNNN.color.png`` or ``.jpg`` and so on
    ============================ =====================================================================================

    Args:
        path: the recording's folder or file.
        bag: which topics and frames of a bag to read; found by themselves where not given.
        upright: turn the world so that +z points up, for recordings whose first camera is the world (7-Scenes, TUM).

    Raises:
        SequenceError: no such path, an unknown layout, or a recording without one usable frame.
    """
    opened = _open(Path(path), bag)
    return UprightSequence(opened) if upright else opened


def _open(path: Path, bag: BagOptions | None) -> RgbdSequence:
    if path.is_file() and is_bag(path):
        return _open_bag(path, bag)
    if not path.is_dir():
        what = "expected a folder, .mcap or .db3" if path.exists() else "no such file or folder"
        raise SequenceError(f"{path}: {what}")
    if (path / METADATA).is_file():
        return _open_bag(path, bag)
    if (path / "rgb.txt").is_file() and (path / "depth.txt").is_file():
        return open_tum(path)
    if (path / "traj.txt").is_file() and (path / "results").is_dir():
        return open_replica(path)
    if (path / "color").is_dir() and (path / "intrinsic").is_dir():
        return open_scannet(path)
    if (path / "color").is_dir() and (path / "depth").is_dir():
        return open_numbered_folder(path)
    if any(frame.suffix.lower() in COLOR_SUFFIXES for frame in path.glob("frame-*.color.*")):
        return open_seven_scenes(path)
    if is_bag(path):
        return _open_bag(path, bag)
    raise SequenceError(
        f"{path}: unknown layout: expected metadata.yaml (rosbag2), rgb.txt and depth.txt (TUM), traj.txt and results/ "
        "(Replica), color/ with intrinsic/ (ScanNet) or intrinsics.json, or frame-*.color.png or .jpg (7-Scenes)"
    )


def _open_bag(path: Path, bag: BagOptions | None) -> RgbdSequence:
    from chorus_core.io.rosbag import RosbagSequence  # rosbags is needed for bags alone

    return RosbagSequence(path, bag)
