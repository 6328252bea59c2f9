"""Where things may stand: rooms, their walls, footprints that must not overlap, and surfaces that carry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from training.scenes.assets import AssetLibrary, TexturedMesh
from training.scenes.render import RayCaster

SIDES = 4  # south, east, north, west


@dataclass(frozen=True)
class Model:
    """Something to be placed: z up, base at z = 0, centred in x and y, front to -y."""

    object_id: str
    category: str
    size: tuple[float, float, float]
    mesh: TexturedMesh


@dataclass(frozen=True)
class Footprint:
    """An upright box over an oriented rectangle: what a thing occupies."""

    center: np.ndarray  # [2]
    half: np.ndarray  # [2]
    yaw: float
    z: tuple[float, float]

    def corners(self) -> np.ndarray:
        """[4, 2]"""
        signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        return self.center + (signs * self.half) @ rotation2(self.yaw).T

    def overlaps(self, other: Footprint, margin: float = 0.0) -> bool:
        """Separating axis test on the rectangles (grown by ``margin``), and on the heights."""
        if self.z[0] >= other.z[1] or other.z[0] >= self.z[1]:
            return False
        a, b = self.corners(), other.corners()
        for axis in np.concatenate([rotation2(self.yaw).T, rotation2(other.yaw).T]):
            pa, pb = a @ axis, b @ axis
            if pa.max() + margin <= pb.min() or pb.max() + margin <= pa.min():
                return False
        return True


@dataclass
class Placement:
    """A model at its place. ``support`` is the index of the placement it stands on, -1 for none."""

    model: Model
    world_from_object: np.ndarray  # [4, 4], with uniform scale
    yaw: float
    scale: float
    footprint: Footprint
    support: int = -1


@dataclass
class Room:
    """An upright box of air. ``taken[side]`` holds rectangles (a0, a1, z0, z1) of wall that are in use."""

    low: np.ndarray  # [2]
    high: np.ndarray  # [2]
    height: float
    taken: list[list[tuple[float, float, float, float]]] = field(default_factory=lambda: [[] for _ in range(SIDES)])

    def side_length(self, side: int) -> float:
        return float((self.high - self.low)[side % 2])

    def wall(self, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Start corner, tangent and inward normal, [2] each."""
        x0, y0, x1, y1 = *self.low, *self.high
        start = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))[side]
        normal = ((0.0, 1.0), (-1.0, 0.0), (0.0, -1.0), (1.0, 0.0))[side]
        tangent = (normal[1], -normal[0])
        return np.array(start), np.array(tangent), np.array(normal)

    def wall_free(self, side: int, rectangle: tuple[float, float, float, float]) -> bool:
        a0, a1, z0, z1 = rectangle
        return all(a1 <= b0 or b1 <= a0 or z1 <= w0 or w1 <= z0 for b0, b1, w0, w1 in self.taken[side])

    def contains(self, points: np.ndarray, margin: float = 0.0) -> bool:
        return bool((points >= self.low + margin - 1e-6).all() and (points <= self.high - margin + 1e-6).all())


def rotation2(yaw: float) -> np.ndarray:
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s], [s, c]])


def facing(direction: np.ndarray) -> float:
    """Yaw that turns a front (-y) towards ``direction`` [2]."""
    return float(np.arctan2(direction[0], -direction[1]))


def pose(position: np.ndarray, yaw: float, scale: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:2, :2] = rotation2(yaw)
    matrix[:3, :3] *= scale
    matrix[:3, 3] = position
    return matrix


class Layout:
    """Rooms being filled. Every ``try_*`` returns the index of the new placement, or None where it does not fit."""

    def __init__(self, rooms: list[Room], rng: np.random.Generator) -> None:
        self.rooms = rooms
        self.rng = rng
        self.placements: list[Placement] = []
        self.keep_out: list[Footprint] = []
        self._casters: dict[int, RayCaster] = {}

    def try_place(
        self, model: Model, room: Room, xy: np.ndarray, yaw: float, *, z: float = 0.0, scale: float | None = None,
        ignore: tuple[int, ...] = (), solid: bool = True, margin: float = 0.03,
    ) -> int | None:  # fmt: skip
        """Put a model at ``xy`` if it is inside the room and, when ``solid``, touches nothing."""
        scale = self.rng.uniform(0.92, 1.08) if scale is None else scale
        size = np.array(model.size) * scale
        top = z + size[2]
        if top > room.height + 1e-3:
            return None
        occupied = (z, top) if solid else (-1.0, -1.0)
        footprint = Footprint(np.asarray(xy, float), size[:2] / 2, yaw, occupied)
        if not room.contains(footprint.corners(), 0.0):
            return None
        if solid:
            others = [p.footprint for k, p in enumerate(self.placements) if k not in ignore]
            if any(footprint.overlaps(o, margin) for o in others + self.keep_out):
                return None
        return self._add(model, np.array([*xy, z]), yaw, scale, footprint)

    def _add(
        self, model: Model, position: np.ndarray, yaw: float, scale: float, footprint: Footprint, support: int = -1
    ) -> int:
        placement = Placement(model, pose(position, yaw, scale), yaw, scale, footprint, support)
        self.placements.append(placement)
        return len(self.placements) - 1

    def try_against_wall(
        self, model: Model, room: Room, *, side: int | None = None, at: float | None = None, z: float = 0.0,
        gap: float | None = None, tries: int = 24, front_clear: float = 0.0,
    ) -> int | None:  # fmt: skip
        """Back to a wall, anywhere along it that is free, or at ``at`` metres from its start."""
        for _ in range(tries):
            s = int(self.rng.integers(SIDES)) if side is None else side
            scale = float(self.rng.uniform(0.92, 1.08))
            width, depth, height = np.array(model.size) * scale
            length = room.side_length(s)
            if width > length - 0.02 or z + height > room.height:
                continue
            a = float(self.rng.uniform(width / 2 + 0.01, length - width / 2 - 0.01)) if at is None else at
            rectangle = (a - width / 2, a + width / 2, z, z + height)
            if not room.wall_free(s, rectangle):
                continue
            start, tangent, normal = room.wall(s)
            off = float(self.rng.uniform(0.005, 0.06)) if gap is None else gap
            xy = start + a * tangent + (depth / 2 + off) * normal
            index = self.try_place(model, room, xy, facing(normal), z=z, scale=scale)
            if index is None:
                continue
            room.taken[s].append(rectangle)
            if front_clear > 0:
                center = start + a * tangent + (depth + front_clear / 2) * normal
                self.keep_out.append(
                    Footprint(center, np.array([width / 2, front_clear / 2]), facing(normal), (0.0, 1.9))
                )
            return index
        return None

    def try_free(
        self, model: Model, room: Room, tries: int = 24, yaw: float | None = None, margin: float = 0.1
    ) -> int | None:
        """Anywhere in the room, any heading unless given."""
        for _ in range(tries):
            reach = max(model.size[:2]) / 2
            low, high = room.low + reach, room.high - reach
            if (low >= high).any():
                return None
            turn = float(self.rng.uniform(-np.pi, np.pi)) if yaw is None else yaw
            index = self.try_place(model, room, self.rng.uniform(low, high), turn, margin=margin)
            if index is not None:
                return index
        return None

    def try_on(
        self, model: Model, support: int, *, local: tuple[float, float] | None = None, turn: float | None = None,
        tries: int = 16, tolerance: float = 0.012,
    ) -> int | None:  # fmt: skip
        """On a surface of another placement, found with rays straight down; shelves are entered at random heights.

        Args:
            local: where, as a fraction of the support's half extents (x, y); None is anywhere.
            turn: heading relative to the support's; None is any.
            tolerance: metres by which the surface under the thing may be uneven.
        """
        below = self.placements[support]
        caster = self._caster(support)
        half = below.footprint.half
        base = float(below.world_from_object[2, 3])
        top = base + below.model.size[2] * below.scale
        for _ in range(tries):
            scale = float(self.rng.uniform(0.92, 1.08))
            size = np.array(model.size) * scale
            yaw = below.yaw + (float(self.rng.uniform(-np.pi, np.pi)) if turn is None else turn)
            fraction = self.rng.uniform(-0.9, 0.9, 2) if local is None else np.asarray(local)
            center = below.footprint.center + rotation2(below.yaw) @ (fraction * half)
            shelf = local is None and below.model.category in ("bookshelf", "shelf", "tv_stand", "side_table")
            start = (
                top + 0.3
                if not shelf or self.rng.random() < 0.3
                else base + float(self.rng.uniform(0.15, 1.0)) * (top - base)
            )
            feet = Footprint(center, 0.42 * size[:2], yaw, (0, 1)).corners()
            feet = np.concatenate([feet, center[None]])
            origins = np.column_stack([feet, np.full(len(feet), start)])
            triangle, distance, _ = caster.cast(origins, np.tile([0.0, 0.0, -1.0], (len(feet), 1)))
            if (triangle < 0).any() or np.ptp(distance) > tolerance:
                continue
            z = start - float(distance.min())
            if z - base < 0.1:
                continue
            up = np.column_stack([feet, np.full(len(feet), z + 0.004)])
            triangle, clearance, _ = caster.cast(up, np.tile([0.0, 0.0, 1.0], (len(feet), 1)))
            if ((triangle >= 0) & (clearance < size[2])).any():
                continue
            footprint = Footprint(center, size[:2] / 2, yaw, (z + 1e-3, z + size[2]))
            if any(footprint.overlaps(p.footprint, 0.005) for k, p in enumerate(self.placements) if k != support):
                continue
            return self._add(model, np.array([*center, z]), yaw, scale, footprint, support)
        return None

    def _caster(self, index: int) -> RayCaster:
        if index not in self._casters:
            m = self.placements[index].world_from_object
            self._casters[index] = RayCaster(self.placements[index].model.mesh.triangles @ m[:3, :3].T + m[:3, 3])
        return self._casters[index]


class Catalog:
    """Models by category, restricted to what a subset may use.

    Rooms ask for categories by name; ``rare`` gives every category of a place the same chance.

    Args:
        change: what is done to every model picked, for variety.
    """

    TIER_WEIGHT = {"A": 1.0, "B": 1.0, "C": 0.5}

    def __init__(
        self,
        library: AssetLibrary,
        allowed: frozenset[str],
        rng: np.random.Generator,
        change: Callable[[Model], Model] = lambda model: model,
    ) -> None:
        self._library = library
        self._rng = rng
        self._change = change
        self.by_category: dict[str, list[str]] = {}
        self.by_place: dict[str, list[str]] = {}
        for object_id in sorted(allowed):
            info = library.objects[object_id]
            self.by_category.setdefault(info.category, []).append(object_id)
            categories = self.by_place.setdefault(info.place, [])
            if info.category not in categories:
                categories.append(info.category)

    def pick(self, *categories: str) -> Model | None:
        """A random model of one of the categories (those that exist); None where none does."""
        known = [c for c in categories if c in self.by_category]
        if not known:
            return None
        ids = self.by_category[known[int(self._rng.integers(len(known)))]]
        weight = np.array([self.TIER_WEIGHT.get(self._library.objects[i].tier, 1.0) for i in ids])
        info = self._library.objects[ids[int(self._rng.choice(len(ids), p=weight / weight.sum()))]]
        return self._change(Model(info.object_id, info.category, info.size, self._library.mesh(info.object_id)))

    def rare(self, place: str, max_width: float = 9.0, max_height: float = 9.0, min_size: float = 0.0) -> Model | None:
        """A model of a category drawn uniformly among all of that place, so that no category is rare.

        What is smaller than 15 cm is drawn less: in a map of a few centimetres it is a handful of Gaussians.
        """
        categories = self.by_place.get(place, [])
        for _ in range(12):
            if not categories:
                return None
            model = self.pick(categories[int(self._rng.integers(len(categories)))])
            if model is None or max(model.size[:2]) > max_width or model.size[2] > max_height:
                continue
            size = max(model.size)
            if size >= min_size and self._rng.random() < size / 0.15:
                return model
        return None
