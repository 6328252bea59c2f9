"""The launch file as far as it can be checked without the launch packages: everything it names exists."""

from __future__ import annotations

import ast
import importlib.util
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml

from chorus_ros.node_config import TopicsConfig
from chorus_ros.parameters import known_options


@pytest.fixture(scope="module")
def tree(repository: Path) -> ast.Module:
    path = repository / "launch" / "perception.launch.py"
    source = path.read_text(encoding="utf-8")
    compile(source, str(path), "exec")
    return ast.parse(source)


def calls(tree: ast.AST, name: str) -> list[ast.Call]:
    return [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == name]


def keywords(call: ast.Call) -> dict[str, ast.expr]:
    return {k.arg: k.value for k in call.keywords if k.arg}


def declared(tree: ast.Module) -> dict[str, ast.Call]:
    return {call.args[0].value: call for call in calls(tree, "DeclareLaunchArgument")}


def console_scripts(repository: Path) -> dict[str, str]:
    text = (repository / "setup.py").read_text(encoding="utf-8")
    return dict(re.findall(r'"(\w+) = ([\w.]+:\w+)"', text))


def test_defines_the_entry_point(tree: ast.Module) -> None:
    assert "generate_launch_description" in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}


def test_only_names_that_launch_has(tree: ast.Module) -> None:
    """Names and modules as documented for Humble to Rolling."""
    public = {
        "launch": {"LaunchDescription"},
        "launch.actions": {"DeclareLaunchArgument"},
        "launch.conditions": {"IfCondition"},
        "launch.substitutions": {"LaunchConfiguration", "PathJoinSubstitution", "PythonExpression"},
        "launch_ros.actions": {"Node"},
        "launch_ros.parameter_descriptions": {"ParameterValue"},
        "launch_ros.substitutions": {"FindPackageShare"},
    }
    imported = {n.module: {a.name for a in n.names} for n in tree.body if isinstance(n, ast.ImportFrom)}
    assert imported.keys() <= public.keys()
    for module, names in imported.items():
        assert names <= public[module]


def test_every_argument_is_described_and_used(tree: ast.Module) -> None:
    arguments = declared(tree)
    assert {"params_file", "use_sim_time", "rviz", "fixed_frame", "bag", "namespace"} <= set(arguments)
    for name, call in arguments.items():
        assert {"default_value", "description"} <= set(keywords(call)), name
    used = {call.args[0].value for call in calls(tree, "LaunchConfiguration")}
    assert used == set(arguments)


def test_executables_exist(tree: ast.Module, repository: Path) -> None:
    scripts = console_scripts(repository)
    nodes = {(k["package"].value, k["executable"].value) for k in map(keywords, calls(tree, "Node"))}
    assert nodes == {("chorus_ros", "perception_node"), ("chorus_ros", "player_node"), ("rviz2", "rviz2")}
    for name in ("perception_node", "player_node", "chorus"):
        module, function = scripts[name].split(":")
        path = repository / Path(*module.split(".")).with_suffix(".py")
        names = {n.name for n in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(n, ast.FunctionDef)}
        assert function in names


def test_files_exist(tree: ast.Module, repository: Path) -> None:
    named = [
        [part.value for part in call.args[0].elts if isinstance(part, ast.Constant)]
        for call in calls(tree, "PathJoinSubstitution")
    ]
    assert ["config", "perception.yaml"] in named
    for parts in named:
        assert repository.joinpath(*parts).is_file()


def test_packages_are_dependencies(repository: Path, tree: ast.Module) -> None:
    root = ElementTree.parse(repository / "package.xml").getroot()
    depends = {e.text for e in root if e.tag.endswith("depend")}
    assert {"launch", "launch_ros", "rviz2", "sensor_msgs_py", "chorus_msgs"} <= depends
    assert {"ros2bag", "rosbag2_storage_mcap"} <= depends  # to play the shipped recording
    assert root.findtext("name") == "chorus_ros"


def test_remapped_topics_are_the_defaults(tree: ast.Module) -> None:
    """The left side of each remapping is a name that the node subscribes to by default."""
    defaults = TopicsConfig()
    subscribed = {defaults.color, defaults.depth, defaults.info, defaults.odometry, defaults.pose}
    subscribed |= {f"{defaults.color}/compressed", f"{defaults.depth}/compressed", f"{defaults.depth}/compressedDepth"}
    (assignment,) = [
        n for n in ast.walk(tree) if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "inputs"
    ]
    assert {pair.elts[0].value for pair in assignment.value.elts} == subscribed
    topics = {name: keywords(call)["default_value"].value for name, call in declared(tree).items() if "topic" in name}
    assert set(topics.values()) <= subscribed


def test_parameters_exist(tree: ast.Module) -> None:
    known = {*known_options(), "use_sim_time"}
    for node in map(keywords, calls(tree, "Node")):
        for part in node["parameters"].elts if "parameters" in node else ():
            if isinstance(part, ast.Dict):
                assert {key.value for key in part.keys} <= known


@pytest.mark.parametrize(("bag", "plays"), [("", False), ("/data/it's a bag", True), ('/data/"a" house', True)])
def test_player_starts_where_a_recording_is_named(tree: ast.Module, bag: str, plays: bool) -> None:
    """What PythonExpression evaluates: the text with the argument put in."""
    (call,) = [c for c in calls(tree, "PythonExpression") if "bag" in ast.unparse(c)]
    parts = [part.value if isinstance(part, ast.Constant) else bag for part in call.args[0].elts]
    assert eval("".join(parts), {}, {}) is plays


@pytest.mark.parametrize(("topic", "recorded"), [("camera/image", "/camera/image"), ("/front/image", "/front/image")])
def test_recorded_topics_go_where_the_node_listens(tree: ast.Module, topic: str, recorded: str) -> None:
    """The rules of the player: from the root to the name that the node resolves in its namespace."""
    (play,) = [k for k in map(keywords, calls(tree, "Node")) if k["executable"].value == "player_node"]
    rules = play["remappings"]
    assert isinstance(rules, ast.ListComp)
    assert ast.unparse(rules.generators[0].iter) == "inputs"
    left, right = rules.elt.elts
    parts = [part.value if isinstance(part, ast.Constant) else topic for part in left.args[0].elts]
    assert eval("".join(parts), {}, {}) == recorded
    assert ast.unparse(right) == "topic"


@pytest.mark.parametrize("argument", ["use_sim_time", "rviz"])
def test_booleans_may_be_written_as_in_python(tree: ast.Module, argument: str) -> None:
    choices = ast.literal_eval(keywords(declared(tree)[argument])["choices"])
    assert {"true", "false", "True", "False"} == set(choices)
    assert all(isinstance(yaml.safe_load(choice), bool) for choice in choices)  # what ParameterValue makes of them


def rviz_manager(repository: Path) -> dict:
    config = yaml.safe_load((repository / "rviz" / "perception.rviz").read_text(encoding="utf-8"))
    return config["Visualization Manager"]


def rviz_topics(repository: Path) -> set[str]:
    return {d["Topic"]["Value"] for d in rviz_manager(repository)["Displays"] if "Topic" in d}


def test_rviz_follows_the_arguments(tree: ast.Module, repository: Path) -> None:
    """Camera topics are remapped as the node's are; the fixed frame is an argument whose default is the layout's."""
    (rviz,) = [k for k in map(keywords, calls(tree, "Node")) if k["package"].value == "rviz2"]
    remapped = {pair.elts[0].value for pair in rviz["remappings"].elts}
    assert {t for t in rviz_topics(repository) if t.startswith("camera/")} == remapped
    default = keywords(declared(tree)["fixed_frame"])["default_value"].value
    assert default == rviz_manager(repository)["Global Options"]["Fixed Frame"]
    used = [call.args[0].value for part in rviz["arguments"].elts for call in calls(part, "LaunchConfiguration")]
    assert used == ["fixed_frame"]


def test_rviz_shows_topics_of_the_node(repository: Path) -> None:
    topics = rviz_topics(repository)
    assert {"chorus/semantic_cloud", "chorus/query_cloud", "chorus/objects"} <= topics
    source = (repository / "chorus_ros" / "map_publisher.py").read_text(encoding="utf-8")
    for topic in topics:
        namespace, _, name = topic.partition("/")
        assert namespace == "camera" or f'"{name}"' in source


@pytest.mark.skipif(importlib.util.find_spec("launch_ros") is None, reason="needs the launch packages of a ROS install")
def test_launch_accepts_it(repository: Path) -> None:
    spec = importlib.util.spec_from_file_location("perception_launch", repository / "launch" / "perception.launch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert len(module.generate_launch_description().entities) > 10
