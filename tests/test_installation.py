"""What the installation rests on: requirements, constraints and the Makefile's environment."""

from __future__ import annotations

import email
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chorus_core import extras

packaging_requirements = pytest.importorskip("packaging.requirements")


def requirements(path: Path) -> dict[str, list]:
    """Requirements of one file by name; comments and nested files are left out."""
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in path.read_text(encoding="utf-8").splitlines())
    found: dict[str, list] = {}
    for line in lines:
        if line and not line.startswith("-"):
            requirement = packaging_requirements.Requirement(line)
            found.setdefault(requirement.name, []).append(requirement)
    return found


RUNTIME = "requirements.txt"
EXTRAS = ("requirements-release.txt", "requirements-render.txt", "requirements-training.txt")
PLATFORMS = [
    {
        "platform_machine": machine,
        "python_version": python,
        "python_full_version": f"{python}.5",
        "sys_platform": "linux",
    }
    for machine in ("x86_64", "aarch64")
    for python in ("3.10", "3.11", "3.12", "3.13")
]


def applies(requirement, environment: dict[str, str]) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(environment)


@pytest.mark.parametrize(
    ("machine", "python", "expected"),
    [
        ("x86_64", "3.10", ["spconv-cu120"]),
        ("x86_64", "3.12", ["spconv-cu126"]),
        ("x86_64", "3.14", []),
        ("aarch64", "3.10", []),
        ("aarch64", "3.12", []),
    ],
)
def test_spconv_is_asked_for_where_it_has_wheels(
    repository: Path, machine: str, python: str, expected: list[str]
) -> None:
    environment = {"platform_machine": machine, "python_version": python}
    wanted = requirements(repository / "requirements-training.txt")
    assert expected == [
        name
        for name, parts in wanted.items()
        if name.startswith("spconv") and any(part.marker.evaluate(environment) for part in parts)
    ]


def test_constraints_beside_ros(repository: Path) -> None:
    """numpy 1, and nothing that the requirements exclude or do not know."""
    constraints = requirements(repository / "constraints-ros.txt")
    (numpy,) = constraints["numpy"]
    assert numpy.specifier.contains("1.26.4")
    assert not numpy.specifier.contains("2.0.0")
    wanted = requirements(repository / RUNTIME) | requirements(repository / "requirements-dev.txt")
    assert constraints.keys() <= wanted.keys()
    (cv2,), (cv2_wanted,) = constraints["opencv-python-headless"], wanted["opencv-python-headless"]
    both = cv2.specifier & cv2_wanted.specifier
    assert [v for v in ("4.9.0.80", "4.10.0.84", "4.11.0.86", "4.12.0.88") if v in both] == ["4.9.0.80"]


@pytest.mark.parametrize("environment", PLATFORMS, ids=lambda e: f"{e['platform_machine']}-{e['python_version']}")
def test_lock_holds_one_version_of_all_that_is_asked_for(repository: Path, environment: dict[str, str]) -> None:
    locked = {
        name.lower().replace("_", "-"): [part for part in parts if applies(part, environment)]
        for name, parts in requirements(repository / "requirements.lock").items()
    }
    for file in (RUNTIME, *EXTRAS, "requirements-ros.txt", "requirements-dev.txt"):
        for name, parts in requirements(repository / file).items():
            for wanted in (part for part in parts if applies(part, environment)):
                (pin,) = locked[name.lower().replace("_", "-")]
                version = str(pin.specifier).removeprefix("==")
                assert wanted.specifier.contains(version), f"{wanted} but {pin}: make lock"


def test_metadata_of_the_installed_package(repository: Path, tmp_path: Path) -> None:
    """What `pip install .` asks for: the runtime, and each extra by its name."""
    for file in ("setup.py", "pyproject.toml", "LICENSE", RUNTIME, *EXTRAS):
        shutil.copy(repository / file, tmp_path)
    build = "from setuptools import build_meta; print(build_meta.prepare_metadata_for_build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    metadata = email.message_from_string((tmp_path / done.stdout.split()[-1] / "METADATA").read_text(encoding="utf-8"))
    asked = [packaging_requirements.Requirement(line) for line in metadata.get_all("Requires-Dist")]

    def names(extra: str) -> set[str]:
        environment = PLATFORMS[0] | {"extra": extra}
        return {part.name for part in asked if applies(part, environment)}

    assert names("") == set(requirements(repository / RUNTIME))
    assert names("") & {"spconv-cu120", "spconv-cu126", "gsplat", "transforms3d", "open_clip_torch"} == set()
    assert names("release") - names("") == {"open_clip_torch", "torchvision"}
    assert names("render") - names("") == {"gsplat"}
    assert {"spconv-cu120", "transforms3d", "gsplat", "open_clip_torch"} <= names("training")


def test_library_and_nodes_do_without_the_extras(repository: Path) -> None:
    """No module of an extra is imported by what a robot runs."""
    script = """
import importlib.util, sys
for module in ("spconv", "gsplat", "transforms3d", "open_clip", "torchvision", "timm", "ray", "matplotlib", "trimesh"):
    sys.modules[module] = None
import chorus_core.command_line, chorus_core.pipeline, chorus_core.rendering
if importlib.util.find_spec("rclpy"):
    import chorus_ros.running, chorus_ros.player
from chorus_core.semantics.text_encoder import load_text_encoder
try:
    load_text_encoder("open_clip:ViT-B-32:openai")
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pip install -r requirements-release.txt" in done.stdout


def test_extras_are_named_where_their_modules_are_missing(repository: Path) -> None:
    distributions = importlib.metadata.packages_distributions()
    for file, modules in extras._EXTRAS.items():
        brought = {name.lower().replace("_", "-") for name in requirements(repository / file)}
        for module in modules:
            if module in distributions:
                assert brought & {name.lower().replace("_", "-") for name in distributions[module]}, module
            assert extras.how_to_install(module) == f"pip install -r {file}"
    assert extras.how_to_install("transformers") == "pip install transformers"


def test_a_missing_package_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    extras.available.cache_clear()
    assert not extras.available("no_such_module", "plain torch")
    assert not extras.available("no_such_module", "plain torch")
    assert [record.message for record in caplog.records] == [
        "no_such_module is not installed (pip install no_such_module): plain torch"
    ]
    assert extras.available("torch", "nothing")


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_leaves_a_sourced_ros_behind(repository: Path) -> None:
    """Recipes see the environment's packages only; a shell without ROS keeps its variables."""
    names = ("AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH", "COLCON_PREFIX_PATH", "LD_LIBRARY_PATH", "PYTHONPATH")
    variables = dict.fromkeys(names, "/nowhere")

    def recipe_environment(environment: dict[str, str]) -> str:
        command = ["make", "--no-print-directory", "--eval", "show: ; @env", "show"]
        base = {name: value for name, value in os.environ.items() if name not in variables}
        done = subprocess.run(command, cwd=repository, env=base | environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "/nowhere" not in recipe_environment(variables)
    assert "PYTHONPATH=/nowhere" in recipe_environment({"PYTHONPATH": "/nowhere"})
