"""Groups of classes whose means are reported apart, such as the head, common and tail classes of ScanNet200."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from chorus_core.io.documents import read_yaml
from chorus_core.io.errors import ReadError

SCANNET200 = Path(__file__).parent / "scannet200_groups.yaml"


class ClassGroupsError(ReadError):
    """A file of class groups that cannot be used; the message names the file and what is wrong."""


def load_groups(path: str | Path) -> dict[str, frozenset[str]]:
    """Class names by group, from a YAML (or JSON) mapping of group to list of names.

    Raises:
        ClassGroupsError: unreadable, not such a mapping, or a class in two groups.
    """
    try:
        tree = read_yaml(path, error=ClassGroupsError)
    except OSError as error:
        raise ClassGroupsError(f"{path}: {error.strerror}") from error
    if not tree or not all(isinstance(names, list) for names in tree.values()):
        raise ClassGroupsError(f"{path}: expected a mapping of group to list of class names")
    group_of: dict[str, str] = {}
    for group, names in tree.items():
        for name in names:
            if not isinstance(name, str):
                raise ClassGroupsError(f"{path}: {group} holds {name!r}: expected class names")
            if name in group_of:
                raise ClassGroupsError(f"{path}: {name!r} is in {group_of[name]} and in {group}: expected one group")
            group_of[name] = str(group)
    return {str(group): frozenset(names) for group, names in tree.items()}


def groups_for(names: Collection[str], path: str | Path | None = None) -> Mapping[str, frozenset[str]]:
    """The groups of a file; without one, ScanNet200's where the names are ScanNet200's, otherwise none."""
    if path is not None:
        return load_groups(path)
    known = load_groups(SCANNET200)
    return known if set(names) == frozenset().union(*known.values()) else {}
