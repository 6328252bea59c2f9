"""The textured indoor models scenes are composed from, and which of them training may see."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
import trimesh

from chorus_core.io.errors import ReadError

Place = Literal["floor", "surface", "wall", "ceiling"]
Subset = Literal["train", "val", "test"]

# The demo drives through the AWS small house, so its models are never trained on, validated on or composed.
EXCLUDED_STYLES = frozenset({"aws_house"})
EXCLUDED_TEXTURE_SOURCES = frozenset({"aws-robotics/aws-robomaker-small-house-world"})

# Categories too common indoors to be held back: a map without them is not a room.
_EVERYDAY = """
    air_conditioner armchair bed bookshelf cabinet chair coffee_table curtain desk dish_rack door kitchen_counter
    kitchen_utensils laptop mirror monitor nightstand office_chair pillow potted_plant range_hood refrigerator rug shelf
    side_table sink sofa stove table table_lamp toilet trash_can tv tv_stand wardrobe window barbell ceiling_lamp
    floor_lamp book bottle cup mug bowl plate painting picture_frame vase
"""
EVERYDAY_CATEGORIES = frozenset(_EVERYDAY.split())

# Words that calibration and the final figures take for absent (training.language) name nothing in any room.
ABSENT_CATEGORIES = frozenset({"aquarium", "bicycle", "suitcase", "tennis_racket", "umbrella", "wheelchair"})

# Things made in code (training.scenes.primitives), because the folder has too few or none outside the demo's world.
MADE_CATEGORIES = frozenset({"painting", "picture_frame", "vase", "wall_lamp", "shelf", "wall", "floor", "ceiling"})


class AssetError(ReadError):
    """The asset folder is not as expected; the message names file, field, value and expected form."""


@dataclass(frozen=True)
class ObjectInfo:
    """One model of the manifest.

    Attributes:
        object_id: file name without folder and ending, unique.
        category: snake_case label.
        size: extent along x, y, z in metres; fronts face -y, base at z = 0, centred in x and y.
        collection: which of the library's folders it came with.
    """

    object_id: str
    category: str
    path: Path
    place: Place
    size: tuple[float, float, float]
    tier: str
    style: str
    collection: int = 0


@dataclass(frozen=True)
class TexturedMesh:
    """Triangles with their own corners (nothing shared), because texture coordinates break at seams.

    Attributes:
        triangles: corners in metres, float32 [T, 3, 3].
        uv: texture coordinates with v upward (OpenGL), float32 [T, 3, 2]; they may leave [0, 1] and repeat.
        texture: index into ``textures``, int32 [T].
        textures: sRGB or sRGB + alpha, uint8 [H, W, 3 or 4] each.
    """

    triangles: np.ndarray
    uv: np.ndarray
    texture: np.ndarray
    textures: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class SurfaceTexture:
    """One tile for floors, walls and the like; ``tile`` is its edge in metres."""

    name: str
    use: str
    path: Path
    tile: float


def read_rows(path: Path, required: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows of a CSV file.

    Raises:
        AssetError: the file is missing or lacks a column.
    """
    if not path.is_file():
        raise AssetError(f"{path}: expected a CSV file of the asset folder")
    with path.open(newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    missing = [c for c in required if not rows or c not in rows[0]]
    if missing:
        raise AssetError(f"{path}: columns {missing} missing, expected at least {list(required)}")
    return rows


def load_glb(path: Path, texture_size: int) -> TexturedMesh:
    """A binary glTF with one base colour texture per primitive.

    Args:
        texture_size: longest texture edge kept, pixels.

    Raises:
        AssetError: a primitive has no texture or no texture coordinates.
    """
    scene = trimesh.load_scene(path)
    triangles, uvs, texture_of, textures = [], [], [], []
    for node in scene.graph.nodes_geometry:
        world_from_node, name = scene.graph[node]
        mesh = scene.geometry[name]
        image = getattr(getattr(mesh.visual, "material", None), "baseColorTexture", None)
        uv = getattr(mesh.visual, "uv", None)
        if image is None or uv is None:
            raise AssetError(f"{path.name}: primitive {name} has no base colour texture or no texture coordinates")
        corners = trimesh.transform_points(mesh.vertices, world_from_node)[mesh.faces]
        triangles.append(corners.astype(np.float32))
        uvs.append(np.asarray(uv, np.float32)[mesh.faces])
        texture_of.append(np.full(len(mesh.faces), len(textures), np.int32))
        opaque = mesh.visual.material.alphaMode in (None, "OPAQUE")
        textures.append(_shrink(np.asarray(image.convert("RGB" if opaque else "RGBA")), texture_size))
    return TexturedMesh(np.concatenate(triangles), np.concatenate(uvs), np.concatenate(texture_of), tuple(textures))


def _shrink(image: np.ndarray, longest: int) -> np.ndarray:
    factor = longest / max(image.shape[:2])
    if factor >= 1:
        return image
    size = max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _read_objects(root: Path, collection: int) -> list[ObjectInfo]:
    rows = read_rows(
        root / "manifest.csv",
        ("file", "category", "size_x", "size_y", "size_z", "style", "front", "tier", "place"),
    )
    found = []
    for row in rows:
        if row["style"] in EXCLUDED_STYLES or row["category"] in ABSENT_CATEGORIES:
            continue
        if row["place"] not in get_args(Place):
            raise AssetError(f"{row['file']}: place {row['place']!r}, expected one of {get_args(Place)}")
        size = (float(row["size_x"]), float(row["size_y"]), float(row["size_z"]))
        path, category, place = root / row["file"], row["category"], row["place"]
        found.append(ObjectInfo(path.stem, category, path, place, size, row["tier"], row["style"], collection))
    return found


class AssetLibrary:
    """Everything in asset folders that is not the demo's world.

    Args:
        root: folder with ``manifest.csv``, ``textures.csv``, ``objects/`` and ``textures/``.
        more: further collections of models: folders with ``manifest.csv`` and ``objects/``.
        texture_size: textures are shrunk to this many pixels on loading.

    Raises:
        AssetError: manifest or texture list missing or malformed, or a model of the same name in two folders.
    """

    def __init__(self, root: str | Path, *more: str | Path, texture_size: int = 256) -> None:
        self.root = Path(root)
        self.texture_size = texture_size
        self.objects: dict[str, ObjectInfo] = {}
        for collection, folder in enumerate((self.root, *map(Path, more))):
            for info in _read_objects(folder, collection):
                if info.object_id in self.objects and collection:
                    raise AssetError(f"{info.path}: a model of this name is in another asset folder too")
                self.objects[info.object_id] = info
        self.textures = self._read_textures()
        self.mesh = lru_cache(maxsize=160)(self._load_mesh)
        self.texture_image = lru_cache(maxsize=64)(self._load_texture)

    def _read_textures(self) -> list[SurfaceTexture]:
        rows = read_rows(
            self.root / "textures.csv", ("file", "use", "name", "source_repo", "suggested_tile_m", "seam_ratio")
        )
        return [
            SurfaceTexture(r["name"], r["use"], self.root / "textures" / r["file"], float(r["suggested_tile_m"]))
            for r in rows
            if r["source_repo"] not in EXCLUDED_TEXTURE_SOURCES and float(r["seam_ratio"]) < 12
        ]

    def _load_mesh(self, object_id: str) -> TexturedMesh:
        return load_glb(self.objects[object_id].path, self.texture_size)

    def _load_texture(self, path: Path) -> np.ndarray:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise AssetError(f"{path}: expected an image")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


@dataclass(frozen=True)
class Split:
    """Which models train, validate and test; decided by a seed alone.

    Attributes:
        held_back_categories: whole categories that only the test subset contains.
        subset_of: subset of every other model, by object id.
    """

    held_back_categories: frozenset[str]
    subset_of: dict[str, Subset]

    @classmethod
    def make(
        cls, library: AssetLibrary, seed: int = 0, category_share: float = 0.1, object_share: float = 0.2
    ) -> Split:
        """Hold back ``category_share`` of the categories, and ``object_share`` of the models of those with >= 3.

        A further collection leaves the split of those before it as it is: its models of known categories are held
        back with them or shared out, and its new categories are drawn from anew.
        """
        held: frozenset[str] = frozenset()
        subset_of: dict[str, Subset] = {}
        known: set[str] = set()
        for collection in sorted({info.collection for info in library.objects.values()}):
            rng = np.random.default_rng([seed, collection] if collection else seed)
            by_category: dict[str, list[str]] = {}
            for info in sorted(library.objects.values(), key=lambda o: o.object_id):
                if info.collection == collection:
                    by_category.setdefault(info.category, []).append(info.object_id)
            new = set(by_category) - known
            candidates = sorted(new - EVERYDAY_CATEGORIES)
            held |= frozenset(rng.choice(candidates, round(category_share * len(new)), replace=False).tolist())
            for category in sorted(by_category):
                ids = [str(i) for i in rng.permutation(by_category[category])]
                if category in held:
                    subset_of.update(dict.fromkeys(ids, "test"))
                    continue
                aside = max(1, round(object_share * len(ids))) if len(ids) >= 3 else 0
                for k, object_id in enumerate(ids):
                    # Alternate so that categories with a single model aside feed both subsets over the collection.
                    subset_of[object_id] = "train" if k >= aside else ("test", "val")[(k + len(category)) % 2]
            known |= new
        return cls(held, subset_of)

    def allowed(self, subset: Subset) -> frozenset[str]:
        """Object ids a scene of this subset is composed from.

        Training scenes use training models only. Validation and test scenes use the training models too, since a room
        needs the everyday ones, plus their own; what is unseen is told apart by object id and category.
        """
        if subset == "train":
            return frozenset(i for i, s in self.subset_of.items() if s == "train")
        return frozenset(i for i, s in self.subset_of.items() if s in ("train", subset))

    def trained_categories(self, library: AssetLibrary) -> frozenset[str]:
        """Categories that training scenes contain: those of the training models, and those made in code."""
        return frozenset(library.objects[i].category for i in self.allowed("train")) | MADE_CATEGORIES
