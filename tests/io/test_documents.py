"""JSON and YAML from outside: what is refused is refused quickly and in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from chorus_core.io.documents import DocumentError, parse_yaml, read_json, read_yaml
from chorus_core.io.errors import ReadError

LAUGHS = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "document"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_good_documents(tmp_path: Path) -> None:
    assert read_json(write(tmp_path, '{"a": [1, {"b": "]]]"}]}')) == {"a": [1, {"b": "]]]"}]}
    assert read_json(write(tmp_path, b'\xef\xbb\xbf{"a": 1}')) == {"a": 1}, "a byte order mark"
    assert read_yaml(write(tmp_path, "a: {b: [1, 2.5, text]}\n")) == {"a": {"b": [1, 2.5, "text"]}}
    assert read_yaml(write(tmp_path, "# nothing\n")) == {}


def test_the_kind_at_the_top_and_of_error_can_be_chosen(tmp_path: Path) -> None:
    class OwnError(ReadError):
        pass

    assert read_json(write(tmp_path, '["a"]'), kind=list) == ["a"]
    with pytest.raises(OwnError, match="expected a list, got dict"):
        read_json(write(tmp_path, "{}"), kind=list, error=OwnError)
    for content in ("[" * 1000, b"\xff", "- 1", "&a [*a]"):
        for read in (read_json, read_yaml):
            with pytest.raises(OwnError):
                read(write(tmp_path, content), error=OwnError)
    with pytest.raises(OwnError, match=r"^--set a: "):
        parse_yaml("{", "--set a", error=OwnError)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "nested more than 64"),
        ('{"a":' * 1000 + "1" + "}" * 1000, "nested more than 64"),
        ("[1]", "expected a mapping, got list"),
        ('{"a": 1', "JSONDecodeError"),
        ('{"a": ' + "9" * 10_000 + "}", "damaged or of another form"),
        (b"\xff\xfe{}", "UnicodeDecodeError"),
        ("", "JSONDecodeError"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' is there 2 times"),
    ],
)
def test_bad_json(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DocumentError, match=message) as caught:
        read_json(write(tmp_path, content))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "nested more than 64|maximum nesting depth"),
        ("".join(" " * i + f"a{i}:\n" for i in range(300)), "nested more than 64"),
        (LAUGHS, "line 2 has an alias"),
        ("- 1\n- 2\n", "expected a mapping, got list"),
        ("a: [1", "ParserError"),
        ("a: !!python/object/apply:os.system [ls]", "ConstructorError"),
        ("? [a]\n: 1\n", "ConstructorError"),
        ("a: 1\nb: {c: 1, d: [c, c], c: 2}\n", "line 2: 'c' is there twice"),
        ("map:\n  voxel_size: 0.02\nmap:\n  carve: false\n", "line 3: 'map' is there twice"),
        (b"\xff\xfe", "UnicodeDecodeError"),
    ],
)
def test_bad_yaml(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DocumentError, match=message) as caught:
        read_yaml(write(tmp_path, content))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_size_is_bounded(tmp_path: Path) -> None:
    for read in (read_json, read_yaml):
        with pytest.raises(DocumentError, match="has 100 bytes: expected at most 99"):
            read(write(tmp_path, " " * 100), max_bytes=99)


def test_a_missing_file_keeps_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "absent")
