"""Simple colour names, and the colour changes instances are given."""

from __future__ import annotations

import colorsys

import numpy as np

COLOR_NAMES = (
    "black", "grey", "white", "red", "orange", "brown", "beige", "yellow", "green", "turquoise", "blue", "purple",
    "pink",
)  # fmt: skip

_HUES = ((15, "red"), (42, "orange"), (68, "yellow"), (160, "green"), (195, "turquoise"), (255, "blue"),
         (290, "purple"), (335, "pink"), (361, "red"))  # fmt: skip


def color_name(rgb: np.ndarray) -> str:
    """The everyday name of one sRGB colour in [0, 255], by hue, saturation and value."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(float(c) / 255.0 for c in rgb))
    if value < 0.2:
        return "black"
    if saturation < 0.14:
        return "white" if value > 0.78 else "grey"
    name = next(n for limit, n in _HUES if hue * 360.0 < limit)
    if name in ("red", "orange", "yellow") and saturation < 0.45:
        return "beige" if value > 0.62 else "brown"
    if name in ("orange", "yellow") and value < 0.68:
        return "brown"
    if name == "red" and (value < 0.45 and hue * 360.0 > 5):
        return "brown"
    return name


def dominant_color(samples: np.ndarray) -> str:
    """The most frequent colour name among sRGB samples uint8 [N, 3]."""
    names, counts = np.unique([color_name(s) for s in samples], return_counts=True)
    return str(names[counts.argmax()])


def color_jitter(rng: np.random.Generator, hue: float = 0.0, saturation: float = 0.0, value: float = 0.0) -> np.ndarray:
    """A random 3x3 matrix on linear RGB: hue turned by up to ``hue`` radians, saturation and value scaled.

    Luma is kept by the hue turn (YIQ rotation), so a change of hue does not read as a change of light.
    """
    angle = rng.uniform(-hue, hue)
    s = 1.0 + rng.uniform(-saturation, saturation)
    rgb_to_yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    c, n = np.cos(angle) * s, np.sin(angle) * s
    turn = np.array([[1.0, 0.0, 0.0], [0.0, c, -n], [0.0, n, c]])
    return (np.linalg.inv(rgb_to_yiq) @ turn @ rgb_to_yiq * np.exp(rng.uniform(-value, value))).astype(np.float32)
