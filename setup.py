"""The ament_python package ``chorus_ros``: the nodes and, in the same installation, the library ``chorus_core``.

What it requires is in ``requirements*.txt``, which pyproject.toml reads.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "chorus_ros"
ROOT = Path(__file__).resolve().parent
DATA_SUFFIXES = {".typed", ".safetensors", ".json", ".md", ".yaml", ".yml", ".txt", ".npz", ".npy", ".csv", ".tsv"}


def package_data(package: str) -> list[str]:
    """Data files of a package and its folders; spelled out because setuptools knows ``**`` only since 62."""
    folder = ROOT / package
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.suffix in DATA_SUFFIXES)


def shared_files(folder: str, pattern: str) -> tuple[str, list[str]]:
    """One folder of the checkout as a folder of ``share/chorus_ros``."""
    files = sorted(str(p.relative_to(ROOT)) for p in (ROOT / folder).glob(pattern))
    return f"share/{PACKAGE}/{folder}", files


setup(
    name=PACKAGE,
    version="0.1.0",
    description="Semantic mapping with 3D Gaussians and a Chorus encoder, for ROS 2",
    license="Apache-2.0",
    maintainer="chorus_ros maintainers",
    maintainer_email="maintainers@example.org",
    packages=find_packages(include=["chorus_ros", "chorus_ros.*", "chorus_core", "chorus_core.*"]),
    package_data={name: package_data(name) for name in ("chorus_core", "chorus_ros")},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        shared_files("launch", "*.launch.py"),
        shared_files("config", "*.yaml"),
        shared_files("rviz", "*.rviz"),
    ],
    python_requires=">=3.10",
    zip_safe=False,
    entry_points={
        "console_scripts": [
            "perception_node = chorus_ros.perception_node:main",
            "player_node = chorus_ros.player_node:main",
            "chorus = chorus_core.__main__:program",
        ]
    },
)
