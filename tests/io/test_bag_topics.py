"""Which topics are taken, for the names, frames and pixels that drivers of common cameras publish."""

from __future__ import annotations

import pytest

from chorus_core.io.bag_topics import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    IMAGE,
    BagOptions,
    ImageTopics,
    Look,
    choose_image_topics,
    is_rectified,
)
from chorus_core.io.sequence import SequenceError

REALSENSE = {
    "/camera/color/image_raw": ("color_optical", "color", (1280, 720)),
    "/camera/color/image_raw/compressed": ("color_optical", "color", (1280, 720)),
    "/camera/depth/image_rect_raw": ("depth_optical", "depth", (848, 480)),
    "/camera/aligned_depth_to_color/image_raw": ("color_optical", "depth", (1280, 720)),
    "/camera/aligned_depth_to_color/image_raw/compressedDepth": ("color_optical", "depth", (1280, 720)),
    "/camera/infra1/image_rect_raw": ("infra1_optical", "grey", (848, 480)),
    "/camera/color/camera_info": ("color_optical", "", (1280, 720)),
    "/camera/depth/camera_info": ("depth_optical", "", (848, 480)),
    "/camera/aligned_depth_to_color/camera_info": ("color_optical", "", (1280, 720)),
}
# depthai_ros_driver: depth says neither "depth" nor that it is aligned
OAK = {
    "/oak/rgb/image_raw": ("oak_rgb_optical", "color", (1280, 720)),
    "/oak/stereo/image_raw": ("oak_rgb_optical", "depth", (1280, 720)),
    "/oak/left/image_raw": ("oak_left_optical", "grey", (1280, 720)),
    "/oak/rgb/camera_info": ("oak_rgb_optical", "", (1280, 720)),
    "/oak/stereo/camera_info": ("oak_rgb_optical", "", (1280, 720)),
    "/oak/left/camera_info": ("oak_left_optical", "", (1280, 720)),
}
# Azure_Kinect_ROS_Driver: both cameras seen from each other
AZURE = {
    "/rgb/image_raw": ("rgb_camera_link", "color", (1280, 720)),
    "/depth/image_raw": ("depth_camera_link", "depth", (640, 576)),
    "/depth_to_rgb/image_raw": ("rgb_camera_link", "depth", (1280, 720)),
    "/rgb_to_depth/image_raw": ("depth_camera_link", "color", (640, 576)),
    "/ir/image_raw": ("depth_camera_link", "depth", (640, 576)),
    "/rgb/camera_info": ("rgb_camera_link", "", (1280, 720)),
    "/depth/camera_info": ("depth_camera_link", "", (640, 576)),
    "/depth_to_rgb/camera_info": ("rgb_camera_link", "", (1280, 720)),
    "/ir/camera_info": ("depth_camera_link", "", (640, 576)),
}
ZED = {
    "/zed/zed_node/left/image_rect_color": ("zed_left_optical", "color", (1280, 720)),
    "/zed/zed_node/right/image_rect_color": ("zed_right_optical", "color", (1280, 720)),
    "/zed/zed_node/rgb/image_rect_color": ("zed_left_optical", "color", (1280, 720)),
    "/zed/zed_node/depth/depth_registered": ("zed_left_optical", "depth", (1280, 720)),
    "/zed/zed_node/confidence/confidence_map": ("zed_left_optical", "depth", (1280, 720)),
    "/zed/zed_node/rgb/camera_info": ("zed_left_optical", "", (1280, 720)),
    "/zed/zed_node/right/camera_info": ("zed_right_optical", "", (1280, 720)),
    "/zed/zed_node/depth/camera_info": ("zed_left_optical", "", (1280, 720)),
}
# an RGB-D camera in front, a colour camera behind that is first by every rule of names
REAR_BESIDE = {
    "/front/color/image_raw/compressed": ("front_optical", "color", (80, 60)),
    "/front/aligned_depth_to_color/image_raw": ("front_optical", "depth", (80, 60)),
    "/front/color/camera_info": ("front_optical", "", (80, 60)),
    "/back/color/image_raw": ("back_optical", "color", (80, 60)),
    "/back/color/camera_info": ("back_optical", "", (80, 60)),
}
TWO_CAMERAS = {
    f"/{side}/{name}": (f"{side}_optical", pixels, (80, 60))
    for side in ("front", "back")
    for name, pixels in (("color/image_raw", "color"), ("depth/image_raw", "depth"), ("color/camera_info", ""))
}


def choose(topics: dict[str, tuple], options: BagOptions | None = None) -> ImageTopics:
    looks = {topic: Look(*look) for topic, look in topics.items()}
    return choose_image_topics({topic: kind(topic) for topic in topics}, options or BagOptions(), looks)


def kind(topic: str) -> str:
    if topic.endswith("camera_info"):
        return CAMERA_INFO
    return COMPRESSED_IMAGE if "compressed" in topic else IMAGE


@pytest.mark.parametrize(
    ("topics", "color", "depth", "info"),
    [
        (REALSENSE, "/camera/color/image_raw", "/camera/aligned_depth_to_color/image_raw", "/camera/color/camera_info"),
        (OAK, "/oak/rgb/image_raw", "/oak/stereo/image_raw", "/oak/rgb/camera_info"),
        (AZURE, "/rgb/image_raw", "/depth_to_rgb/image_raw", "/rgb/camera_info"),
        (
            *(ZED, "/zed/zed_node/rgb/image_rect_color", "/zed/zed_node/depth/depth_registered"),
            "/zed/zed_node/rgb/camera_info",
        ),
        (
            *(REAR_BESIDE, "/front/color/image_raw/compressed", "/front/aligned_depth_to_color/image_raw"),
            "/front/color/camera_info",
        ),
    ],
)
def test_cameras_of_common_drivers(topics, color, depth, info):
    assert choose(topics) == ImageTopics(color, depth, info, "")
    assert choose(dict(reversed(topics.items()))) == ImageTopics(color, depth, info, "")


def test_two_whole_cameras_are_a_guess_that_is_said():
    chosen = choose(TWO_CAMERAS)
    assert (chosen.color, chosen.depth) == ("/back/color/image_raw", "/back/depth/image_raw")
    assert "/front/color/image_raw with /front/depth/image_raw" in chosen.doubt
    assert "--color-topic and --depth-topic" in chosen.doubt
    for told in (BagOptions(color="/front/color/image_raw"), BagOptions(depth="/front/depth/image_raw")):
        front = ImageTopics("/front/color/image_raw", "/front/depth/image_raw", "/front/color/camera_info")
        assert choose(TWO_CAMERAS, told) == front


def test_names_do_not_make_one_camera_the_likelier_one():
    rear = {topic.replace("/back", "/robot/back"): look for topic, look in TWO_CAMERAS.items()}
    assert "/front/color/image_raw with /front/depth/image_raw" in choose(rear).doubt


def test_grey_in_the_frame_of_depth_is_said():
    """Depth of a stereo camera that is not aligned to its colour camera."""
    topics = dict(OAK)
    topics["/oak/stereo/image_raw"] = ("oak_left_optical", "depth", (1280, 720))
    chosen = choose(topics)
    assert (chosen.color, chosen.camera_info) == ("/oak/left/image_raw", "/oak/left/camera_info")
    assert "grey" in chosen.doubt and "/oak/rgb/image_raw" in chosen.doubt


def test_depth_of_no_colour_camera_is_refused():
    """Depth of a sensor of its own, two colour cameras: either would be as good as the other."""
    topics = {
        "/tof/image_raw": ("tof", "depth", (80, 60)),
        "/left/image_raw": ("left", "color", (80, 60)),
        "/right/image_raw": ("right", "color", (80, 60)),
        "/left/camera_info": ("left", "", (80, 60)),
    }
    with pytest.raises(
        SequenceError, match="/left/image_raw with /tof/image_raw, /right/image_raw with /tof"
    ) as caught:
        choose(topics)
    assert "--color-topic" in str(caught.value)
    assert choose(topics, BagOptions(color="/right/image_raw")).color == "/right/image_raw"


def test_calibration_of_nobody_knows_which_camera_is_refused():
    topics = {
        "/image": ("", "color", (80, 60)),
        "/depth": ("", "depth", (80, 60)),
        "/a/camera_info": ("a", "", (80, 60)),
        "/b/camera_info": ("b", "", (80, 60)),
    }
    with pytest.raises(SequenceError, match=r"several of /a/camera_info, /b/camera_info; --info-topic"):
        choose(topics)
    topics["/image"] = ("b", "color", (80, 60))
    assert choose(topics).camera_info == "/b/camera_info"


def test_pixels_count_more_than_names():
    topics = {
        "/camera/depth/colored": ("camera", "color", (80, 60)),  # depth painted for people
        "/camera/depth/image/compressed": ("camera", "color", (80, 60)),  # JPEG of it
        "/camera/range": ("camera", "depth", (80, 60)),
        "/camera/image": ("camera", "color", (80, 60)),
        "/camera/camera_info": ("camera", "", (80, 60)),
    }
    chosen = choose(topics)
    assert (chosen.color, chosen.depth) == ("/camera/image", "/camera/range")


@pytest.mark.parametrize(
    ("topics", "expected"),
    [
        # realsense2_camera
        (
            [
                "/camera/color/image_raw",
                "/camera/color/image_raw/compressed",
                "/camera/depth/image_rect_raw",
                "/camera/aligned_depth_to_color/image_raw",
                "/camera/infra1/image_rect_raw",
                "/camera/color/camera_info",
                "/camera/depth/camera_info",
                "/camera/aligned_depth_to_color/camera_info",
            ],
            (
                "/camera/color/image_raw",
                "/camera/aligned_depth_to_color/image_raw",
                "/camera/color/camera_info",
            ),
        ),
        # openni_launch, as in the TUM bags
        (
            [
                "/camera/rgb/image_color",
                "/camera/depth_registered/image",
                "/camera/depth/image",
                "/camera/rgb/camera_info",
                "/camera/depth/camera_info",
            ],
            ("/camera/rgb/image_color", "/camera/depth_registered/image", "/camera/rgb/camera_info"),
        ),
        # zed_wrapper
        (
            [
                "/zed/zed_node/rgb/image_rect_color/compressed",
                "/zed/zed_node/depth/depth_registered/compressedDepth",
                "/zed/zed_node/depth/depth_registered/compressed",
                "/zed/zed_node/confidence/confidence_map",
                "/zed/zed_node/rgb/camera_info",
                "/zed/zed_node/depth/camera_info",
            ],
            (
                "/zed/zed_node/rgb/image_rect_color/compressed",
                "/zed/zed_node/depth/depth_registered/compressedDepth",
                "/zed/zed_node/rgb/camera_info",
            ),
        ),
        # a simulator with labels beside the colours
        (
            ["/image", "/labels/image", "/depth", "/camera_info"],
            ("/image", "/depth", "/camera_info"),
        ),
    ],
)
def test_names_alone(topics, expected):
    chosen = choose_image_topics({topic: kind(topic) for topic in topics}, BagOptions())
    assert (chosen.color, chosen.depth, chosen.camera_info) == expected


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("/camera/color/image_rect", True),
        ("/camera/color/image_rect/compressed", True),
        ("/zed/zed_node/rgb/image_rect_color", True),
        ("/camera/Rectified/image", True),
        ("rect", True),
        ("/direct_drive/camera/image_raw", False),
        ("/camera/color/image_raw", False),
        ("/correction/image_unrectified", False),
    ],
)
def test_which_names_say_rectified(topic, expected):
    assert is_rectified(topic) is expected
