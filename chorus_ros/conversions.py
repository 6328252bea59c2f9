"""ROS messages to the library's types and back. Nothing else knows both sides.

The library has quaternions as wxyz and stamps as nanoseconds; ROS has xyzw, and seconds beside nanoseconds.
"""

from __future__ import annotations

import array
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from chorus_msgs.msg import LabelInfo, Object3D
from geometry_msgs.msg import Point, Pose, Quaternion, Transform, Vector3
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from chorus_core.frames import CameraIntrinsics, RgbdFrame, check_rigid
from chorus_core.io.camera_info import intrinsics_from_info
from chorus_core.io.images import ImageError, color_to_rgb, decode_compressed, decode_image, depth_to_metres
from chorus_core.io.poses import matrix_from_pose
from chorus_core.io.sequence import make_frame
from chorus_core.stamps import SECOND


class MessageError(ValueError):
    """A message that cannot be used. The message names the field, the value and the expected form."""


NO_LABEL = LabelInfo.NONE
NO_INSTANCE = -1

CLOUD_DTYPE = np.dtype(
    [
        ("x", "<f4"),
        ("y", "<f4"),
        ("z", "<f4"),
        ("rgb", "<f4"),
        ("label", "<u4"),
        ("instance", "<i4"),
        ("confidence", "<f4"),
    ]
)
"""One point of every cloud: metres, packed colour, label id, object id, confidence in [0, 1]."""

_POINT_FIELD_TYPES = {"<f4": PointField.FLOAT32, "<u4": PointField.UINT32, "<i4": PointField.INT32}


# ---- time ----


def nanoseconds(stamp: Time) -> int:
    """A stamp as integer nanoseconds.

    Raises:
        MessageError: negative, or nanoseconds of a second or more.
    """
    if stamp.sec < 0 or not 0 <= stamp.nanosec < SECOND:
        raise MessageError(f"stamp {stamp.sec} s {stamp.nanosec} ns: expected sec >= 0 and nanosec < 1e9")
    return stamp.sec * SECOND + stamp.nanosec


def time_message(nanoseconds: int) -> Time:
    """The inverse of :func:`nanoseconds`; zero for what is negative, or beyond the year 2038, which ROS cannot hold."""
    sec, nanosec = divmod(nanoseconds, SECOND)
    return Time(sec=sec, nanosec=nanosec) if 0 <= sec < 1 << 31 else Time()


# ---- poses ----


def matrix(pose: Pose | Transform) -> np.ndarray:
    """A pose or transform message as a rigid matrix, float64 [4, 4].

    Raises:
        MessageError: non-finite numbers, or a quaternion whose length is not about 1.
    """
    if isinstance(pose, Pose):
        t, q = pose.position, pose.orientation
    else:
        t, q = pose.translation, pose.rotation
    quaternion = (q.x, q.y, q.z, q.w)
    if not abs(math.hypot(*quaternion) - 1.0) < 0.1:  # also true of NaN
        raise MessageError(f"quaternion x, y, z, w = {quaternion}: expected length 1")
    if not all(map(math.isfinite, (t.x, t.y, t.z))):
        raise MessageError(f"position {(t.x, t.y, t.z)}: expected finite metres")
    return matrix_from_pose((t.x, t.y, t.z), quaternion)


def matrix_from_text(text: str, name: str) -> np.ndarray:
    """A rigid matrix from ``x y z qx qy qz qw`` (metres; ROS quaternion order), float64 [4, 4].

    Raises:
        MessageError: not seven numbers, or not a rigid transform; ``name`` says whose.
    """
    try:
        numbers = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) != 7 or not abs(math.hypot(*numbers[3:]) - 1.0) < 0.1:
        raise MessageError(f"{name} = {text!r}: expected seven numbers x y z qx qy qz qw with a quaternion of length 1")
    return check_rigid(matrix_from_pose(numbers[:3], numbers[3:]), name)


def pose_message(transform: np.ndarray) -> Pose:
    """A rigid matrix [4, 4] as a pose."""
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(transform[:3, :3]).as_quat().tolist()
    return Pose(position=_point(transform[:3, 3]), orientation=Quaternion(x=x, y=y, z=z, w=w))


def transform_message(transform: np.ndarray) -> Transform:
    """A rigid matrix [4, 4] as a transform."""
    pose = pose_message(transform)
    return Transform(translation=_vector(transform[:3, 3]), rotation=pose.orientation)


# ---- images in ----


def color_image(message: Image | CompressedImage) -> np.ndarray:
    """RGB, uint8 [H, W, 3].

    Raises:
        ImageError: an encoding or size that does not fit.
    """
    if isinstance(message, CompressedImage):
        return color_to_rgb(decode_compressed(message.format, message.data))
    return color_to_rgb(_pixels(message), message.encoding)


def depth_image(message: Image | CompressedImage) -> np.ndarray:
    """z-depth in metres, float32 [H, W]; 0 where there is none.

    Raises:
        ImageError: an encoding or size that does not fit.
    """
    if isinstance(message, CompressedImage):
        return depth_to_metres(decode_compressed(message.format, message.data))
    return depth_to_metres(_pixels(message), message.encoding)


def rgbd_frame(
    color: Image | CompressedImage,
    depth: Image | CompressedImage,
    info: CameraInfo,
    world_from_camera: np.ndarray,
    rectified: bool = False,
) -> RgbdFrame:
    """A checked frame from three messages and a pose [4, 4]; its size and stamp are the depth image's.

    Colour and calibration of the same view at another size are brought to the depth image's.

    Raises:
        MessageError, ImageError, FrameError: what does not fit, by name. All are ValueErrors.
    """
    stamp = nanoseconds(depth.header.stamp)
    rgb = color_image(color)
    camera = intrinsics_from_info(info, rectified, (rgb.shape[1], rgb.shape[0]))
    return make_frame(rgb, depth_image(depth), camera, world_from_camera, stamp)


def _pixels(message: Image) -> np.ndarray:
    return decode_image(
        message.encoding, message.height, message.width, message.step, message.is_bigendian, message.data
    )


# ---- images out ----


def byte_array(data: np.ndarray | bytes) -> array.array:
    """The buffer for a uint8[] field. Assigning bytes there makes rclpy check every element in Python."""
    buffer = array.array("B")
    buffer.frombytes(memoryview(np.ascontiguousarray(data)).cast("B") if isinstance(data, np.ndarray) else data)
    return buffer


def image_message(header: Header, pixels: np.ndarray, encoding: str) -> Image:
    """A raw image message from [H, W] or [H, W, C] pixels whose type fits the encoding."""
    return Image(
        header=header,
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=pixels.itemsize * pixels[0].size,
        data=byte_array(pixels),
    )


def camera_info_message(header: Header, camera: CameraIntrinsics) -> CameraInfo:
    """Calibration of a rectified pinhole camera without distortion."""
    k = camera.matrix
    return CameraInfo(
        header=header,
        width=camera.width,
        height=camera.height,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=k.reshape(-1),
        r=np.eye(3).reshape(-1),
        p=np.hstack([k, np.zeros((3, 1))]).reshape(-1),
    )


# ---- clouds ----


def pack_rgb(colors: np.ndarray) -> np.ndarray:
    """RGB uint8 [N, 3] as float32 [N] whose bits are 0x00RRGGBB, the way PCL and RViz read the field ``rgb``."""
    wide = colors.astype(np.uint32)
    return ((wide[:, 0] << 16) | (wide[:, 1] << 8) | wide[:, 2]).view(np.float32)


def cloud_message(
    header: Header,
    points: np.ndarray,
    colors: np.ndarray,
    labels: np.ndarray | None = None,
    instances: np.ndarray | None = None,
    confidence: np.ndarray | None = None,
) -> PointCloud2:
    """A cloud with the fields of :data:`CLOUD_DTYPE`.

    Args:
        header: stamp and the frame of the points.
        points: metres [N, 3].
        colors: RGB uint8 [N, 3].
        labels: ids, integer [N]; negative (and all, without the argument) become :data:`NO_LABEL`.
        instances: object ids, integer [N]; -1 is none.
        confidence: in [0, 1] [N].
    """
    n = len(points)
    cloud = np.empty(n, dtype=CLOUD_DTYPE)
    for axis, name in enumerate("xyz"):
        cloud[name] = points[:, axis]
    cloud["rgb"] = pack_rgb(colors)
    cloud["label"] = NO_LABEL if labels is None else np.where(labels < 0, NO_LABEL, labels)
    cloud["instance"] = NO_INSTANCE if instances is None else instances
    cloud["confidence"] = 0.0 if confidence is None else confidence
    fields = [
        PointField(name=name, offset=offset, datatype=_POINT_FIELD_TYPES[dtype.str], count=1)
        for name, (dtype, offset) in ((name, CLOUD_DTYPE.fields[name]) for name in CLOUD_DTYPE.names)
    ]
    return PointCloud2(
        header=header,
        height=1,
        width=n,
        fields=fields,
        is_bigendian=False,
        point_step=CLOUD_DTYPE.itemsize,
        row_step=CLOUD_DTYPE.itemsize * n,
        data=byte_array(cloud.tobytes()),
        is_dense=True,
    )


def object_instances(count: int, objects: Sequence[Any]) -> np.ndarray:
    """The place in ``objects`` of the object each of ``count`` points belongs to, int32 [count]; -1 is none."""
    instances = np.full(count, NO_INSTANCE, dtype=np.int32)
    for number, item in enumerate(objects):
        instances[np.asarray(item.indices, dtype=np.int64)] = number
    return instances


# ---- labels and objects ----


def label_info_message(header: Header, labels: Sequence[str], colors: np.ndarray) -> LabelInfo:
    """The vocabulary: names and RGB uint8 [L, 3]; an id is the place of its name."""
    rgba = [ColorRGBA(r=r / 255, g=g / 255, b=b / 255, a=1.0) for r, g, b in colors.tolist()]
    return LabelInfo(header=header, ids=list(range(len(labels))), names=list(labels), colors=rgba)


def object_message(header: Header, item: Any) -> Object3D:
    """One :class:`chorus_core.semantics.objects.SceneObject`."""
    return Object3D(
        header=header,
        id=item.id,
        label=item.label,
        score=float(item.score),
        centroid=_point(item.centroid),
        pose=_box_pose(item),
        size=_vector(item.box_size),
        gaussians=int(item.count),
        first_seen=time_message(item.first_seen),
        last_seen=time_message(item.last_seen),
    )


def marker_messages(header: Header, objects: Sequence[Any], colors: Sequence[Sequence[float]]) -> MarkerArray:
    """A see-through box and a name for each object; what was shown before is deleted.

    Args:
        header: stamp and map frame.
        objects: of :class:`chorus_core.semantics.objects.SceneObject`.
        colors: RGB in [0, 255] of each object.
    """
    markers = [Marker(header=header, action=Marker.DELETEALL)]
    for item, color in zip(objects, colors, strict=True):
        r, g, b = (float(c) / 255 for c in color)
        box = Marker(header=header, ns="boxes", id=item.id, type=Marker.CUBE, action=Marker.ADD)
        box.pose, box.scale, box.color = _box_pose(item), _vector(item.box_size), ColorRGBA(r=r, g=g, b=b, a=0.35)
        name = Marker(header=header, ns="names", id=item.id, type=Marker.TEXT_VIEW_FACING, action=Marker.ADD)
        name.text = item.label
        name.pose.position = _point(item.box_center)
        name.pose.position.z += float(item.box_size[2]) / 2 + 0.08  # above the box: boxes are upright
        name.scale.z = 0.12
        name.color = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
        markers += [box, name]
    return MarkerArray(markers=markers)


def _box_pose(item: Any) -> Pose:
    w, x, y, z = (float(v) for v in item.box_quat)
    return Pose(position=_point(item.box_center), orientation=Quaternion(x=x, y=y, z=z, w=w))


def _point(values: Sequence[float]) -> Point:
    x, y, z = (float(v) for v in values)
    return Point(x=x, y=y, z=z)


def _vector(values: Sequence[float]) -> Vector3:
    x, y, z = (float(v) for v in values)
    return Vector3(x=x, y=y, z=z)


__all__ = [
    "CLOUD_DTYPE",
    "NO_INSTANCE",
    "NO_LABEL",
    "ImageError",
    "MessageError",
    "byte_array",
    "camera_info_message",
    "cloud_message",
    "color_image",
    "depth_image",
    "image_message",
    "label_info_message",
    "marker_messages",
    "matrix",
    "matrix_from_text",
    "nanoseconds",
    "object_instances",
    "object_message",
    "pack_rgb",
    "pose_message",
    "rgbd_frame",
    "time_message",
    "transform_message",
]
