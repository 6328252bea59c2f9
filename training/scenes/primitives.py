"""Meshes made in code: room structure, and a few things the asset folder has too few of (pictures, vases, boards)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from training.scenes.assets import TexturedMesh

# Corners of a box's faces, seen from outside; indices into the eight corners ordered x fastest, then y, then z.
_BOX_FACES = ((0, 1, 5, 4), (1, 3, 7, 5), (3, 2, 6, 7), (2, 0, 4, 6), (4, 5, 7, 6), (2, 3, 1, 0))


def plain_texture(rgb: Sequence[float], rng: np.random.Generator | None = None, size: int = 64) -> np.ndarray:
    """One sRGB colour in [0, 1], with faint mottling when ``rng`` is given; uint8 [size, size, 3]."""
    image = np.full((size, size, 3), np.asarray(rgb, np.float32) * 255.0, np.float32)
    if rng is not None:
        image += cv2.resize(rng.normal(0, 4, (8, 8, 1)).astype(np.float32), (size, size))[..., None]
        image += rng.normal(0, 1.5, (size, size, 1)).astype(np.float32)
    return np.clip(image, 0, 255).astype(np.uint8)


def quad(corners: np.ndarray, texture: np.ndarray, tile: float | None) -> TexturedMesh:
    """A planar quadrilateral, corners counter-clockwise [4, 3] from its lower left.

    Args:
        tile: edge of one texture repeat in metres; None stretches the texture over the quad once.
    """
    corners = np.asarray(corners, np.float32)
    width, height = np.linalg.norm(corners[1] - corners[0]), np.linalg.norm(corners[3] - corners[0])
    u, v = (1.0, 1.0) if tile is None else (width / tile, height / tile)
    uv = np.array([[0, 0], [u, 0], [u, v], [0, v]], np.float32)
    order = np.array([[0, 1, 2], [0, 2, 3]])
    return TexturedMesh(corners[order], uv[order], np.zeros(2, np.int32), (texture,))


def join(parts: Sequence[TexturedMesh]) -> TexturedMesh:
    """Several meshes as one; equal texture objects are kept once."""
    textures: list[np.ndarray] = []
    index_of: dict[int, int] = {}
    texture = []
    for part in parts:
        for image in part.textures:
            if id(image) not in index_of:
                index_of[id(image)] = len(textures)
                textures.append(image)
        own = np.array([index_of[id(image)] for image in part.textures], np.int32)
        texture.append(own[part.texture])
    return TexturedMesh(
        np.concatenate([p.triangles for p in parts]), np.concatenate([p.uv for p in parts]),
        np.concatenate(texture), tuple(textures),
    )  # fmt: skip


def box(low: Sequence[float], high: Sequence[float], texture: np.ndarray, tile: float | None) -> TexturedMesh:
    """An axis-aligned box between two corners in metres."""
    x, y, z = zip(low, high, strict=True)
    corners = np.array([[x[i & 1], y[i >> 1 & 1], z[i >> 2]] for i in range(8)], np.float32)
    return join([quad(corners[list(face)], texture, tile) for face in _BOX_FACES])


def painted_image(rng: np.random.Generator, width: int = 160, height: int = 128) -> np.ndarray:
    """A made-up picture: a landscape, colour fields, or blots; uint8 [height, width, 3]."""
    image = np.empty((height, width, 3), np.float32)
    top, bottom = rng.uniform(20, 250, 3), rng.uniform(20, 250, 3)
    image[:] = top + (bottom - top) * np.linspace(0, 1, height)[:, None, None]
    image = np.ascontiguousarray(image)
    kind = rng.integers(3)
    for k in range(int(rng.integers(3, 9))):
        color = tuple(float(c) for c in rng.uniform(0, 255, 3))
        if kind == 0:
            xs = np.linspace(0, width, 12)
            ridge = height * (0.35 + 0.08 * k) + np.cumsum(rng.normal(0, height * 0.05, 12))
            outline = np.vstack([np.column_stack([xs, ridge]), [[width, height], [0, height]]])
            cv2.fillPoly(image, [outline.astype(np.int32)], color)
        elif kind == 1:
            a, b = rng.integers(0, (width, height), (2, 2)).tolist()
            cv2.rectangle(image, a, b, color, -1)
        else:
            axes = rng.integers(4, width // 3, 2).tolist()
            centre = rng.integers(0, (width, height)).tolist()
            cv2.ellipse(image, centre, axes, float(rng.uniform(0, 180)), 0, 360, color, -1)
    image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.5, 2.5)))
    return np.clip(image + rng.normal(0, 6, (height, width, 1)), 0, 255).astype(np.uint8)


def picture(rng: np.random.Generator, width: float, height: float, depth: float, tilt: float = 0.0) -> TexturedMesh:
    """A framed picture, front to -y, base at z = 0; ``tilt`` leans it back (radians), as a standing frame does."""
    frame = plain_texture(
        rng.choice([(0.1, 0.09, 0.09), (0.85, 0.85, 0.83), (0.4, 0.26, 0.14), (0.7, 0.57, 0.25)]), rng
    )
    border = float(rng.uniform(0.0, 0.14)) * min(width, height)
    y0, y1 = -depth / 2, depth / 2
    front = y0 - 0.002
    canvas = np.array(
        [
            [-width / 2 + border, front, border],
            [width / 2 - border, front, border],
            [width / 2 - border, front, height - border],
            [-width / 2 + border, front, height - border],
        ]
    )
    ratio = np.clip(width / height, 0.4, 2.5)
    art = painted_image(rng, int(128 * min(ratio, 1.5)), int(128 * min(1 / ratio, 1.5)))
    mesh = join([box((-width / 2, y0, 0), (width / 2, y1, height), frame, None), quad(canvas, art, None)])
    c, s = np.cos(tilt), np.sin(tilt)
    lean = np.array([[1, 0, 0], [0, c, s], [0, -s, c]], np.float32)
    return TexturedMesh(mesh.triangles @ lean.T, mesh.uv, mesh.texture, mesh.textures)


def vase(rng: np.random.Generator, height: float) -> TexturedMesh:
    """A vase turned from a random smooth profile, base at z = 0."""
    knots = np.array([0.5, 1.0, 0.9, 0.45, 0.6]) * rng.uniform(0.7, 1.3, 5) * height * rng.uniform(0.16, 0.32)
    z = np.linspace(0, 1, 17)
    radius = np.interp(z, np.linspace(0, 1, 5), knots)
    radius = np.convolve(np.pad(radius, 2, mode="edge"), np.ones(5) / 5, mode="valid")
    angle = np.linspace(0, 2 * np.pi, 25)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    grid = np.concatenate(
        [radius[:, None, None] * ring[None], np.broadcast_to((z * height)[:, None, None], (17, 25, 1))], axis=-1
    )
    uv = np.stack(np.meshgrid(angle / (2 * np.pi), z), axis=-1)
    return _lattice(grid, uv, _glaze(rng))


def _glaze(rng: np.random.Generator) -> np.ndarray:
    texture = plain_texture(
        rng.uniform(0.1, 0.95) * np.ones(3) if rng.random() < 0.4 else rng.uniform(0.1, 0.95, 3), rng
    )
    if rng.random() < 0.4:
        row = int(rng.integers(5, 50))
        texture[row : row + int(rng.integers(2, 12))] = rng.uniform(0, 255, 3)
    return texture


def _lattice(grid: np.ndarray, uv: np.ndarray, texture: np.ndarray) -> TexturedMesh:
    """Triangles over a grid of points [R, C, 3] with texture coordinates [R, C, 2]."""

    def split(values: np.ndarray) -> np.ndarray:
        a, b, c, d = values[:-1, :-1], values[:-1, 1:], values[1:, 1:], values[1:, :-1]
        both = np.stack([np.stack([a, b, c], axis=2), np.stack([a, c, d], axis=2)], axis=2)
        return both.reshape(-1, 3, values.shape[-1]).astype(np.float32)

    triangles = split(grid)
    return TexturedMesh(triangles, split(uv), np.zeros(len(triangles), np.int32), (texture,))


def wall_lamp(rng: np.random.Generator, height: float) -> TexturedMesh:
    """A sconce: plate at the wall (+y), arm, and a shade; base at z = 0."""
    metal = plain_texture(rng.choice([(0.15, 0.15, 0.15), (0.75, 0.6, 0.3), (0.8, 0.8, 0.8)]), rng)
    shade = plain_texture(rng.choice([(0.95, 0.92, 0.85), (0.95, 0.8, 0.5), (0.6, 0.2, 0.15)]), rng)
    depth, r = 0.7 * height, 0.25 * height
    angle = np.linspace(0, 2 * np.pi, 17)
    rings = [np.stack([s * r * np.cos(angle), s * r * np.sin(angle) - depth / 2 + r, np.full(17, z)], -1)
             for s, z in ((1.0, 0.35 * height), (float(rng.uniform(0.5, 1.1)), height))]  # fmt: skip
    uv = np.stack(np.meshgrid(angle, [0.0, 1.0]), axis=-1)
    return join(
        [
            box((-0.2 * height, depth / 2 - 0.02, 0), (0.2 * height, depth / 2, 0.7 * height), metal, None),
            box((-0.03 * height, -depth / 2 + r, 0.2 * height), (0.03 * height, depth / 2, 0.28 * height), metal, None),
            _lattice(np.stack(rings), uv, shade),
        ]
    )
