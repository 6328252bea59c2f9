from __future__ import annotations

from pathlib import Path

import pytest

from training.evaluation.class_groups import SCANNET200, ClassGroupsError, groups_for, load_groups


def test_scannet200_has_its_groups() -> None:
    groups = load_groups(SCANNET200)
    assert {name: len(members) for name, members in groups.items()} == {"head": 66, "common": 68, "tail": 66}
    assert len(frozenset().union(*groups.values())) == 200
    assert (
        {"wall", "floor", "ceiling"} < groups["head"] and "mattress" in groups["common"] and "luggage" in groups["tail"]
    )


def test_groups_fit_only_their_own_classes(tmp_path: Path) -> None:
    names = frozenset().union(*load_groups(SCANNET200).values())
    assert set(groups_for(names)) == {"head", "common", "tail"}
    assert groups_for({"wall", "chair"}) == {}
    (tmp_path / "mine.yaml").write_text('{"soft": ["sofa"], "hard": ["wall"]}', encoding="utf-8")
    assert groups_for(names, tmp_path / "mine.yaml") == {"soft": {"sofa"}, "hard": {"wall"}}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[a, b]", "mapping"),
        ("a: b", "mapping"),
        ("", "mapping"),
        ("a: [x]\nb: [x]", "in a and in b"),
        ("a: [1]", "names"),
        ("a: [", "ParserError"),
    ],
)
def test_bad_groups(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "groups.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ClassGroupsError, match=match):
        load_groups(tmp_path / "groups.yaml")
    with pytest.raises(ClassGroupsError, match="No such file"):
        load_groups(tmp_path / "missing.yaml")
