"""Teacher features on disk: computed once for each image, by whichever run comes first."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chorus_core.io.atomic import atomic_path
from chorus_core.teachers.base import FeatureTable, Teacher, grid_cells
from chorus_core.teachers.images import check_images

_LOG = logging.getLogger(__name__)
_VERSION = 1


@dataclass(frozen=True)
class CacheSize:
    """How much a cache holds."""

    images: int
    bytes: int


class CachedTeacher(Teacher):
    """A teacher whose tables are kept on disk, one file an image; the teacher sees only images that are not there.

    Entries are found by the teacher's name and the image's contents, so that a cache may be shared by scenes, filled
    by several processes at once, and continued after a kill. Features are stored and always handed out as float16
    values, so that a run with a cache gives the same whether it was filled before or not. An entry that cannot be read
    is computed again.

    Args:
        teacher: what computes features that are missing.
        folder: of the cache; each teacher has a folder of its own inside.
    """

    def __init__(self, teacher: Teacher, folder: str | Path) -> None:
        self.name, self.heads, self.text, self.device = teacher.name, teacher.heads, teacher.text, teacher.device
        self.folder = Path(folder) / _folder_name(teacher.name)
        self._teacher = teacher
        about = self.folder / "teacher.json"
        if not about.is_file():
            with atomic_path(about) as temporary:
                temporary.write_text(json.dumps({"name": self.name, "heads": dict(self.heads), "text": self.text}))

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """The teacher's own maps, not cached."""
        return self._teacher.maps(images)

    def tables(self, images: Tensor) -> dict[str, list[FeatureTable]]:
        size = check_images(images)
        paths = [self.path(image) for image in images]
        entries = [_read(path, size, self.heads) for path in paths]
        missing = [i for i, entry in enumerate(entries) if entry is None]
        if missing:
            found = self._teacher.tables(images[missing])
            for place, i in enumerate(missing):
                entries[i] = {head: _rounded(found[head][place]) for head in self.heads}
                _write(paths[i], entries[i])
        return {head: [_on(entry[head], self.device) for entry in entries] for head in self.heads}

    def path(self, image: Tensor) -> Path:
        """Where the entry of an image, uint8 [H, W, 3], is or would be."""
        digest = hashlib.blake2b(repr(tuple(image.shape)).encode(), digest_size=16)
        digest.update(image.cpu().contiguous().numpy().data)
        return self.folder / f"{digest.hexdigest()}.npz"

    def size(self) -> CacheSize:
        """Images and bytes that this teacher's cache holds."""
        files = [path.stat().st_size for path in self.folder.glob("[!.]*.npz")]
        return CacheSize(len(files), sum(files))


def _folder_name(name: str) -> str:
    """A teacher's name as a folder: legible, and unique by its hash."""
    legible = re.sub(r"[^A-Za-z0-9.+@-]+", "_", name).strip("_")[:80]
    return f"{legible}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"


def _rounded(found: FeatureTable) -> FeatureTable:
    """As it will be read: float16 values, on the CPU."""
    return FeatureTable(found.table.detach().cpu().half().float(), found.cells.cpu())


def _on(found: FeatureTable, device: torch.device) -> FeatureTable:
    return FeatureTable(found.table.to(device), found.cells.to(device))


def _write(path: Path, entry: dict[str, FeatureTable]) -> None:
    arrays: dict[str, np.ndarray] = {"version": np.int32(_VERSION), "image": np.array(path.stem)}
    for head, found in entry.items():
        arrays[f"{head}.table"] = found.table.half().numpy()
        grid = _grid_of(found)
        if grid is not None:
            arrays[f"{head}.grid"] = np.array(grid, dtype=np.int32)
        else:
            packed = zlib.compress(found.cells.numpy().astype(np.int32).tobytes(), 1)
            arrays[f"{head}.cells"] = np.frombuffer(packed, dtype=np.uint8)
            arrays[f"{head}.size"] = np.array(found.cells.shape, dtype=np.int32)
    with atomic_path(path) as temporary:
        np.savez(temporary, **arrays)


def _grid_of(found: FeatureTable) -> tuple[int, int] | None:
    """Rows and columns if the cells are those of a grid over the whole image."""
    height, width = found.cells.shape
    columns = int(found.cells[0, -1]) + 1
    if columns < 1 or len(found.table) % columns:
        return None
    rows = len(found.table) // columns
    return (rows, columns) if torch.equal(found.cells, grid_cells(height, width, rows, columns)) else None


def _read(path: Path, size: tuple[int, int], heads: Mapping[str, int]) -> dict[str, FeatureTable] | None:
    """The entry at a path, None where there is none that is whole. Zip's checksums find damage."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if int(arrays["version"]) != _VERSION:
                return None
            if str(arrays["image"]) != path.stem:
                raise ValueError(f"it is of image {arrays['image']}")
            return {head: _unpack(arrays, head, width, size) for head, width in heads.items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        _LOG.warning("%s: unreadable (%s); computed again", path, error)
        return None


def _unpack(arrays: np.lib.npyio.NpzFile, head: str, channels: int, size: tuple[int, int]) -> FeatureTable:
    table = torch.from_numpy(arrays[f"{head}.table"]).float()
    if f"{head}.grid" in arrays:
        rows, columns = (int(value) for value in arrays[f"{head}.grid"])
        cells = grid_cells(*size, rows, columns)
    else:
        packed = zlib.decompress(arrays[f"{head}.cells"].tobytes())
        flat = np.frombuffer(packed, dtype=np.int32).astype(np.int64)
        cells = torch.from_numpy(flat).view(*(int(side) for side in arrays[f"{head}.size"]))
    if table.ndim != 2 or table.shape[1] != channels or tuple(cells.shape) != size or int(cells.max()) >= len(table):
        raise ValueError(f"{head}: table {tuple(table.shape)} and cells {tuple(cells.shape)} do not fit")
    return FeatureTable(table, cells)
