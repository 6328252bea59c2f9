"""Reports as tables for a terminal. Shares are printed in percent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from training.evaluation.segmentation import UPSTREAM_VOTE

_SEGMENTATION = {"mIoU": "miou", "f-mIoU": "f_miou", "mAcc": "macc", "f-mAcc": "f_macc"}
_INSTANCES = {"mAP": "map", "mAP50": "map50", "mAP25": "map25"}


def show_segmentation(report: Mapping[str, Any], console: Console | None = None) -> None:
    """Means and classes of a report of :class:`~training.evaluation.segmentation.SegmentationScore`."""
    console = console or Console()
    places = [key for key in report if key.startswith(("gaussians", "points")) and isinstance(report[key], Mapping)]
    console.print(_means("Semantic segmentation, %", report, places, _SEGMENTATION))
    classes = Table("class", *(f"{_title(place)} {what}" for place in places for what in ("IoU", "Acc")))
    for name in dict.fromkeys(name for place in places for name in report[place]["classes"]):
        cells = [report[place]["classes"].get(name, {}).get(key) for place in places for key in ("iou", "accuracy")]
        classes.add_row(name, *map(_percent, cells))
    console.print(classes)
    if any(place.endswith(UPSTREAM_VOTE) for place in places):
        console.print("With the upstream vote the truth's instances leak into the prediction: compare with care.")


def show_instances(report: Mapping[str, Any], console: Console | None = None) -> None:
    """Means and classes of a report of :func:`~training.evaluation.open_instances.evaluate_instances`."""
    console = console or Console()
    places = [key for key in ("gaussians", "points") if key in report]
    console.print(_means("Open-vocabulary instances, %", report, places, _INSTANCES))
    classes = Table("class", *(f"{_title(place)} {what}" for place in places for what in ("AP", "AP50", "AP25", "n")))
    for name in dict.fromkeys(name for place in places for name in report[place]["classes"]):
        rows = [report[place]["classes"].get(name, {}) for place in places]
        cells = [
            cell
            for row in rows
            for cell in (*(_percent(row.get(key)) for key in ("ap", "ap50", "ap25")), str(row.get("instances", "")))
        ]
        classes.add_row(name, *cells)
    console.print(classes)


def show_agreement(report: Mapping[str, Any], console: Console | None = None) -> None:
    """A report of :func:`~training.evaluation.agreement.class_agreement`."""
    console = console or Console()
    table = Table("class", "IoU", "of a", "of b", "a", "b", "a taken for", title="Agreement, %")
    for name, row in sorted(report["classes"].items(), key=lambda item: -item[1]["a"]):
        shares = (_percent(row[key]) for key in ("iou", "of_a", "of_b"))
        table.add_row(name, *shares, str(row["a"]), str(row["b"]), row["a_taken_for"])
    console.print(table)
    console.print(
        f"{_percent(report['agreement'])} of the Gaussians that both label ({_percent(report['both'])} of all) agree; "
        f"mIoU {_percent(report['miou'])}"
    )


def show_photographs(report: Mapping[str, Any], console: Console | None = None) -> None:
    """A report of :func:`~training.evaluation.photos.evaluate_photographs`."""
    console = console or Console()
    table = Table("class", "AUROC", "recall", "cells", "photographs", title=f"{report['teacher']} on photographs, %")
    for name, row in sorted(report["classes"].items(), key=lambda item: -item[1]["auroc"]):
        table.add_row(name, _percent(row["auroc"]), _percent(row["recall"]), str(row["cells"]), str(row["photographs"]))
    console.print(table)
    for what, row in (("all", report), ("furnishings", report["furnishings"])):
        means = f"AUROC {_percent(row['auroc'])}, recall {_percent(row['recall'])}"
        console.print(f"mean of {row['classes_counted']} classes ({what}): {means}")


def _means(title: str, report: Mapping[str, Any], places: Sequence[str], columns: Mapping[str, str]) -> Table:
    table = Table("on", "classes", *columns, "n", title=title)
    for place in places:
        for group, values in report[place].items():
            if group != "classes" and isinstance(values, Mapping):
                cells = (_percent(values[key]) for key in columns.values())
                table.add_row(_title(place), group, *cells, str(values["classes"]))
    return table


def _title(place: str) -> str:
    if place.endswith(UPSTREAM_VOTE):
        return f"{place.removesuffix(UPSTREAM_VOTE)} + upstream vote"
    return place


def _percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}"
