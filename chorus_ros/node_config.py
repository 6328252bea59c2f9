"""What the node itself can be told: topics, frames, queues, rates. Same machinery as :mod:`chorus_core.config`."""

from __future__ import annotations

from dataclasses import dataclass, field

from chorus_core.config import ConfigError, option

QOS_POLICIES: dict[str, tuple[str, ...] | None] = {
    "history": ("keep_last", "keep_all", "system_default"),
    "depth": None,  # see DEEPEST
    "reliability": ("reliable", "best_effort", "system_default"),
    "durability": ("volatile", "transient_local", "system_default"),
}
"""What ``qos_overrides./TOPIC.(publisher|subscription).POLICY`` may set, and to what; a depth is a number."""

DEEPEST = 100_000
"""Messages that a queue may hold: more than any camera sends in an hour, and less than rclpy's integers end at."""

SHORTEST, LONGEST = 0.01, 86_400.0
"""Seconds that a period, an age or a wait may be: a timer that is faster does nothing else, and none holds years."""


@dataclass(frozen=True)
class TopicsConfig:
    """Inputs. Relative names; ROS remapping applies on top."""

    color: str = option("camera/color/image_raw", "colour images; `/compressed` is appended for that transport")
    depth: str = option("camera/depth/image_raw", "depth images registered to colour; the transport's name is appended")
    info: str = option(
        "camera/color/camera_info",
        "calibration of both images: P where a word of the colour topic begins with `rect`, else K",
    )
    odometry: str = option("odom", "nav_msgs/Odometry, read with frames.source = odometry")
    pose: str = option("camera/pose", "geometry_msgs/PoseStamped, read with frames.source = pose")
    color_transport: str = option("raw", "form of the colour images", choices=("raw", "compressed"))
    depth_transport: str = option("raw", "form of the depth images", choices=("raw", "compressed", "compressedDepth"))
    reliability: str = option(
        "best_effort",
        "of camera, odometry and pose subscriptions; best_effort also receives from reliable publishers",
        choices=("best_effort", "reliable"),
    )


@dataclass(frozen=True)
class FramesConfig:
    """Where poses come from and what they are of."""

    source: str = option("tf", "where camera poses come from", choices=("tf", "odometry", "pose"))
    map: str = option("", "frame the map is built in; empty takes `map` with TF, else the frame the poses are given in")
    camera: str = option("", "optical frame of the images; empty takes the frame_id of the depth image")
    base: str = option(
        "", "frame the pose messages are of; empty takes child_frame_id (odometry), or leaves it unnamed (pose)"
    )
    base_from_camera: str = option(
        "",
        "extrinsics `x y z qx qy qz qw` (metres), for odometry and pose, where TF knows none between base and camera; "
        "without them the unnamed base of odometry is the root of the camera's static transforms, and the unnamed base "
        "of a pose is the camera itself",
    )

    def __post_init__(self) -> None:
        for name in ("map", "camera", "base"):
            object.__setattr__(self, name, getattr(self, name).lstrip("/"))  # tf2 refuses the names of ROS 1
        if self.source == "tf" and self.base_from_camera:
            raise ConfigError(
                f"frames.base_from_camera = {self.base_from_camera!r} with frames.source = tf, which takes the way "
                "to the camera from TF alone: expected odometry or pose as the source, or no extrinsics"
            )


@dataclass(frozen=True)
class SyncConfig:
    """Pairing and waiting."""

    tolerance: float = option(0.02, "seconds between colour and depth of a frame at most", ge=0.0, le=1.0)
    depth: int = option(10, "messages of each stream that wait for their partners at most", ge=1, le=1000)
    pose_wait: float = option(0.5, "seconds a frame waits for its pose at most", ge=0.0, le=60.0)
    wait_mib: int = option(
        256,
        "MiB of images that wait, for their pose or their turn, at most; 0.5 s of 1080p at 30 Hz are 150",
        ge=1,
        le=65536,
    )
    frames: int = option(
        10, "frames with a pose, and older than pose_wait, that wait for integration at most", ge=1, le=1000
    )
    pose_gap: float = option(
        2.0, "seconds between two poses at most that are interpolated between", ge=SHORTEST, le=600.0
    )
    pose_history: float = option(10.0, "seconds of poses kept", ge=SHORTEST, le=600.0)


@dataclass(frozen=True)
class PublishConfig:
    """Outputs."""

    namespace: str = option("chorus", "prefix of the node's topics and services, below the node's own namespace")
    cloud_period: float = option(
        5.0, "seconds between whole semantic clouds, 0.01 or more; 0: on request only", ge=0.0, le=LONGEST, dynamic=True
    )
    objects_period: float = option(
        5.0, "seconds between publications of the objects, 0.01 or more; 0: never", ge=0.0, le=LONGEST, dynamic=True
    )
    status_period: float = option(
        1.0, "seconds between status reports and diagnostics", ge=SHORTEST, le=60.0, dynamic=True
    )
    cloud_color: str = option("label", "what `rgb` of the semantic cloud shows", choices=("label", "rgb"), dynamic=True)
    stale_after: float = option(
        5.0, "seconds without input after which diagnostics call it stale", ge=SHORTEST, le=LONGEST
    )
    map_folder: str = option(
        "out/maps", "folder that save_map writes into, `~` being home; relative to the working directory"
    )
    load_map: str = option(
        "", "a saved map (.ply) to go on with, whose frame is the map frame of now; empty begins a new one"
    )

    def __post_init__(self) -> None:
        for name in ("cloud_period", "objects_period"):
            value = getattr(self, name)
            if 0.0 < value < SHORTEST:
                raise ConfigError(f"publish.{name} = {value}: expected 0, or a value >= {SHORTEST}")

    def topic(self, name: str) -> str:
        """The relative name of a topic or service of the node."""
        prefix = self.namespace.strip("/")
        return f"{prefix}/{name}" if prefix else name


@dataclass(frozen=True)
class NodeConfig:
    """Everything the node can be told besides :class:`chorus_core.config.Config`."""

    topics: TopicsConfig = field(default_factory=TopicsConfig)
    frames: FramesConfig = field(default_factory=FramesConfig)
    sync: SyncConfig = field(default_factory=SyncConfig)
    publish: PublishConfig = field(default_factory=PublishConfig)
