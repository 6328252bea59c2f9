"""Pictures to look at: a mapped recording in colour, by predicted label, and by the true one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chorus_core.frames import RgbdFrame
from chorus_core.gaussians import Gaussians
from chorus_core.rendering import View
from chorus_core.semantics.labelled_map import LabelledMap
from chorus_core.semantics.vocabulary import Vocabulary
from chorus_core.visualize import Painter, overview, save_picture, with_legend, with_title
from training.evaluation.surface import LabelledSurface, carry_labels

_UNKNOWN = (0.25, 0.25, 0.25)


def draw_recording(
    folder: Path, labelled: LabelledMap, surface: LabelledSurface | None, frames: Sequence[RgbdFrame], reach: float
) -> list[Path]:
    """Write ``overview.png`` and ``view_<k>.png`` of some frames; returns their paths.

    Args:
        surface: for the pictures of true labels; None leaves these out.
        reach: metres from a Gaussian to the surface at most.
    """
    names = dict.fromkeys((*(surface.labels if surface else ()), *labelled.vocabulary.labels))
    palette = Vocabulary(tuple(names))
    to_palette = np.array([palette.labels.index(label) for label in labelled.vocabulary.labels])
    predicted = labelled.labels.cpu().numpy()
    predicted = np.where(predicted >= 0, to_palette[predicted], -1)
    layers = {"map": labelled.gaussians.colors, "predicted": _paint(palette, predicted)}
    shown = [predicted]
    if surface is not None:
        true = carry_labels(surface.points, surface.label, labelled.gaussians.means.cpu().numpy(), reach)
        layers["ground truth"] = _paint(palette, true)
        shown.append(true)
    legend = _legend(palette, np.concatenate(shown))

    view, mask = overview(labelled.gaussians)
    panels = _panels(Painter(labelled.gaussians[mask], view), {name: v[mask] for name, v in layers.items()})
    paths = [folder / "overview.png"]
    save_picture(paths[0], with_legend(np.concatenate(panels, axis=1), legend, columns=10))
    for k, frame in enumerate(frames):
        painter = Painter(labelled.gaussians, View(frame.intrinsics, frame.world_from_camera))
        panels = [with_title(frame.color, "camera"), *_panels(painter, layers)]
        grid = [np.concatenate(panels[i : i + 2], axis=1) for i in range(0, len(panels) - len(panels) % 2, 2)]
        paths.append(folder / f"view_{k}.png")
        save_picture(paths[-1], with_legend(np.concatenate(grid, axis=0), legend, columns=4))
    return paths


def draw_labels(path: Path, gaussians: Gaussians, labellings: Mapping[str, np.ndarray], vocabulary: Vocabulary) -> None:
    """Labellings [N] of the same Gaussians (places in the vocabulary, -1 = none) side by side, seen from above."""
    view, mask = overview(gaussians)
    layers = {title: _paint(vocabulary, labels[mask.cpu().numpy()]) for title, labels in labellings.items()}
    picture = np.concatenate(_panels(Painter(gaussians[mask], view), layers), axis=1)
    save_picture(path, with_legend(picture, _legend(vocabulary, np.concatenate(list(labellings.values()))), columns=10))


def _panels(painter: Painter, layers: dict[str, Tensor]) -> list[np.ndarray]:
    return [with_title(painter.paint(values), name) for name, values in layers.items()]


def _paint(palette: Vocabulary, labels: np.ndarray) -> Tensor:
    """Colours in [0, 1] [N, 3] of places in the palette [N]; grey where negative."""
    colors = np.concatenate([palette.colors / 255.0, [_UNKNOWN]]).astype(np.float32)
    return torch.from_numpy(colors[labels])


def _legend(palette: Vocabulary, labels: np.ndarray, most: int = 40) -> list[tuple[str, np.ndarray]]:
    """Names and colours of the labels that occur, the most frequent first."""
    counts = np.bincount(labels[labels >= 0], minlength=len(palette))
    order = [i for i in np.argsort(-counts, kind="stable")[:most] if counts[i]]
    return [(palette.labels[i], palette.colors[i]) for i in order]
