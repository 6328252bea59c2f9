"""What stands in a room: groups that belong together, things on walls and ceilings, small things on surfaces."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from training.scenes import primitives
from training.scenes.layout import Catalog, Layout, Model, Room, facing, rotation2

_SUPPORTS = """
    table desk coffee_table nightstand kitchen_counter side_table dresser tv_stand cabinet shelf bookshelf bench
    bathroom_vanity piano washing_machine clothes_dryer stove refrigerator bar_stool stool sofa bed armchair ottoman
"""
SUPPORTS = frozenset(_SUPPORTS.split())
SOFT = frozenset({"sofa", "bed", "armchair", "ottoman"})


def furnish(layout: Layout, room: Room, catalog: Catalog, theme: str) -> None:
    """Fill one room: openings first (they fix the walls), then groups, then what fits in between."""
    openings(layout, room, catalog)
    THEMES[theme](layout, room, catalog)
    area = float(np.prod(room.high - room.low))
    for _ in range(int(layout.rng.integers(2, 4 + int(area / 5)))):
        scatter_furniture(layout, room, catalog)
    for _ in range(int(layout.rng.integers(0, 4))):  # what is meant for a table may also stand on the floor
        if (model := catalog.rare("surface", min_size=0.22)) is not None:
            layout.try_free(model, room)
    on_walls(layout, room, catalog)
    on_ceiling(layout, room, catalog)


def openings(layout: Layout, room: Room, catalog: Catalog) -> None:
    """Doors with space before them, windows, and now and then a curtain."""
    rng = layout.rng
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        if (door := catalog.pick("door")) is not None:
            layout.try_against_wall(door, room, gap=0.0, front_clear=0.7)
    for _ in range(int(rng.choice([0, 1, 1, 2, 3]))):
        if (window := catalog.pick("window")) is None:
            break
        stretch = float(rng.uniform(0.9, 2.0))
        window = stretched(window, (stretch, 0.6, float(rng.uniform(0.9, 1.1))))
        sill = float(rng.uniform(0.5, 1.0))
        layout.try_against_wall(window, room, z=min(sill, room.height - window.size[2] * 1.1), gap=0.0)
    if rng.random() < 0.35 and (curtain := catalog.pick("curtain")) is not None:
        width = float(rng.uniform(0.5, 0.9))
        height = min(1.0, (room.height - 0.1) / (curtain.size[2] * 1.1))
        layout.try_against_wall(stretched(curtain, (width, 1.0, height)), room, gap=0.05)


def stretched(model: Model, factor: tuple[float, float, float]) -> Model:
    """The same model with its axes scaled apart (windows and curtains come in every width)."""
    mesh = model.mesh
    scaled = type(mesh)(mesh.triangles * np.asarray(factor, np.float32), mesh.uv, mesh.texture, mesh.textures)
    size = tuple(float(s * f) for s, f in zip(model.size, factor, strict=True))
    return Model(model.object_id, model.category, size, scaled)


def dining(layout: Layout, room: Room, catalog: Catalog) -> None:
    """A table with chairs around it, tableware and food on it."""
    rng = layout.rng
    if (model := catalog.pick("table")) is None:
        return
    table = layout.try_free(model, room, yaw=float(rng.choice([0.0, np.pi / 2])) + rng.normal(0, 0.04), margin=0.55)
    if table is None:
        return
    place = layout.placements[table]
    chair = catalog.pick("chair", "chair", "chair", "stool")
    for axis in (0, 1):
        seats = max(1, int(2 * place.footprint.half[axis] / 0.62))
        for sign in (-1.0, 1.0):
            for k in range(seats):
                if chair is None or rng.random() < 0.2:
                    continue
                along = ((k + 0.5) / seats * 2 - 1) * place.footprint.half[axis] * (1.0 if seats > 1 else 0.0)
                out = place.footprint.half[1 - axis] + chair.size[1] * rng.uniform(0.15, 0.5)
                local = np.array([along, sign * out] if axis == 0 else [sign * out, along])
                direction = rotation2(place.yaw) @ np.array([0, -sign] if axis == 0 else [-sign, 0])
                xy = place.footprint.center + rotation2(place.yaw) @ local
                layout.try_place(chair, room, xy, facing(direction) + rng.normal(0, 0.12), ignore=(table,), margin=0.01)
    for _ in range(int(rng.integers(0, 5))):
        model = catalog.pick("plate", "bowl", "mug", "cup", "wine_bottle", "wine_glass", "fruit_bowl", "dish_rack")
        if model is not None:
            layout.try_on(model, table)


def work(layout: Layout, room: Room, catalog: Catalog) -> None:
    """A desk at a wall with a chair before it and a computer on it."""
    rng = layout.rng
    if (model := catalog.pick("desk")) is None:
        return
    desk = layout.try_against_wall(model, room)
    if desk is None:
        return
    place = layout.placements[desk]
    if (chair := catalog.pick("office_chair", "chair")) is not None:
        out = place.footprint.half[1] + chair.size[1] * rng.uniform(0.2, 0.6)
        back = rotation2(place.yaw) @ np.array([0.0, 1.0])
        xy = place.footprint.center - out * back
        layout.try_place(chair, room, xy, facing(back) + rng.normal(0, 0.3), ignore=(desk,), margin=0.0)
    if (screen := catalog.pick("monitor", "laptop", "computer")) is not None:
        layout.try_on(screen, desk, local=(float(rng.uniform(-0.3, 0.3)), 0.25), turn=rng.normal(0, 0.1))
    for category in ("keyboard", "computer_mouse", "desk_lamp", "book", "desk_organizer", "picture_frame"):
        if rng.random() < 0.45 and (model := small_thing(category, catalog, rng)) is not None:
            layout.try_on(model, desk, turn=rng.normal(0, 0.4))


def living(layout: Layout, room: Room, catalog: Catalog) -> None:
    """Sofa, coffee table, rug, armchairs; a television opposite."""
    rng = layout.rng
    rug(layout, room, catalog)
    sofa = None
    if (model := catalog.pick("sofa")) is not None:
        sofa = layout.try_against_wall(model, room, gap=float(rng.choice([0.03, 0.3, 0.8])))
    if sofa is not None:
        place = layout.placements[sofa]
        front = rotation2(place.yaw) @ np.array([0.0, -1.0])
        if (table := catalog.pick("coffee_table", "coffee_table", "side_table")) is not None:
            off = place.footprint.half[1] + table.size[1] / 2 + rng.uniform(0.25, 0.6)
            layout.try_place(table, room, place.footprint.center + off * front, place.yaw, margin=0.02)
        for sign in (-1, 1):
            chair = catalog.pick("armchair", "armchair", "bean_bag", "ottoman")
            if chair is not None and rng.random() < 0.5:
                side = rotation2(place.yaw) @ np.array([float(sign), 0.0])
                xy = place.footprint.center + 1.3 * front + side * (place.footprint.half[0] + 0.3)
                layout.try_place(chair, room, xy, facing(-side) + rng.normal(0, 0.3))
        for _ in range(int(rng.integers(0, 3))):
            if (pillow := catalog.pick("pillow", "pillow", "teddy_bear")) is not None:
                layout.try_on(pillow, sofa, turn=rng.normal(0, 0.3), tolerance=0.08)
    television(layout, room, catalog)
    for category in ("floor_lamp", "bookshelf", "potted_plant"):
        if rng.random() < 0.5 and (model := catalog.pick(category)) is not None:
            layout.try_against_wall(model, room)


def television(layout: Layout, room: Room, catalog: Catalog) -> None:
    """On a stand, or on the wall."""
    rng = layout.rng
    screen = catalog.pick("tv")
    if screen is None:
        return
    if rng.random() < 0.3 and screen.size[1] < 0.3:
        layout.try_against_wall(screen, room, z=float(rng.uniform(0.6, 1.2)), gap=0.01)
    elif (stand := catalog.pick("tv_stand", "tv_stand", "dresser", "shelf")) is not None:
        index = layout.try_against_wall(stand, room)
        if index is not None:
            layout.try_on(screen, index, local=(0.0, 0.1), turn=rng.normal(0, 0.05), tolerance=0.05)


def sleeping(layout: Layout, room: Room, catalog: Catalog) -> None:
    """A bed, head to the wall, nightstands beside it, a wardrobe."""
    rng = layout.rng
    if rng.random() < 0.4:
        rug(layout, room, catalog)
    model = catalog.pick("bed", "bed", "bed", "bunk_bed")
    if model is not None:
        side = int(rng.integers(4))
        width = model.size[0]
        stand = catalog.pick("nightstand", "nightstand", "side_table")
        a = float(rng.uniform(width / 2, max(width / 2 + 0.01, room.side_length(side) - width / 2)))
        bed = layout.try_against_wall(model, room, side=side, at=a)
        if bed is not None and stand is not None:
            for sign in (-1, 1):
                at = a + sign * (width * 0.56 + stand.size[0] * 0.56)
                index = layout.try_against_wall(stand, room, side=side, at=at, tries=2)
                if index is None:
                    continue
                for category in ("table_lamp", "picture_frame", "book"):
                    if rng.random() < 0.5 and (thing := small_thing(category, catalog, rng)) is not None:
                        layout.try_on(thing, index, turn=rng.normal(0, 0.3))
        if bed is not None and rng.random() < 0.4 and (pillow := catalog.pick("pillow")) is not None:
            layout.try_on(pillow, bed, turn=rng.normal(0, 0.3), tolerance=0.08)
    for category in ("wardrobe", "dresser", "mirror"):
        if rng.random() < 0.6 and (model := catalog.pick(category)) is not None:
            layout.try_against_wall(model, room)


def kitchen(layout: Layout, room: Room, catalog: Catalog) -> None:
    """A row along one wall: counters, stove with hood, sink, refrigerator."""
    rng = layout.rng
    side = int(rng.integers(4))
    at = float(rng.uniform(0.0, 0.5))
    row = ["refrigerator", "kitchen_counter", "stove", "sink", "kitchen_counter", "washing_machine", "cabinet"]
    for category in row if rng.random() < 0.5 else row[::-1]:
        model = catalog.pick(category)
        if model is None or rng.random() < 0.15 or (category == "washing_machine" and rng.random() < 0.6):
            continue
        if model.size[2] < 0.75 and category == "cabinet":
            continue
        width = model.size[0] * 1.08 + 0.02
        index = layout.try_against_wall(model, room, side=side, at=at + width / 2, gap=0.01, tries=3)
        at += width + (0.4 if index is None else 0.0)
        if index is None:
            continue
        if category == "stove" and (hood := catalog.pick("range_hood")) is not None:
            center = at - width / 2
            layout.try_against_wall(hood, room, side=side, at=center, z=float(rng.uniform(1.5, 1.7)), gap=0.0, tries=2)
        if category == "kitchen_counter":
            for _ in range(int(rng.integers(0, 4))):
                thing = catalog.pick(*KITCHEN_THINGS)
                if thing is not None:
                    layout.try_on(thing, index, turn=rng.normal(0, 0.5))
    if rng.random() < 0.6:
        dining(layout, room, catalog)


_KITCHEN_THINGS = """
    microwave toaster kettle coffee_machine blender dish_rack kitchen_utensils cutting_board knife_block cooking_pot
    frying_pan utensil_holder bottle jar bread dish_rack kitchen_utensils
"""
KITCHEN_THINGS = tuple(_KITCHEN_THINGS.split())


def bathroom(layout: Layout, room: Room, catalog: Catalog) -> None:
    """Toilet, tub or shower, sink, washing machine."""
    rng = layout.rng
    for category in ("bathtub", "shower", "toilet", "bathroom_vanity", "sink", "washing_machine", "laundry_basket"):
        if rng.random() < 0.65 and (model := catalog.pick(category)) is not None:
            if model.category == "sink" and model.size[2] < 0.7:
                layout.try_against_wall(model, room, z=0.4, gap=0.0)
            else:
                layout.try_against_wall(model, room)


def gym(layout: Layout, room: Room, catalog: Catalog) -> None:
    """Sports and play things on a rug."""
    rug(layout, room, catalog)
    for category in ("barbell", "treadmill", "exercise_bike", "soccer_ball", "barbell", "skateboard", "pool_table"):
        if layout.rng.random() < 0.6 and (model := catalog.pick(category)) is not None:
            layout.try_free(model, room)


def mixed(layout: Layout, room: Room, catalog: Catalog) -> None:
    """No plan: anything anywhere, so that labels are learned from things and not from rooms."""
    for _ in range(int(layout.rng.integers(4, 9))):
        scatter_furniture(layout, room, catalog)
    television(layout, room, catalog)


THEMES: dict[str, Callable[[Layout, Room, Catalog], None]] = {
    "living": living,
    "sleeping": sleeping,
    "kitchen": kitchen,
    "dining": dining,
    "work": work,
    "bathroom": bathroom,
    "gym": gym,
    "mixed": mixed,
}


def rug(layout: Layout, room: Room, catalog: Catalog) -> None:
    """Flat on the floor; other things stand on it."""
    if (model := catalog.pick("rug")) is None:
        return
    factor = float(layout.rng.uniform(0.8, 1.5))
    model = stretched(model, (factor, factor * float(layout.rng.uniform(0.9, 1.2)), 0.5))
    half = np.array(model.size[:2]) / 2 + 0.1
    if (room.low + half < room.high - half).all():
        xy = layout.rng.uniform(room.low + half, room.high - half)
        layout.try_place(model, room, xy, float(layout.rng.choice([0, np.pi / 2])), z=0.002, scale=1.0, solid=False)


def scatter_furniture(layout: Layout, room: Room, catalog: Catalog) -> None:
    """One more thing on the floor, of a category drawn uniformly; big ones to a wall, small ones anywhere."""
    model = catalog.rare("floor")
    if model is None or model.category == "rug":
        return
    small = max(model.size[:2]) < 0.7 and model.size[2] < 1.0
    if small and layout.rng.random() < 0.6:
        layout.try_free(model, room)
    else:
        layout.try_against_wall(model, room)


def on_walls(layout: Layout, room: Room, catalog: Catalog) -> None:
    """Paintings, boards with things on them, lamps, mirrors and whatever else hangs."""
    rng = layout.rng
    for _ in range(int(rng.choice([0, 1, 2, 3, 4]))):
        width, height = float(rng.uniform(0.3, 1.3)), float(rng.uniform(0.3, 0.9))
        leaning = rng.random() < 0.15
        mesh = primitives.picture(rng, width, height, 0.03)
        model = Model("made:painting", "painting", (width, 0.035, height), mesh)
        layout.try_against_wall(model, room, z=0.0 if leaning else float(rng.uniform(0.8, 1.7)), gap=0.005, tries=8)
    if rng.random() < 0.35:
        width = float(rng.uniform(0.5, 1.4))
        wood = primitives.plain_texture(rng.uniform(0.2, 0.9) * np.array([1.0, 0.8, 0.55]), rng)
        mesh = primitives.box((-width / 2, -0.11, 0), (width / 2, 0.11, 0.04), wood, None)
        board = layout.try_against_wall(
            Model("made:shelf", "shelf", (width, 0.22, 0.04), mesh), room, z=float(rng.uniform(1.0, 1.6)), gap=0.0
        )
        if board is not None:
            populate(layout, catalog, board, int(rng.integers(1, 4)))
    if rng.random() < 0.3:
        height = float(rng.uniform(0.15, 0.35))
        lamp = Model(
            "made:wall_lamp", "wall_lamp", (0.5 * height, 0.7 * height, height), primitives.wall_lamp(rng, height)
        )
        layout.try_against_wall(lamp, room, z=float(rng.uniform(1.5, 2.0)), gap=0.0)
    for _ in range(int(rng.integers(0, 4))):
        model = catalog.rare("wall", max_height=1.4)
        if model is None or model.category in ("door", "window", "curtain"):
            continue
        low = {"air_conditioner": 1.9, "exit_sign": 1.9, "range_hood": 1.5, "sink": 0.4, "mirror": 0.5}
        z = low.get(model.category, 1.2) + float(rng.uniform(0, 0.3))
        layout.try_against_wall(model, room, z=max(0.0, min(z, room.height - 1.1 * model.size[2])), gap=0.0)


def on_ceiling(layout: Layout, room: Room, catalog: Catalog) -> None:
    for _ in range(int(layout.rng.integers(1, 3))):
        if (model := catalog.rare("ceiling")) is not None:
            scale = float(layout.rng.uniform(0.9, 1.2))
            half = np.array(model.size[:2]) * scale
            if (room.low + half > room.high - half).any():
                continue  # wider than the room
            xy = layout.rng.uniform(room.low + half, room.high - half)
            layout.try_place(model, room, xy, 0.0, z=room.height - model.size[2] * scale, scale=scale)


def small_thing(category: str, catalog: Catalog, rng: np.random.Generator) -> Model | None:
    """A model of the category; picture frames and vases are made, there being none to take."""
    if category == "picture_frame":
        width, height = rng.uniform(0.12, 0.28, 2).tolist()
        tilt = float(rng.uniform(0.1, 0.3))
        mesh = primitives.picture(rng, width, height, 0.02, tilt)
        return Model("made:picture_frame", category, (width, 0.02 + height * np.sin(tilt), height), mesh)
    if category == "vase":
        height = float(rng.uniform(0.15, 0.45))
        mesh = primitives.vase(rng, height)
        radius = float(np.abs(mesh.triangles[..., :2]).max())
        return Model("made:vase", category, (2 * radius, 2 * radius, height), mesh)
    return catalog.pick(category)


def populate(layout: Layout, catalog: Catalog, support: int, count: int) -> None:
    """Small things of uniformly drawn categories on a surface."""
    rng = layout.rng
    reach = 1.6 * float(layout.placements[support].footprint.half.min())
    soft = layout.placements[support].model.category in SOFT
    for _ in range(count):
        if rng.random() < 0.22:
            model = small_thing(str(rng.choice(["picture_frame", "vase"])), catalog, rng)
        else:
            model = catalog.rare("surface", max_width=max(reach, 0.15))
        if model is not None:
            layout.try_on(model, support, tolerance=0.08 if soft else 0.012)
