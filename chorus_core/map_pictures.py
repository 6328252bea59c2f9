"""Pictures of a map: in colour, by label, by principal components and by relevancy to each query."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from chorus_core.semantics.labelled_map import LabelledMap
from chorus_core.semantics.text_side import TextSide
from chorus_core.visualize import (
    Painter,
    heat_colors,
    overview,
    principal_colors,
    save_picture,
    with_legend,
    with_title,
)


def draw_map(labelled: LabelledMap, text: TextSide, queries: Sequence[str], out: Path) -> list[Path]:
    """Draw a map from above: ``map_color.png``, ``map_labels.png``, ``map_pca.png``, ``query_<text>.png`` each.

    Returns:
        The pictures written.
    """
    view, shown = overview(labelled.gaussians)
    colors = labelled.gaussians.colors[shown]
    painter = Painter(labelled.gaussians[shown], view)
    pictures = {
        "map_color": with_title(painter.paint(colors), f"{len(labelled)} Gaussians"),
        "map_labels": _label_picture(painter, labelled, shown),
        "map_pca": with_title(
            painter.paint(principal_colors(labelled.features[shown])), "features, first three components"
        ),
    }
    for text_query in tqdm(queries, desc="pictures", disable=None):
        scores = text.relevancy(labelled.features, text_query) * (labelled.labels >= 0)
        heat = heat_colors(scores[shown], colors, text.threshold)
        name = re.sub(r"[^a-z0-9]+", "_", text_query.lower()).strip("_")[:40] or "query"
        pictures[f"query_{name}"] = with_title(painter.paint(heat), f'"{text_query}"')
    paths = []
    for name, picture in pictures.items():
        paths.append(out / f"{name}.png")
        save_picture(paths[-1], picture)
    return paths


def _label_picture(painter: Painter, labelled: LabelledMap, shown: torch.Tensor) -> np.ndarray:
    palette = np.vstack([labelled.vocabulary.colors, np.full((1, 3), 90, np.uint8)])
    labels = labelled.labels[shown]
    picture = painter.paint(torch.from_numpy(palette)[labels] / 255.0)
    counts = torch.bincount(labels[labels >= 0], minlength=len(labelled.vocabulary))
    common = [int(i) for i in counts.argsort(descending=True)[:24] if counts[i] > 0]
    return with_legend(picture, [(labelled.vocabulary.labels[i], palette[i]) for i in common])
