"""What the installation rests on: requirements, constraints and the Makefile's environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

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
    wanted = requirements(repository / "requirements.txt")
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
    wanted = requirements(repository / "requirements.txt") | requirements(repository / "requirements-dev.txt")
    assert constraints.keys() <= wanted.keys()


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
