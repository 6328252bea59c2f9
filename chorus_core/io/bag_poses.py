"""Where the camera of a bag is: which of TF, odometry and poses tells, and in which frame."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from chorus_core.io.bag_messages import PoseSample
from chorus_core.io.bag_topics import ODOMETRY, BagOptions
from chorus_core.io.sequence import SequenceError
from chorus_core.io.transform_buffer import TransformBuffer, TransformError

_log = logging.getLogger(__name__)

_LOOKED_AT = 100  # stamps of images for which a pose is tried
_STANDS_STILL = 4  # the rank of TF in which nothing moves
_AS_GOOD = 0.9  # of the best coverage
# Where something is wanted to be, not where it is: /goal_pose of RViz, /mavros/setpoint_position/local
_WISH = re.compile(r"goal|target|setpoint|desired|reference|command|cmd|plan|initial")


@dataclass(frozen=True)
class PoseSource:
    """Transforms that lead from the camera to the world.

    Attributes:
        name: topic, or ``TF``.
        buffer: transforms, those of the topic among them.
        world_frame: the frame of the map.
        coverage: share of the images whose pose is known.
        rejected: transforms of the topic that cannot be used, and why the last one cannot.
        remark: what was assumed of the topic; empty for nothing.
    """

    name: str
    buffer: TransformBuffer
    world_frame: str
    coverage: float
    rejected: int = 0
    last_error: TransformError | None = None
    remark: str = ""


def choose_pose_source(
    buffer: TransformBuffer,
    poses: Mapping[str, Sequence[PoseSample]],
    types: Mapping[str, str],
    camera: str,
    stamps: Sequence[float],
    options: BagOptions,
) -> PoseSource:
    """The source that knows the camera at the most image stamps.

    Of those that know it about equally often: odometry that goes on where TF ends, TF that moves, other odometry,
    ``PoseStamped``, and last TF in which nothing moves. Topics whose names say that they are wishes (``/goal_pose``)
    are taken only when they are told.

    Args:
        buffer: the transforms of TF; stays as it is.
        poses: samples of the pose topics.
        types: message types of the pose topics.
        camera: optical frame of the colour camera.
        stamps: seconds, of the images.
        options: what was told.

    Raises:
        SequenceError: nothing says where the camera is, or what says so is of a frame that nothing connects with it.
        TransformError: the frames form a loop.
    """
    looked_at = sorted(stamps)[:: max(1, len(stamps) // _LOOKED_AT)]
    ranked = sorted(_sources(buffer, poses, types, camera, looked_at, options), key=lambda pair: pair[0])
    _refuse_others_poses(ranked, buffer, poses, types, camera, options)
    if not ranked:
        others = ", ".join(sorted(poses))
        raise SequenceError(
            f"no source of poses: TF does not hold frame {camera!r}, and there is no Odometry or PoseStamped"
            + (others and f" that says whose poses it holds, but {others} (--pose-topic and --base-frame tell)")
        )
    best = max(source.coverage for _, source in ranked)
    good = [(rank, source) for rank, source in ranked if source.coverage >= _AS_GOOD * best]
    rank, chosen = good[0]
    equals = [source.name for other, source in good if other == rank]
    if len(equals) > 1:
        _log.warning(
            "poses are of several topics (%s); --pose-topic names one, %s is taken", ", ".join(equals), chosen.name
        )
    elif chosen is not ranked[0][1]:
        first = ranked[0][1]
        known = f"{chosen.coverage:.0%} of the images, by {first.name} at {first.coverage:.0%}"
        _log.warning("poses are taken from %s, known at %s; --pose-topic says otherwise", chosen.name, known)
    if chosen.remark:
        _log.warning("%s", chosen.remark)
    return chosen


def _sources(
    buffer: TransformBuffer,
    poses: Mapping[str, Sequence[PoseSample]],
    types: Mapping[str, str],
    camera: str,
    stamps: Sequence[float],
    options: BagOptions,
) -> Iterator[tuple[int, PoseSource]]:
    """All there are, with their rank: less goes first."""
    tf_root, moves = buffer.root(camera), buffer.moves(camera)
    told = options.pose in poses
    if tf_root != camera.removeprefix("/") and not told:
        world = options.world_frame or _world_frame(buffer, camera)
        coverage = _coverage(buffer, world, camera, stamps)
        # a camera that nothing moves is known at all times, and nowhere in the world
        yield (
            (1, PoseSource("TF", buffer, world, coverage))
            if moves
            else (
                _STANDS_STILL,
                PoseSource(
                    "TF", buffer, world, 0.0, remark=f"nothing in TF moves {camera}: it is taken to stand still"
                ),
            )
        )
    for topic, child, remark in _posed_frames(buffer, poses, types, camera, options):
        if _moves(child, camera, buffer):
            source = _joined(topic, poses[topic], child, buffer, camera, stamps, options.world_frame, remark)
            # TF ends at the robot's body (joints may move in it), and odometry goes on from there
            is_odometry = types[topic] == ODOMETRY
            yield (0 if is_odometry and child == tf_root else 2 if is_odometry else 3), source


def _refuse_others_poses(
    ranked: Sequence[tuple[int, PoseSource]],
    buffer: TransformBuffer,
    poses: Mapping[str, Sequence[PoseSample]],
    types: Mapping[str, str],
    camera: str,
    options: BagOptions,
) -> None:
    """A camera that would stand still beside poses of a frame it is not connected with: all frames in one place."""
    if any(rank != _STANDS_STILL for rank, _ in ranked) or (options.pose and options.pose not in poses):
        return
    topics = _posed_frames(buffer, poses, types, camera, options)
    apart = [f"{topic} is of {child!r}" for topic, child, _ in topics if not _moves(child, camera, buffer)]
    if apart:
        raise SequenceError(
            f"{'; '.join(apart)}: no transform connects that with {camera!r} (--base-frame says of what they are, "
            "--pose-topic /tf that the camera stands still)"
        )


def _moves(child: str, camera: str, buffer: TransformBuffer) -> bool:
    return child == camera.removeprefix("/") or child in buffer.ancestors(camera)


def _posed_frames(
    buffer: TransformBuffer,
    poses: Mapping[str, Sequence[PoseSample]],
    types: Mapping[str, str],
    camera: str,
    options: BagOptions,
) -> Iterator[tuple[str, str, str]]:
    """Pose topics that may be taken, with the frame that their poses are of and what of it is assumed."""
    told = options.pose in poses
    for topic, samples in sorted(poses.items()):
        if not samples or (told and topic != options.pose) or (not told and _is_wish(topic)):
            continue
        child, remark = _posed_frame(topic, samples[0], types[topic] == ODOMETRY, buffer, camera, options)
        if child:
            yield topic, child, remark


def _posed_frame(
    topic: str, sample: PoseSample, is_odometry: bool, buffer: TransformBuffer, camera: str, options: BagOptions
) -> tuple[str, str]:
    """The frame whose poses a topic holds, empty where nothing says; and what of it is assumed."""
    if options.base_frame or sample.child:
        return (options.base_frame or sample.child).removeprefix("/"), ""
    camera, root = camera.removeprefix("/"), buffer.static_root(camera)
    if not is_odometry:
        mounted = f"the poses of {topic} are taken as the camera's own, not as {root}'s; --base-frame says otherwise"
        return camera, mounted if root != camera else ""
    if root == camera:
        return "", ""  # robots report the motion of their base, and nothing says how the camera sits on it
    return (
        root,
        f"{topic} names no child_frame_id: {root}, on which {camera} sits, is taken; --base-frame says otherwise",
    )


def _joined(
    topic: str,
    samples: Sequence[PoseSample],
    child: str,
    buffer: TransformBuffer,
    camera: str,
    stamps: Sequence[float],
    world: str | None,
    remark: str,
) -> PoseSource:
    """TF with the poses of a topic in place of what it says of the same frame."""
    joined = buffer.without_parents(child)
    rejected, last_error = 0, None
    for sample in samples:
        try:
            joined.set_transform(sample.parent, child, sample.stamp, sample.parent_from_child)
        except TransformError as error:
            rejected, last_error = rejected + 1, error
    world = world or _world_frame(joined, camera)
    return PoseSource(topic, joined, world, _coverage(joined, world, camera, stamps), rejected, last_error, remark)


def _world_frame(buffer: TransformBuffer, camera: str) -> str:
    """``map``, also within a namespace, where the camera hangs from it (REP 105); else what is above all that moves."""
    above = buffer.ancestors(camera)
    maps = [frame for frame in above if frame == "map"] + [frame for frame in above if frame.endswith("/map")]
    return maps[0] if maps else buffer.fixed_frame(camera)


def _coverage(buffer: TransformBuffer, world: str, camera: str, stamps: Sequence[float]) -> float:
    known = 0
    for stamp in stamps:
        try:
            buffer.lookup(world, camera, stamp)
            known += 1
        except TransformError:
            continue
    return known / max(len(stamps), 1)


def _is_wish(topic: str) -> bool:
    return _WISH.search(topic.lower()) is not None
