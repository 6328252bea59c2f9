"""A first look at the images and calibrations of a bag: what the choice of topics goes by."""

from __future__ import annotations

from typing import Any

import numpy as np

from chorus_core.io.bag_messages import messages, pixels
from chorus_core.io.bag_storage import Bag
from chorus_core.io.bag_topics import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE, Look
from chorus_core.io.images import ImageError
from chorus_core.io.sequence import SequenceError

_TRIES = 5  # messages looked at until one is not damaged


def look_at_images(bag: Bag) -> dict[str, Look]:
    """What the first message of each image and calibration topic shows; nothing of those whose first are damaged."""
    kinds = {IMAGE: _look_at_image, COMPRESSED_IMAGE: _look_at_image, CAMERA_INFO: _look_at_info}
    looks = {}
    for topic in bag.topics.values():
        if topic.type not in kinds:
            continue
        for _, (_, _, message) in zip(range(_TRIES), messages(bag, {topic.name}), strict=False):
            if not isinstance(message, SequenceError):
                looks[topic.name] = kinds[topic.type](message)
                break
    return looks


def _look_at_image(message: Any) -> Look:
    frame = message.header.frame_id
    try:
        image, encoding = pixels(message)
    except ImageError:  # of a coding that is not read: what colour mostly is
        return Look(frame)
    if image.ndim == 3 or (encoding or "").startswith("bayer"):
        kind = "color"
    else:
        kind = "grey" if image.dtype == np.uint8 else "depth"  # mono16 is of both; depth is the more common
    return Look(frame, kind, (image.shape[1], image.shape[0]))


def _look_at_info(message: Any) -> Look:
    return Look(message.header.frame_id, size=(message.width, message.height))
