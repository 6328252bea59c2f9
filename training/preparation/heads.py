"""Some heads of a teacher, or its one head under another name, where several teachers would teach the same."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from chorus_core.teachers import load_teacher
from chorus_core.teachers.base import FeatureTable, Teacher, TeacherError

_SELECTION = re.compile(r"(?P<heads>\w+(\+\w+)*)=(?P<spec>.+)")


class TeacherOfHeads(Teacher):
    """A teacher of which only some heads are used.

    Args:
        teacher: whose features they are.
        names: the heads' names; of a teacher with a single head any one name.

    Raises:
        TeacherError: the teacher has no such head.
    """

    def __init__(self, teacher: Teacher, names: Sequence[str]) -> None:
        if len(teacher.heads) == len(names) == 1:
            self._own = dict(zip(names, teacher.heads, strict=True))
        else:
            self._own = {name: name for name in names}
        if missing := sorted(set(self._own.values()) - set(teacher.heads)):
            raise TeacherError(f"{teacher.name}: no head {missing[0]!r}; it has {', '.join(teacher.heads)}")
        self.heads = {name: teacher.heads[own] for name, own in self._own.items()}
        self.name = f"{teacher.name} as {'+'.join(names)}"
        self.text = teacher.text
        self.device = teacher.device
        self._teacher = teacher

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        found = self._teacher.maps(images)
        return {name: found[own] for name, own in self._own.items()}

    def tables(self, images: Tensor) -> dict[str, list[FeatureTable]]:
        found = self._teacher.tables(images)
        return {name: found[own] for name, own in self._own.items()}


def load_named(spec: str, device: torch.device | str) -> Teacher:
    """A teacher from ``SPEC`` or ``HEADS=SPEC``: ``gen+obj=embedded`` uses two heads, ``enet=enet:PATH`` renames one.

    Raises:
        TeacherError: from :func:`chorus_core.teachers.load_teacher`, or no such head.
    """
    selection = _SELECTION.fullmatch(spec)
    if selection is None:
        return load_teacher(spec, device)
    return TeacherOfHeads(load_teacher(selection["spec"], device), selection["heads"].split("+"))
