"""Optional packages: whether they are there, and which file of requirements brings them."""

from __future__ import annotations

import functools
import importlib.util
import logging

_EXTRAS = {
    "requirements-release.txt": ("open_clip", "torchvision"),
    "requirements-render.txt": ("gsplat",),
    "requirements-training.txt": ("spconv", "timm", "transforms3d", "ray", "tensorboard", "matplotlib", "trimesh"),
}
_log = logging.getLogger(__name__)


def how_to_install(module: str) -> str:
    """The command that brings a module: a package of an extra with its file of requirements, any other by its name."""
    for requirements, modules in _EXTRAS.items():
        if module in modules:
            return f"pip install -r {requirements}"
    return f"pip install {module}"


@functools.cache
def available(module: str, instead: str) -> bool:
    """Whether a module is installed. Where it is not, one warning in a process says what runs in its place."""
    found = importlib.util.find_spec(module) is not None
    if not found:
        _log.warning("%s is not installed (%s): %s", module, how_to_install(module), instead)
    return found
