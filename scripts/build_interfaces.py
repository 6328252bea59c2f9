"""Build ROS interface packages with CMake and install them into the virtual environment that runs this script.

The environment is the ROS prefix when ROS comes from wheels. ``msg/`` is always built; ``tf2_msgs``, which the registry
lacks, only where nothing provides it.

    .venv/bin/python scripts/build_interfaces.py
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
HOOK = REPOSITORY / "scripts" / "wheel_targets.cmake"


def build(source: Path, name: str) -> None:
    """Configure, build and install one interface package; the build folder lies inside the environment."""
    prefix = Path(sys.prefix)
    binary = prefix / "build" / name
    scripts = sysconfig.get_path("scripts")
    environment = os.environ | {"PATH": os.pathsep.join((scripts, os.environ.get("PATH", "")))}
    # A package found through the caller's ROS would not match the wheels.
    for variable in ("AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH", "PYTHONPATH"):
        environment.pop(variable, None)
    configure = [
        "cmake",
        "--fresh",
        f"-S{source}",
        f"-B{binary}",
        "-DCMAKE_BUILD_TYPE=Release",
        f"-DCMAKE_PREFIX_PATH={prefix}",
        f"-DCMAKE_INSTALL_PREFIX={prefix}",
        f"-DPython3_EXECUTABLE={sys.executable}",
        f"-DCMAKE_PROJECT_INCLUDE={HOOK}",
        "-DBUILD_TESTING=OFF",
        "-Wno-dev",
    ]
    steps = (
        configure,
        ["cmake", "--build", str(binary), "--parallel", str(os.cpu_count() or 1)],
        ["cmake", "--install", str(binary)],
    )
    for step in steps:
        done = subprocess.run(step, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            sys.exit(f"{done.stdout}\n{' '.join(step)}\nfailed: the interface package {name} was not built")
    sys.stderr.write(f"built and installed {name}\n")


def main() -> None:
    if sys.prefix == sys.base_prefix:
        sys.exit("run this with the Python of a virtual environment: the interfaces are installed into it")
    if importlib.util.find_spec("tf2_msgs") is None:
        build(REPOSITORY / "scripts" / "interfaces" / "tf2_msgs", "tf2_msgs")
    build(REPOSITORY / "msg", "chorus_msgs")


if __name__ == "__main__":
    main()
