"""A 2D teacher on real photographs with outlines of COCO's things: does it tell them apart, and by their names?

Outlines are text files beside the photographs, as detectors' data sets have them: a line a thing,
``class x1 y1 x2 y2 ...``, the class 0 to 79 in COCO's order, the polygon in shares of width and height.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from scipy.stats import rankdata
from tqdm import tqdm

from chorus_core.io.errors import ReadError, reading
from chorus_core.semantics.text_encoder import load_text_encoder
from chorus_core.semantics.vocabulary import Vocabulary, encode_labels
from chorus_core.teachers.base import Teacher, TeacherError
from training.datasets.images import read_color
from training.metrics import accuracy_table, confusion

COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear",
    "hair drier", "toothbrush",
)  # fmt: skip
"""COCO's 80 classes of things (Lin et al. 2014), in the order of its detectors."""

FURNISHINGS = frozenset(range(COCO.index("chair"), len(COCO))) | {COCO.index(n) for n in ("bottle", "cup", "bowl")}
"""Classes by which a photograph counts as taken indoors: furniture, electronics, appliances and what stands on them."""

CELL = 8
"""Pixels of a photograph between the places that are judged."""

MIN_CELLS = 60
"""A class with fewer cells, over all photographs, is not judged."""

_MAX_LINES = 10_000


class OutlineError(ReadError):
    """Photographs or outlines that cannot be used. The message names the file and what is wrong."""


@dataclass(frozen=True)
class Outline:
    """One thing: its class in :data:`COCO`, and its polygon in shares of width and height, float64 [P, 2]."""

    category: int
    polygon: np.ndarray


@dataclass(frozen=True)
class Photograph:
    """A photograph and what is in it.

    Attributes:
        image: sRGB, uint8 [H, W, 3].
        outlines: of its things.
    """

    image: np.ndarray
    outlines: tuple[Outline, ...]


def read_outlines(path: Path) -> tuple[Outline, ...]:
    """The outlines of one photograph.

    Raises:
        OutlineError: not text, too many lines, a class outside of COCO's 80, fewer than three corners, or a corner
            outside of the photograph by more than a hundredth of it.
    """
    with reading(path, OutlineError):
        lines = path.read_text(encoding="utf-8").splitlines()
        if len(lines) > _MAX_LINES:
            raise OutlineError(f"{path}: {len(lines)} lines, expected at most {_MAX_LINES}")
        return tuple(_outline(line.split(), f"{path}, line {k}") for k, line in enumerate(lines, 1) if line.strip())


def _outline(words: Sequence[str], where: str) -> Outline:
    if len(words) < 7 or len(words) % 2 == 0:
        raise OutlineError(f"{where}: {len(words)} numbers, expected a class and three or more corners, two each")
    with reading(where, OutlineError):
        category, polygon = int(words[0]), np.array(words[1:], dtype=np.float64).reshape(-1, 2)
    if not 0 <= category < len(COCO):
        raise OutlineError(f"{where}: class {category}, expected 0 to {len(COCO) - 1}")
    if not np.all((polygon >= -0.01) & (polygon <= 1.01)):  # also refuses NaN
        raise OutlineError(f"{where}: a corner outside of the photograph, expected shares of width and height")
    return Outline(category, polygon)


def read_photographs(images: Path, labels: Path) -> Iterator[Photograph]:
    """The photographs (JPEG, PNG) of a folder in order of their names, with outlines from ``<labels>/<name>.txt``.

    A photograph without such a file has no things.

    Raises:
        OutlineError: a folder without photographs, outlines without a photograph, or outlines that do not read.
        ImageError: a photograph that does not.
    """
    paths = sorted(p for p in images.glob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not paths:
        raise OutlineError(f"{images}: no photographs, expected .jpg or .png files")
    stems = {p.stem for p in paths}
    if alone := sorted(p for p in labels.glob("*.txt") if p.stem not in stems):
        raise OutlineError(f"{alone[0]}: outlines of no photograph in {images}")
    for path in paths:
        image = read_color(path)
        file = labels / f"{path.stem}.txt"
        yield Photograph(image, read_outlines(file) if file.is_file() else ())


def draw_outlines(photograph: Photograph) -> tuple[np.ndarray, np.ndarray]:
    """What is at the middle of each cell of 8 x 8 pixels.

    Returns:
        whether things of a class are there, bool [80, h, w]; class of the smallest one, -1 = none, int64 [h, w].
    """
    height, width = photograph.image.shape[:2]
    half = CELL // 2
    shape = (len(range(half, height, CELL)), len(range(half, width, CELL)))
    there, nearest = np.zeros((len(COCO), *shape), dtype=bool), np.full(shape, -1, dtype=np.int64)
    drawn = []
    for outline in photograph.outlines:
        canvas = np.zeros((height, width), dtype=np.uint8)
        cv2.fillPoly(canvas, [np.rint(outline.polygon * (width, height) - 0.5).astype(np.int32)], 1)
        drawn.append((int(canvas.sum()), outline.category, canvas[half::CELL, half::CELL] > 0))
    for _, category, inside in sorted(drawn, key=lambda row: -row[0]):  # a cup over the table that it stands on
        there[category] |= inside
        nearest[inside] = category
    return there, nearest


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: how often a positive is above a negative; ties count half (Mann and Whitney 1947).

    Args:
        scores: [N].
        positive: bool [N].

    Returns:
        0 to 1, 0.5 by chance; NaN where there are only positives or only negatives.
    """
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return float("nan")
    wins = rankdata(scores)[positive].sum() - positives * (positives + 1) / 2
    return float(wins / (positives * negatives))


def evaluate_photographs(photographs: Iterable[Photograph], teacher: Teacher) -> dict[str, Any]:
    """Cosines of a teacher's "lang" features to the names of COCO's classes, against the outlines.

    Counted are photographs that show furnishings, and classes with 60 cells or more in them. ``auroc`` is of each
    class's cells among all, pooled over the photographs. ``recall`` is the share of its cells for which the nearest
    of the counted classes' names is the right one (where things cover each other, the smallest is the truth).

    Raises:
        TeacherError: no "lang" head in a text space.
        OutlineError: no class is left to judge.
    """
    if teacher.text is None or "lang" not in teacher.heads:
        raise TeacherError(f'{teacher.name}: no "lang" head in a text space; photographs are judged by names')
    texts = encode_labels(Vocabulary(COCO), load_text_encoder(teacher.text, teacher.device)).to(teacher.device)
    scores, theres, nearests = [], [], []
    for photograph in tqdm(photographs, desc=teacher.name, disable=None):
        if not any(outline.category in FURNISHINGS for outline in photograph.outlines):
            continue
        there, nearest = draw_outlines(photograph)
        scores.append(_cell_scores(teacher, photograph.image, texts).reshape(-1, len(COCO)))
        theres.append(there.reshape(len(COCO), -1))
        nearests.append(nearest.ravel())
    if not scores:
        names = ", ".join(COCO[i] for i in sorted(FURNISHINGS))
        raise OutlineError(f"no photograph shows furnishings: none of {names}")
    return _report(np.concatenate(scores), np.concatenate(theres, axis=1), np.concatenate(nearests), theres)


@torch.inference_mode()
def _cell_scores(teacher: Teacher, image: np.ndarray, texts: torch.Tensor) -> np.ndarray:
    """Cosine to each text at the middle of each cell, -1 where the teacher says nothing, float32 [h, w, C]."""
    found = teacher.tables(torch.from_numpy(image)[None])["lang"][0]
    cells = found.cells[CELL // 2 :: CELL, CELL // 2 :: CELL]
    cosines = torch.nn.functional.normalize(found.table.float(), dim=1) @ texts.T
    return torch.where(cells[..., None] >= 0, cosines[cells.clamp(min=0)], -1.0).cpu().numpy()


def _report(scores: np.ndarray, there: np.ndarray, nearest: np.ndarray, each: list[np.ndarray]) -> dict[str, Any]:
    counted = np.flatnonzero(there.sum(axis=1) >= MIN_CELLS)
    if not counted.size:
        raise OutlineError(f"no class covers {MIN_CELLS} cells of {CELL} x {CELL} pixels")
    place = np.full(len(COCO) + 1, -1)  # the last is that of "none"
    place[counted] = np.arange(counted.size)
    chosen = scores[:, counted].argmax(axis=1)
    recall = accuracy_table(confusion(place[nearest], chosen, counted.size))
    classes = {
        COCO[c]: {
            "auroc": auroc(scores[:, c], there[c]),
            "recall": float(recall[k]),
            "cells": int(there[c].sum()),
            "photographs": sum(bool(t[c].any()) for t in each),
        }
        for k, c in enumerate(counted)
    }
    furnishings = [row for name, row in classes.items() if COCO.index(name) in FURNISHINGS]
    return {
        "photographs": len(each),
        **_means(list(classes.values())),
        "furnishings": _means(furnishings),
        "classes": classes,
    }


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """AUROC and recall, mean over classes; NaN for a class that cannot be judged is left out."""
    known = {key: [row[key] for row in rows if not math.isnan(row[key])] for key in ("auroc", "recall")}
    return {"classes_counted": len(rows), **{k: sum(v) / len(v) if v else math.nan for k, v in known.items()}}
