"""A ray-cast RGB-D camera on the CPU: Embree for visibility, mip-mapped textures, Lambert light with soft shadows."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from embreex import rtcore_scene
from embreex.mesh_construction import TriangleMesh

from chorus_core.frames import CameraIntrinsics
from training.scenes.assets import TexturedMesh
from training.scenes.instance import Instance

_TO_LINEAR = np.where(
    np.arange(256) / 255.0 <= 0.04045, np.arange(256) / 255.0 / 12.92, ((np.arange(256) / 255.0 + 0.055) / 1.055) ** 2.4
).astype(np.float32)  # sRGB (IEC 61966-2-1)
_RAY_OFFSET = 2e-3  # metres off a surface before a shadow ray starts


@dataclass(frozen=True)
class PointLight:
    """A light at ``position`` [3] (metres) with linear RGB ``color`` [3]: its irradiance at one metre."""

    position: np.ndarray
    color: np.ndarray


@dataclass(frozen=True)
class RenderedView:
    """What a perfect camera sees.

    Attributes:
        color: sRGB, uint8 [H, W, 3].
        depth: z-depth in metres, float32 [H, W]; 0 where nothing was hit.
        instance: index of the instance, int32 [H, W]; -1 where nothing was hit.
        cosine: between surface normal and viewing ray, float32 [H, W]; 0 where nothing was hit.
    """

    color: np.ndarray
    depth: np.ndarray
    instance: np.ndarray
    cosine: np.ndarray


class _TextureAtlas:
    """Textures of all sizes with their mip levels in one flat array, so that lookups are plain gathers."""

    def __init__(self, textures: list[np.ndarray]) -> None:
        texels, self._table, start = [], [], 0
        for image in textures:
            alpha = image[..., 3] if image.shape[2] == 4 else np.full(image.shape[:2], 255, np.uint8)
            level = np.dstack([image[..., :3], alpha])
            rows = []
            while True:
                h, w = level.shape[:2]
                rows.append((start, w, h))
                texels.append(level.reshape(-1, 4))
                start += h * w
                if max(h, w) <= 4:
                    break
                level = cv2.resize(level, (max(1, w // 2), max(1, h // 2)), interpolation=cv2.INTER_AREA)
            self._table.append(rows)
        self.levels = max(len(rows) for rows in self._table)
        padded = [rows + [rows[-1]] * (self.levels - len(rows)) for rows in self._table]
        self.table = np.array(padded, np.int64)  # [textures, levels, (start, width, height)]
        packed = np.concatenate(texels)
        self.linear = _TO_LINEAR[packed[:, :3]]  # [texels, 3]
        self.alpha = packed[:, 3]  # [texels]

    def sample(self, texture: np.ndarray, level: np.ndarray, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bilinear linear RGB [N, 3] and nearest alpha [N] at ``uv`` [N, 2] (v upward, repeating)."""
        start, w, h = self.table[texture, np.clip(level, 0, self.levels - 1)].T
        x = uv[:, 0] * w - 0.5
        y = (1.0 - uv[:, 1]) * h - 0.5
        x0, y0 = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
        fx, fy = (x - x0).astype(np.float32)[:, None], (y - y0).astype(np.float32)[:, None]
        left, right, top, bottom = x0 % w, (x0 + 1) % w, start + (y0 % h) * w, start + ((y0 + 1) % h) * w
        upper = self.linear[top + left] * (1 - fx) + self.linear[top + right] * fx
        lower = self.linear[bottom + left] * (1 - fx) + self.linear[bottom + right] * fx
        nearest = start + (np.rint(y).astype(np.int64) % h) * w + np.rint(x).astype(np.int64) % w
        return upper * (1 - fy) + lower * fy, self.alpha[nearest]


class RayCaster:
    """Nearest hits and occlusion against a fixed set of triangles [T, 3, 3]."""

    def __init__(self, triangles: np.ndarray) -> None:
        self._scene = rtcore_scene.EmbreeScene()
        self._mesh = TriangleMesh(self._scene, np.ascontiguousarray(triangles, np.float32))

    def cast(self, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Triangle [N] (-1 for none), distance in units of the direction's length [N], barycentric (u, v) [N, 2]."""
        hit = self._scene.run(
            np.ascontiguousarray(origins, np.float32), np.ascontiguousarray(directions, np.float32), output=True
        )
        return hit["primID"], hit["tfar"], np.stack([hit["u"], hit["v"]], axis=1)

    def occluded(self, points: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Whether anything lies between ``points`` and ``targets``, bool [N]."""
        _, distance, _ = self.cast(points, targets - points)
        return distance < 1.0 - 1e-3


@dataclass
class Scene:
    """A merged, textured, lit triangle soup in world coordinates (z up, metres).

    Attributes:
        triangles, uv, texture: as in TexturedMesh.
        instance: index into ``instances``, int32 [T].
        textures: all images.
        instances: what each index is.
        color_matrix: change of linear colour per instance, float32 [I, 3, 3].
        lights: point lights.
        ambient: linear RGB of the light from everywhere, [3].
        background: linear RGB of what no ray hits.
    """

    triangles: np.ndarray
    uv: np.ndarray
    texture: np.ndarray
    instance: np.ndarray
    textures: list[np.ndarray]
    instances: list[Instance]
    color_matrix: np.ndarray
    lights: list[PointLight]
    ambient: np.ndarray
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    caster: RayCaster = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.caster = RayCaster(self.triangles)
        edge1 = self.triangles[:, 1] - self.triangles[:, 0]
        edge2 = self.triangles[:, 2] - self.triangles[:, 0]
        cross = np.cross(edge1, edge2)
        area = np.linalg.norm(cross, axis=1)
        self.normal = cross / np.maximum(area, 1e-12)[:, None]  # [T, 3]
        self.area = 0.5 * area  # [T]
        self._atlas = _TextureAtlas(self.textures)
        d1, d2 = self.uv[:, 1] - self.uv[:, 0], self.uv[:, 2] - self.uv[:, 0]
        sizes = self._atlas.table[self.texture, 0, 1:].prod(axis=1)
        texel_area = np.abs(d1[:, 0] * d2[:, 1] - d1[:, 1] * d2[:, 0]) * sizes
        self._texel = np.sqrt(np.maximum(area, 1e-12) / np.maximum(texel_area, 1e-6))  # metres a texel [T]

    def albedo(self, triangle: np.ndarray, bary: np.ndarray, footprint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Linear RGB [N, 3] and alpha [N] at barycentric (u, v) [N, 2]; ``footprint`` [N]: metres a pixel covers."""
        corners = self.uv[triangle]
        u, v = bary[:, :1], bary[:, 1:]
        uv = corners[:, 0] * (1 - u - v) + corners[:, 1] * u + corners[:, 2] * v
        level = np.floor(np.log2(np.maximum(footprint / self._texel[triangle], 1.0)) + 0.3).astype(np.int64)
        color, alpha = self._atlas.sample(self.texture[triangle], level, uv)
        changed = np.einsum("nij,nj->ni", self.color_matrix[self.instance[triangle]], color)
        return np.clip(changed, 0.0, 1.0), alpha

    def sample_surface(self, instance: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """Unlit sRGB colours at random points of one instance's surface, uint8 [count, 3]."""
        own = np.flatnonzero(self.instance == instance)
        weight = self.area[own] + 1e-12
        triangle = rng.choice(own, count, p=weight / weight.sum())
        bary = rng.random((count, 2)).astype(np.float32)
        bary = np.where(bary.sum(1, keepdims=True) > 1, 1 - bary, bary)
        color, _ = self.albedo(triangle, bary, np.full(count, 0.01, np.float32))
        return to_srgb(color)


def to_srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light in [0, 1] (clipped) to sRGB bytes."""
    x = np.clip(linear, 0.0, 1.0)
    return np.rint(255 * np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)).astype(np.uint8)


def pixel_rays(intrinsics: CameraIntrinsics) -> np.ndarray:
    """Directions through the pixel centres in camera axes with z = 1, float32 [H * W, 3]."""
    x = (np.arange(intrinsics.width) - intrinsics.cx) / intrinsics.fx
    y = (np.arange(intrinsics.height) - intrinsics.cy) / intrinsics.fy
    grid = np.stack([*np.meshgrid(x, y), np.ones((intrinsics.height, intrinsics.width))], axis=-1)
    return grid.reshape(-1, 3).astype(np.float32)


def merge(
    parts: list[tuple[TexturedMesh, np.ndarray]],
    instances: list[Instance],
    color_matrix: np.ndarray,
    lights: list[PointLight],
    ambient: np.ndarray,
) -> Scene:
    """One scene out of a mesh and its ``world_from_object`` (4x4, may scale) for every instance."""
    triangles, uv, texture, instance, textures = [], [], [], [], []
    first_texture: dict[int, int] = {}
    for k, (mesh, world_from_object) in enumerate(parts):
        # The same model twice shares its textures; meshes are cached, so identity is enough to tell.
        if id(mesh) not in first_texture:
            first_texture[id(mesh)] = len(textures)
            textures.extend(mesh.textures)
        triangles.append(mesh.triangles @ world_from_object[:3, :3].T + world_from_object[:3, 3])
        uv.append(mesh.uv)
        texture.append(mesh.texture + first_texture[id(mesh)])
        instance.append(np.full(len(mesh.triangles), k, np.int32))
    return Scene(
        np.concatenate(triangles).astype(np.float32), np.concatenate(uv), np.concatenate(texture),
        np.concatenate(instance), textures, instances, np.asarray(color_matrix, np.float32), lights,
        np.asarray(ambient),
    )  # fmt: skip


def render_view(
    scene: Scene,
    intrinsics: CameraIntrinsics,
    world_from_camera: np.ndarray,
    rng: np.random.Generator,
    *,
    exposure: float = 1.0,
    shadow_lights: int = 2,
    flicker: float = 1.0,
) -> RenderedView:
    """Ray-cast one view; two-sided Lambert surfaces.

    Args:
        world_from_camera: float [4, 4], OpenCV axes.
        rng: jitters exposure and white balance a little, as automatic cameras do.
        exposure: factor on linear light.
        flicker: strength of the jitter of exposure and white balance.
        shadow_lights: the strongest lights per view that cast shadows (at half resolution, so edges are soft).
    """
    h, w = intrinsics.height, intrinsics.width
    rotation = np.asarray(world_from_camera[:3, :3], np.float32)
    eye = np.asarray(world_from_camera[:3, 3], np.float32)
    rays = pixel_rays(intrinsics) @ rotation.T  # [H*W, 3]; distance along them is z-depth
    triangle, depth, albedo = _visible(scene, eye, rays, intrinsics.fx)
    hit = triangle >= 0
    points = eye + rays * np.where(hit, depth, 0.0)[:, None]
    normal = scene.normal[triangle]
    facing = -np.einsum("ni,ni->n", normal, rays) / np.linalg.norm(rays, axis=1)
    normal = normal * np.sign(facing + 1e-9)[:, None]
    light = _irradiance(scene, points, normal, (h, w), shadow_lights)
    gain = exposure * np.exp(flicker * (rng.normal(0.0, 0.05) + rng.normal(0.0, 0.015, 3)))
    color = to_srgb(albedo * light * gain)
    color[~hit] = to_srgb(np.asarray(scene.background) * gain)
    shape = (h, w)
    return RenderedView(
        color.reshape(h, w, 3),
        np.where(hit, depth, 0.0).astype(np.float32).reshape(shape),
        np.where(hit, scene.instance[triangle], -1).astype(np.int32).reshape(shape),
        np.where(hit, np.abs(facing), 0.0).astype(np.float32).reshape(shape),
    )


def _visible(
    scene: Scene, eye: np.ndarray, rays: np.ndarray, focal: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nearest opaque hit of each ray: triangle [N], depth [N], linear albedo [N, 3]."""
    triangle, depth, bary = scene.caster.cast(np.broadcast_to(eye, rays.shape), rays)
    color, alpha = scene.albedo(triangle, bary, depth / focal)
    for _ in range(6):  # leaves and lace: look on through cut-out texels, a few layers deep
        holes = np.flatnonzero((alpha < 128) & (triangle >= 0))
        if not len(holes):
            break
        start = depth[holes] + 1e-3
        t, d, b = scene.caster.cast(eye + rays[holes] * start[:, None], rays[holes])
        triangle[holes], depth[holes], bary[holes] = t, d + start, b
        color[holes], alpha[holes] = scene.albedo(t, b, depth[holes] / focal)
    return triangle, depth, color


def _irradiance(
    scene: Scene, points: np.ndarray, normal: np.ndarray, shape: tuple[int, int], shadow_lights: int
) -> np.ndarray:
    """Linear RGB light arriving at every pixel's surface, [N, 3]."""
    # Light from everywhere is a bit stronger from above and bounces off the floor: cheap form in corners.
    sky = 0.85 + 0.15 * normal[:, 2:] + 0.06 * normal[:, :1]
    total = sky * scene.ambient
    strength = []
    for light in scene.lights:
        to_light = light.position - points
        squared = np.einsum("ni,ni->n", to_light, to_light)
        cosine = np.einsum("ni,ni->n", normal, to_light) / np.sqrt(squared + 1e-9)
        # Inverse square, softened below a metre: room lights are not points.
        strength.append(np.clip(cosine, 0.0, None) / (1.0 + squared / 4.0))
    order = np.argsort([-(s.mean() * light.color.mean()) for s, light in zip(strength, scene.lights, strict=True)])
    for rank, k in enumerate(order):
        value = strength[k]
        if rank < shadow_lights:
            value = value * _visibility(scene, points, normal, scene.lights[k].position, shape)
        total = total + value[:, None] * scene.lights[k].color
    return total


def _visibility(
    scene: Scene, points: np.ndarray, normal: np.ndarray, light: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """How much of a light reaches each pixel, in [0, 1] [N], traced at half resolution and blurred."""
    h, w = shape
    half = points.reshape(h, w, 3)[::2, ::2].reshape(-1, 3)
    lifted = half + _RAY_OFFSET * normal.reshape(h, w, 3)[::2, ::2].reshape(-1, 3)
    # Lamps are modelled around their light, so the shadow ray stops a little before it.
    blocked = scene.caster.occluded(lifted, half + 0.85 * (light - half))
    free = 1.0 - blocked.reshape((h + 1) // 2, (w + 1) // 2).astype(np.float32)
    return cv2.resize(cv2.blur(free, (3, 3)), (w, h), interpolation=cv2.INTER_LINEAR).reshape(-1)
