"""The topics and frames of a bag as arguments of a command line."""

from __future__ import annotations

import argparse
from dataclasses import fields

from chorus_core.io.bag_topics import BagOptions


def add_bag_arguments(parser: argparse.ArgumentParser) -> None:
    """An option for each field of :class:`BagOptions`."""
    group = parser.add_argument_group("topics and frames of a bag, where they are not to be found by themselves")
    for item in fields(BagOptions):
        metavar = "FRAME" if item.metadata["flag"].endswith("frame") else "TOPIC"
        group.add_argument(item.metadata["flag"], dest=f"bag_{item.name}", metavar=metavar, help=item.metadata["help"])


def bag_options(arguments: argparse.Namespace) -> BagOptions:
    """What was told."""
    return BagOptions(**{item.name: getattr(arguments, f"bag_{item.name}") for item in fields(BagOptions)})
