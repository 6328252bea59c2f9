"""Rendering of Gaussians: one interface, two engines."""

from chorus_core.rendering.camera import View
from chorus_core.rendering.compositing import Contributions
from chorus_core.rendering.render import Rendering, contributions, render

__all__ = ["Contributions", "Rendering", "View", "contributions", "render"]
