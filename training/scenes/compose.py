"""A random furnished apartment as a Scene: one or two rooms, their things, their light."""

from __future__ import annotations

from functools import partial

import numpy as np

from training.scenes import primitives
from training.scenes.assets import AssetLibrary, TexturedMesh
from training.scenes.colors import color_jitter, dominant_color
from training.scenes.furnish import SUPPORTS, THEMES, furnish, populate
from training.scenes.instance import Instance
from training.scenes.layout import SIDES, Catalog, Footprint, Layout, Room
from training.scenes.render import PointLight, Scene, merge
from training.scenes.variants import variant

THEME_WEIGHTS = {"living": 4, "sleeping": 3, "kitchen": 3, "dining": 2, "work": 2, "bathroom": 1, "gym": 1, "mixed": 4}
MIN_INSTANCES, MAX_INSTANCES = 15, 45

_USES = {
    "floor": ("floor", "floor", "floor", "wood", "tile", "carpet", "stone"),
    "wall": ("wall", "wall", "wall", "wall", "paper", "stone", "tile", "wood"),
    "ceiling": ("ceiling", "wood", "wall"),
}
_PLAIN = {"floor": 0.1, "wall": 0.55, "ceiling": 0.8}


def compose(
    library: AssetLibrary, allowed: frozenset[str], rng: np.random.Generator, varied: bool = False
) -> tuple[Scene, list[Room]]:
    """A random scene out of the allowed models.

    Args:
        library: where models come from.
        allowed: object ids that may appear (``Split.allowed``).
        varied: give every model other proportions and, at times, another finish (``variants``).

    Returns:
        The scene, whose first instances are its floors, walls and ceilings, and its rooms.
    """
    rooms, dividers = _rooms(rng)
    catalog = Catalog(library, allowed, rng, *([partial(variant, library=library, rng=rng)] if varied else []))
    layout = Layout(rooms, rng)
    _keep_doorway_free(layout, rooms, dividers)
    names, weights = zip(*THEME_WEIGHTS.items(), strict=True)
    for room in rooms:
        furnish(layout, room, catalog, str(rng.choice(names, p=np.array(weights) / sum(weights))))
    for _ in range(3):
        _populate_surfaces(layout, catalog)
        if len(layout.placements) >= MIN_INSTANCES:
            break
        furnish_more = THEMES["mixed"]
        furnish_more(layout, rooms[0], catalog)

    parts, instances, jitter = _structure(library, rooms, dividers, rng)
    for placement in layout.placements[:MAX_INSTANCES]:
        model = placement.model
        parts.append((model.mesh, placement.world_from_object))
        size = tuple(round(float(s * placement.scale), 3) for s in model.size)
        instances.append(Instance(model.category, model.object_id, size=size))  # type: ignore[arg-type]
        strong = rng.random() < 0.5
        jitter.append(color_jitter(rng, hue=1.2 if strong else 0.15, saturation=0.3, value=0.3))
    scene = merge(parts, instances, np.stack(jitter), *_light(layout, rng))
    scene.instances = [
        Instance(i.category, i.object_id, dominant_color(scene.sample_surface(k, 64, rng)), i.size, i.structure)
        for k, i in enumerate(scene.instances)
    ]
    return scene, rooms


def _rooms(rng: np.random.Generator) -> tuple[list[Room], list[tuple[float, float, float]]]:
    """Rooms in a row along x, and for every wall between two (x, doorway start, doorway end) in y."""
    height = float(rng.uniform(2.4, 3.2))
    count = int(rng.choice([1, 2], p=[0.6, 0.4]))
    depth = float(rng.uniform(3.0, 6.5))
    rooms, dividers, x = [], [], 0.0
    for k in range(count):
        width = float(rng.uniform(3.0, 7.5 if count == 1 else 5.0))
        rooms.append(Room(np.array([x, 0.0]), np.array([x + width, depth]), height))
        x += width
        if k + 1 < count:
            opening = float(rng.uniform(0.85, 1.2) if rng.random() < 0.6 else rng.uniform(1.2, 0.7 * depth))
            start = float(rng.uniform(0.1, depth - opening - 0.1))
            dividers.append((x, start, start + opening))
            x += 0.12
    return rooms, dividers


def _keep_doorway_free(layout: Layout, rooms: list[Room], dividers: list[tuple[float, float, float]]) -> None:
    for k, (x, start, end) in enumerate(dividers):
        east, west = rooms[k], rooms[k + 1]
        depth = east.side_length(1)
        east.taken[1].append((start, end, 0.0, 2.2))
        west.taken[3].append((depth - end, depth - start, 0.0, 2.2))
        center, half = np.array([x + 0.06, (start + end) / 2]), np.array([0.8, (end - start) / 2])
        layout.keep_out.append(Footprint(center, half, 0.0, (0.0, 2.0)))


def _populate_surfaces(layout: Layout, catalog: Catalog) -> None:
    """A few small things on every surface, more on larger ones, until the scene is full."""
    room_left = MAX_INSTANCES - len(layout.placements)
    supports = [k for k, p in enumerate(layout.placements) if p.model.category in SUPPORTS]
    for k in layout.rng.permutation(supports):
        if room_left <= 0:
            break
        area = 4 * float(np.prod(layout.placements[k].footprint.half))
        before = len(layout.placements)
        populate(layout, catalog, int(k), int(layout.rng.poisson(1.5 + 3.0 * min(area, 1.5))))
        room_left -= len(layout.placements) - before


def _surface(library: AssetLibrary, kind: str, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """A texture for floor, wall or ceiling, and the edge of its tile in metres."""
    if rng.random() < _PLAIN[kind]:
        value = rng.uniform(0.55, 0.97)
        tint = np.clip(1.0 + rng.normal(0, 0.05 if rng.random() < 0.7 else 0.25, 3), 0.3, 1.0)
        return primitives.plain_texture(value * tint, rng), 2.0
    use = str(rng.choice(_USES[kind]))
    choices = [t for t in library.textures if t.use == use]
    chosen = choices[int(rng.integers(len(choices)))]
    return library.texture_image(chosen.path), chosen.tile * float(rng.uniform(0.8, 1.3))


def _structure(
    library: AssetLibrary, rooms: list[Room], dividers: list[tuple[float, float, float]], rng: np.random.Generator
) -> tuple[list[tuple[TexturedMesh, np.ndarray]], list[Instance], list[np.ndarray]]:
    """Floor, ceiling and walls of every room, each its own instance; walls between rooms one more."""
    meshes: list[tuple[str, TexturedMesh]] = []
    wall = _surface(library, "wall", rng)
    for room in rooms:
        (x0, y0), (x1, y1), h = room.low, room.high, room.height
        floor, ceiling = _surface(library, "floor", rng), _surface(library, "ceiling", rng)
        wall = wall if rng.random() < 0.5 else _surface(library, "wall", rng)
        meshes.append(("floor", primitives.quad([[x0, y0, 0], [x1, y0, 0], [x1, y1, 0], [x0, y1, 0]], *floor)))
        meshes.append(("ceiling", primitives.quad([[x0, y0, h], [x0, y1, h], [x1, y1, h], [x1, y0, h]], *ceiling)))
        sides = []
        accent = _surface(library, "wall", rng) if rng.random() < 0.3 else wall
        for side in range(SIDES):
            start, tangent, _ = room.wall(side)
            end = start + tangent * room.side_length(side)
            if _is_divided(room, side, rooms):
                continue
            corners = [[*start, 0], [*end, 0], [*end, h], [*start, h]]
            sides.append(primitives.quad(corners, *(accent if side == 0 else wall)))
        meshes.append(("wall", primitives.join(sides)))
    for x, start, end in dividers:
        depth, h = rooms[0].side_length(1), rooms[0].height
        lintel = float(rng.uniform(2.05, 2.2)) if rng.random() < 0.75 else h
        pieces = [((x, 0, 0), (x + 0.12, start, h)), ((x, end, 0), (x + 0.12, depth, h))]
        if lintel < h:
            pieces.append(((x, start, lintel), (x + 0.12, end, h)))
        meshes.append(("wall", primitives.join([primitives.box(a, b, *wall) for a, b in pieces])))
        meshes.append(
            ("floor", primitives.quad([[x, start, 0], [x + 0.12, start, 0], [x + 0.12, end, 0], [x, end, 0]], *floor))
        )
    parts = [(mesh, np.eye(4)) for _, mesh in meshes]
    instances = [Instance(name, f"made:{name}", structure=True) for name, _ in meshes]
    return parts, instances, [color_jitter(rng, hue=0.12, saturation=0.3, value=0.15) for _ in meshes]


def _is_divided(room: Room, side: int, rooms: list[Room]) -> bool:
    """Whether a wall between two rooms stands on this side."""
    return (side == 1 and room is not rooms[-1]) or (side == 3 and room is not rooms[0])


def _light(layout: Layout, rng: np.random.Generator) -> tuple[list[PointLight], np.ndarray]:
    """One to three lights a room, near lamps or anywhere high up, and light from everywhere."""
    lights = []
    for room in layout.rooms:
        for _ in range(int(rng.integers(1, 3 if len(layout.rooms) > 1 else 4))):
            xy = rng.uniform(room.low + 0.4, room.high - 0.4)
            z = room.height - float(rng.uniform(0.3, 0.9))
            lights.append(PointLight(np.array([*xy, z], np.float32), _white(rng) * float(rng.uniform(0.3, 1.0))))
    return lights, _white(rng) * float(rng.uniform(0.3, 0.6))


def _white(rng: np.random.Generator) -> np.ndarray:
    """Linear RGB of white light between a warm lamp (2700 K) and an overcast sky (7500 K), luma near one."""
    warm, cold = np.array([1.3, 0.95, 0.62]), np.array([0.92, 1.0, 1.18])
    return (warm + (cold - warm) * rng.beta(3, 1.5)).astype(np.float32)
