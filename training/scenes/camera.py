"""How a robot or a hand moves a camera through a scene, and what its sensor makes of what it sees."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from chorus_core.frames import CameraIntrinsics
from training.scenes.render import RenderedView, Scene

_NEIGHBOURS = [(dx, dy, float(np.hypot(dx, dy))) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if dx or dy]


@dataclass(frozen=True)
class FreeSpace:
    """A 2D grid of where a camera of some width may be.

    Attributes:
        free: bool [X, Y].
        clearance: metres to the nearest obstacle, float32 [X, Y].
        origin: world position of the corner of cell (0, 0), [2].
        cell: metres.
    """

    free: np.ndarray
    clearance: np.ndarray
    origin: np.ndarray
    cell: float

    def to_world(self, index: np.ndarray) -> np.ndarray:
        """Centres of cells [N, 2]."""
        return self.origin + (np.asarray(index) + 0.5) * self.cell

    def to_cell(self, xy: np.ndarray) -> tuple[int, int]:
        """The cell that holds a position, or the nearest free one."""
        index = np.floor((np.asarray(xy) - self.origin) / self.cell).astype(int)
        if (index >= 0).all() and (index < self.free.shape).all() and self.free[tuple(index)]:
            return int(index[0]), int(index[1])
        cells = np.argwhere(self.free)
        nearest = cells[np.square(cells - index).sum(1).argmin()]
        return int(nearest[0]), int(nearest[1])


def free_space(
    scene: Scene, low: float, high: float, radius: float, rng: np.random.Generator, cell: float = 0.08
) -> FreeSpace:
    """Cells farther than ``radius`` from any geometry between the heights ``low`` and ``high`` (metres).

    Only the largest connected part that is enclosed by geometry counts: the inside of a wardrobe, or the world outside
    the walls, is no place for a camera.
    """
    points = _surface_points(scene, cell / 2, rng)
    bounds = points[:, :2].min(0), points[:, :2].max(0)
    near = points[(points[:, 2] > low) & (points[:, 2] < high), :2]
    origin = bounds[0] - cell
    shape = np.ceil((bounds[1] + cell - origin) / cell).astype(int) + 1
    blocked = np.zeros(shape, np.uint8)
    index = np.floor((near - origin) / cell).astype(int)
    blocked[index[:, 0], index[:, 1]] = 1
    outside = np.zeros(shape + 2, np.uint8)
    filled = blocked.copy()
    cv2.floodFill(filled, outside, (0, 0), 2)  # what the rim reaches is outside
    clearance = cv2.distanceTransform((filled == 0).astype(np.uint8), cv2.DIST_L2, 5) * cell
    allowed = (clearance > radius).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(allowed, connectivity=4)
    if count < 2:
        raise ValueError(f"no free space with radius {radius} m between {low} and {high} m")
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    return FreeSpace(labels == largest, clearance.astype(np.float32), origin, cell)


def _surface_points(scene: Scene, spacing: float, rng: np.random.Generator) -> np.ndarray:
    """Points scattered over all triangles, about one a ``spacing`` squared [N, 3]."""
    count = np.ceil(2.0 * scene.area / spacing**2).astype(int) + 1
    triangle = np.repeat(np.arange(len(count)), count)
    u, v = rng.random((2, len(triangle), 1), dtype=np.float32)
    flip = u + v > 1
    u, v = np.where(flip, 1 - u, u), np.where(flip, 1 - v, v)
    corners = scene.triangles[triangle]
    return corners[:, 0] * (1 - u - v) + corners[:, 1] * u + corners[:, 2] * v


def plan_path(space: FreeSpace, start: np.ndarray, goal: np.ndarray, keep_off: float = 0.3) -> np.ndarray:
    """Shortest way from ``start`` to ``goal`` [2] (Dijkstra), dearer within ``keep_off`` metres of obstacles.

    Returns:
        Positions a cell apart, both ends included, [N, 2].
    """
    begin, end = space.to_cell(start), space.to_cell(goal)
    price = 1.0 + 3.0 * np.clip(1.0 - space.clearance / max(keep_off, 1e-6), 0.0, 1.0)
    best = {begin: 0.0}
    parent: dict[tuple[int, int], tuple[int, int]] = {}
    queue = [(0.0, begin)]
    while queue:
        cost, at = heapq.heappop(queue)
        if at == end:
            break
        if cost > best[at]:
            continue
        for dx, dy, step in _NEIGHBOURS:
            to = (at[0] + dx, at[1] + dy)
            if not space.free[to]:  # the rim is never free, so indices stay inside
                continue
            new = cost + step * float(price[to])
            if new < best.get(to, np.inf):
                best[to] = new
                parent[to] = at
                heapq.heappush(queue, (new, to))
    else:
        raise ValueError(f"no way from {np.asarray(start).tolist()} to {np.asarray(goal).tolist()}")
    path = [end]
    while path[-1] != begin:
        path.append(parent[path[-1]])
    return space.to_world(np.array(path[::-1]))


def smooth(path: np.ndarray, window: int) -> np.ndarray:
    """Moving average along a path [N, D] that keeps its ends."""
    if window < 2 or len(path) < 3:
        return path
    left = window // 2
    padded = np.concatenate([np.repeat(path[:1], left, 0), path, np.repeat(path[-1:], window - 1 - left, 0)])
    kernel = np.ones(window) / window
    averaged = np.stack([np.convolve(padded[:, k], kernel, mode="valid") for k in range(path.shape[1])], axis=1)
    averaged[0], averaged[-1] = path[0], path[-1]
    return averaged


def resample(path: np.ndarray, count: int) -> np.ndarray:
    """``count`` points at equal distances along a path [N, 2]."""
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    at = np.linspace(0.0, length[-1], count)
    return np.stack([np.interp(at, length, path[:, k]) for k in range(path.shape[1])], axis=1)


def camera_pose(position: np.ndarray, yaw: float, pitch: float, roll: float = 0.0) -> np.ndarray:
    """world_from_camera [4, 4], OpenCV axes, of a camera looking along ``yaw`` (0 = +x), ``pitch`` upward (radians)."""
    forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([c * right + s * down, c * down - s * right, forward], axis=1)
    matrix[:3, 3] = position
    return matrix


def tour(scene: Scene, views: int, rng: np.random.Generator) -> np.ndarray:
    """A camera's way through all of a scene: a robot's (steady, low) or a hand's (bobbing, high).

    Returns:
        world_from_camera [views, 4, 4].
    """
    by_hand = rng.random() < 0.5
    height = float(rng.uniform(1.2, 1.7) if by_hand else rng.uniform(0.3, 1.2))
    space = free_space(scene, 0.05, max(height + 0.1, 0.5), 0.15, rng)
    stops = _spread(np.argwhere(space.free), int(rng.integers(5, 10)), rng)
    path = np.concatenate([plan_path(space, *space.to_world(np.array(pair))) for pair in pairwise(stops)])
    xy = resample(smooth(path, 7), views)
    progress = np.linspace(0.0, 1.0, views)
    turns = rng.choice([-1, 1]) * rng.uniform(2.0, 4.0)
    yaw = (
        rng.uniform(0, 2 * np.pi)
        + 2 * np.pi * turns * progress
        + 0.4 * np.sin(2 * np.pi * (5 * progress + rng.random()))
    )
    mean_pitch = np.deg2rad(rng.uniform(-25, -10) if height > 1.0 else rng.uniform(-12, 5))
    pitch = mean_pitch + np.deg2rad(10) * np.sin(2 * np.pi * (rng.uniform(1, 4) * progress + rng.random()))
    bob = 0.06 * np.sin(2 * np.pi * 7 * progress) if by_hand else np.zeros(views)
    roll = np.deg2rad(4) * rng.normal(0, 1, views) if by_hand else np.zeros(views)
    position = np.column_stack([xy, height + bob])
    yaw = yaw + _turn_to_things(scene, position, yaw)
    return np.stack([camera_pose(*each) for each in zip(position, yaw, pitch, roll, strict=True)])


def _turn_to_things(scene: Scene, position: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """How far to turn each view so that it shows things rather than bare wall, radians [N].

    Of nine headings, the one whose fan of rays meets the most instances at a useful distance; small turns preferred.
    """
    offsets = np.deg2rad([0, 30, -30, 65, -65, 105, -105, 150, -150])
    fan_yaw, fan_pitch = np.meshgrid(np.deg2rad(np.linspace(-30, 30, 11)), np.deg2rad([-35, -22, -10, 2]))
    heading = (yaw[:, None] + offsets)[..., None] + fan_yaw.ravel()  # [N, 9, R]
    slope = np.broadcast_to(np.tan(fan_pitch.ravel()), heading.shape)
    rays = np.stack([np.cos(heading), np.sin(heading), slope], axis=-1).reshape(-1, 3)
    origins = np.repeat(position, rays.shape[0] // len(position), axis=0)
    triangle, distance, _ = scene.caster.cast(origins, rays)
    structure = np.array([i.structure for i in scene.instances])
    seen = np.where((triangle >= 0) & (distance > 0.5) & (distance < 4.5), scene.instance[triangle], -1)
    seen = np.where((seen >= 0) & ~structure[seen], seen, -1).reshape(len(yaw), len(offsets), -1)
    in_order = np.sort(seen, axis=2)
    distinct = (np.diff(in_order, axis=2, prepend=-1) > 0).sum(axis=2)
    near_wall = (distance.reshape(seen.shape) < 0.5).mean(axis=2)
    return offsets[(distinct - 1.2 * np.abs(offsets) - 6.0 * near_wall).argmax(axis=1)]


def _spread(cells: np.ndarray, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Cells far from each other (farthest point sampling), in the order of a nearest-neighbour tour."""
    chosen = [cells[int(rng.integers(len(cells)))]]
    distance = np.full(len(cells), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.square(cells - chosen[-1]).sum(1))
        chosen.append(cells[int(distance.argmax())])
    ordered = [chosen.pop(0)]
    while chosen:
        nearest = int(np.square(np.array(chosen) - ordered[-1]).sum(1).argmin())
        ordered.append(chosen.pop(nearest))
    return ordered


@dataclass(frozen=True)
class SensorModel:
    """Noise of an RGB-D camera.

    Depth: axial sigma 0.0012 + 0.0019 (z - 0.4)^2 metres (Nguyen, Izadi, Lovell, "Modeling Kinect sensor noise for
    improved 3D reconstruction and tracking", 3DIMPVT 2012), lateral jitter at edges, disparity steps, holes.
    """

    depth_strength: float = 1.0
    lateral_sigma: float = 0.5  # pixels
    disparity_step: float = 1 / 16  # pixels, of a camera with focal length times baseline of 43.5 px m
    max_depth: float = 5.5
    edge_dropout: float = 0.35
    color_sigma: float = 2.0  # of 255
    blur: float = 0.5  # pixels
    vignetting: float = 0.12
    mean_level: float = 128.0  # what automatic exposure aims at, of 255
    position_sigma: float = 0.002
    rotation_sigma: float = np.deg2rad(0.1)

    @classmethod
    def sample(cls, rng: np.random.Generator) -> SensorModel:
        """A random camera: from nearly perfect to poor."""
        return cls(
            float(rng.uniform(0.2, 1.5)), float(rng.uniform(0.2, 0.9)), float(rng.choice([1 / 8, 1 / 16, 1 / 32])),
            float(rng.uniform(4.5, 6.5)), float(rng.uniform(0.1, 0.6)), float(rng.uniform(0.5, 5.0)),
            float(rng.uniform(0.3, 0.9)), float(rng.uniform(0.0, 0.25)), float(rng.uniform(95.0, 165.0)),
            float(rng.uniform(0.0, 0.004)), float(np.deg2rad(rng.uniform(0.0, 0.2))),
        )  # fmt: skip

    def add_noise(self, view: RenderedView, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Colour uint8 [H, W, 3] and depth float32 [H, W] (metres, 0 = none) as this sensor would deliver them."""
        return self._color(view.color, rng), self._depth(view, rng)

    def perturb(self, world_from_camera: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The pose as odometry would report it, [4, 4]."""
        noise = np.eye(4)
        noise[:3, :3] = cv2.Rodrigues(rng.normal(0, self.rotation_sigma, 3))[0]
        noise[:3, 3] = rng.normal(0, self.position_sigma, 3)
        return world_from_camera @ noise

    def _color(self, color: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        h, w = color.shape[:2]
        image = color.astype(np.float32)
        # Automatic exposure goes part of the way, within what a sensor's range allows.
        gain = np.clip(self.mean_level / max(float(image.mean()), 1.0), 0.5, 3.0) ** 0.6
        y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
        image *= (gain * (1.0 - self.vignetting * (x**2 + y**2) / 2))[..., None]
        image = cv2.GaussianBlur(image, (0, 0), self.blur)
        shot = self.color_sigma * np.sqrt(0.3 + image / 180.0)
        return np.clip(image + rng.normal(0, 1, image.shape) * shot, 0, 255).astype(np.uint8)

    def _depth(self, view: RenderedView, rng: np.random.Generator) -> np.ndarray:
        h, w = view.depth.shape
        rows, columns = np.mgrid[:h, :w]
        rows = np.clip(np.rint(rows + rng.normal(0, self.lateral_sigma, (h, w))).astype(int), 0, h - 1)
        columns = np.clip(np.rint(columns + rng.normal(0, self.lateral_sigma, (h, w))).astype(int), 0, w - 1)
        # Within a surface, a neighbour's depth would tilt nothing but add noise: take it at discontinuities only.
        jittered = view.depth[rows, columns]
        jump = np.abs(jittered - view.depth) > 0.04 * np.maximum(view.depth, 0.3)
        depth = np.where(jump, jittered, view.depth)
        sigma = self.depth_strength * (0.0012 + 0.0019 * np.square(depth - 0.4))
        coarse = cv2.GaussianBlur(rng.normal(0, 1, (h, w)).astype(np.float32), (0, 0), 1.2) * 4.2
        depth = depth + sigma * (0.8 * coarse + 0.6 * rng.normal(0, 1, (h, w)))
        disparity = 43.5 / np.maximum(depth, 0.05)
        depth = 43.5 / np.maximum(np.rint(disparity / self.disparity_step) * self.disparity_step, self.disparity_step)
        spread = cv2.dilate(view.depth, np.ones((3, 3))) - cv2.erode(view.depth, np.ones((3, 3)))
        at_edge = spread > 0.05 * np.maximum(view.depth, 0.3)
        lost = at_edge & (rng.random((h, w)) < self.edge_dropout)
        lost |= view.cosine < rng.uniform(0.05, 0.18, (h, w))
        lost |= (depth > self.max_depth + rng.normal(0, 0.2, (h, w))) | (depth < 0.3) | (view.depth <= 0)
        return np.where(lost, 0.0, depth).astype(np.float32)


def random_intrinsics(rng: np.random.Generator, width: int = 320, height: int = 240) -> CameraIntrinsics:
    """A pinhole camera with a horizontal field of view between 58 and 85 degrees."""
    focal = width / 2 / np.tan(np.deg2rad(rng.uniform(58, 85)) / 2)
    return CameraIntrinsics(focal, focal, (width - 1) / 2, (height - 1) / 2, width, height)
