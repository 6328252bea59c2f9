"""The perception node, and, where asked for, RViz and a recording to play.

ros2 launch chorus_ros perception.launch.py
ros2 launch chorus_ros perception.launch.py bag:=/path/to/bag use_sim_time:=true rviz:=true fixed_frame:=odom
ros2 launch chorus_ros perception.launch.py namespace:=robot1 color_topic:=/front/color/image_raw \
    depth_topic:=/front/depth/image_raw info_topic:=/front/color/camera_info
"""
# ruff: noqa: I001 - ruff takes the package `launch` for this folder

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution, PythonExpression
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare


def generate_launch_description() -> LaunchDescription:
    share = FindPackageShare("chorus_ros")
    params_file = LaunchConfiguration("params_file")
    use_sim_time = LaunchConfiguration("use_sim_time")
    namespace = LaunchConfiguration("namespace")
    bag = LaunchConfiguration("bag")

    arguments = [
        DeclareLaunchArgument(
            "params_file",
            default_value=PathJoinSubstitution([share, "config", "perception.yaml"]),
            description="YAML file with the node's parameters",
        ),
        DeclareLaunchArgument(
            "use_sim_time",
            default_value="false",
            choices=["true", "false", "True", "False"],
            description="take time from /clock: for simulation and for bags",
        ),
        DeclareLaunchArgument("namespace", default_value="", description="namespace of the node and its topics"),
        DeclareLaunchArgument(
            "bag", default_value="", description="recording to play, with /clock, once the node listens; empty: none"
        ),
        DeclareLaunchArgument(
            "rviz",
            default_value="false",
            choices=["true", "false", "True", "False"],
            description="show the results in RViz",
        ),
        DeclareLaunchArgument(
            "fixed_frame", default_value="map", description="fixed frame of RViz: the frame of the map, frames.map"
        ),
        DeclareLaunchArgument(
            "log_level",
            default_value="info",
            choices=["debug", "info", "warn", "error", "fatal"],
            description="least severity that the node logs",
        ),
        DeclareLaunchArgument(
            "color_topic", default_value="camera/color/image_raw", description="colour images (without transport)"
        ),
        DeclareLaunchArgument(
            "depth_topic",
            default_value="camera/depth/image_raw",
            description="depth images registered to colour (without transport)",
        ),
        DeclareLaunchArgument(
            "info_topic", default_value="camera/color/camera_info", description="calibration of the images"
        ),
        DeclareLaunchArgument("odometry_topic", default_value="odom", description="read with frames.source = odometry"),
        DeclareLaunchArgument("pose_topic", default_value="camera/pose", description="read with frames.source = pose"),
    ]

    # The left sides are the defaults of the parameters topics.*: a parameter file that names other topics wins.
    color, depth = LaunchConfiguration("color_topic"), LaunchConfiguration("depth_topic")
    inputs = [
        ("camera/color/image_raw", [color]),
        ("camera/color/image_raw/compressed", [color, "/compressed"]),
        ("camera/depth/image_raw", [depth]),
        ("camera/depth/image_raw/compressed", [depth, "/compressed"]),
        ("camera/depth/image_raw/compressedDepth", [depth, "/compressedDepth"]),
        ("camera/color/camera_info", [LaunchConfiguration("info_topic")]),
        ("odom", [LaunchConfiguration("odometry_topic")]),
        ("camera/pose", [LaunchConfiguration("pose_topic")]),
    ]
    perception = Node(
        package="chorus_ros",
        executable="perception_node",
        name="perception_node",
        namespace=namespace,
        output="screen",
        parameters=[params_file, {"use_sim_time": ParameterValue(use_sim_time, value_type=bool)}],
        remappings=inputs,
        arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
        sigterm_timeout="30",  # seconds after Ctrl-C: an encode under way is finished first
    )
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        name="rviz2",
        namespace=namespace,
        arguments=[
            *("-d", PathJoinSubstitution([share, "rviz", "perception.rviz"])),
            *("-f", LaunchConfiguration("fixed_frame")),
        ],
        remappings=[
            ("camera/color/image_raw", color),
            ("camera/color/image_raw/compressed", [color, "/compressed"]),
        ],
        parameters=[{"use_sim_time": ParameterValue(use_sim_time, value_type=bool)}],
        condition=IfCondition(LaunchConfiguration("rviz")),
    )
    # Unlike `ros2 bag play`, this waits until somebody listens: the node takes seconds to load its models.
    play = Node(
        package="chorus_ros",
        executable="player_node",
        name="player_node",
        namespace=namespace,
        output="screen",
        arguments=[bag, "--clock", "--wait", "120"],
        # A recording has its topics at the root; where the node runs in a namespace it listens below that. So what is
        # recorded as /NAME is played as NAME, from there on as the node resolves it; absolute names stay as they are.
        remappings=[(PythonExpression(['"/" + r"""', *topic, '""".lstrip("/")']), topic) for _, topic in inputs],
        # NotEqualsSubstitution is younger than Humble.
        condition=IfCondition(PythonExpression(['r"""', bag, '""" != ""'])),
    )
    return LaunchDescription([*arguments, perception, rviz, play])
