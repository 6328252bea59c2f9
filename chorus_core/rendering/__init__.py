"""Rendering of Gaussians: one interface, two engines."""

from chorus_core.rendering.camera import View
from chorus_core.rendering.render import Rendering, render
from chorus_core.rendering.torch_engine import Contributions, contributions

__all__ = ["Contributions", "Rendering", "View", "contributions", "render"]
