"""Headers of ``.ply`` files as other programs write them, and such as no program should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from plyfile import PlyData, PlyElement

from chorus_core.io.ply import PlyFormatError, origin_of, read_ply

ROWS = np.arange(15, dtype="<f4").view([(name, "<f4") for name in "xyz"])
DECLARED = b"element vertex 5\nproperty float x\nproperty float y\nproperty float z\n"


def written(path: Path, header: bytes, body: bytes = ROWS.tobytes()) -> Path:
    path.write_bytes(b"ply\nformat binary_little_endian 1.0\n" + header + b"end_header\n" + body)
    return path


@pytest.mark.parametrize(
    "comment",
    [
        "C:/用户/场景.ply".encode(),
        "C:/用户/场景.ply".encode("utf-16-le").replace(b"\n", b""),
        bytes(range(128, 256)),
        b"\x0b\x0c\x1c\x85",
    ],
    ids=["utf-8", "utf-16", "latin-1", "separators"],
)
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_comment_is_skipped_whatever_its_bytes(comment: bytes, place: str, tmp_path: Path) -> None:
    line = b"comment " + comment + b"\n"
    header = line + DECLARED if place == "before" else DECLARED + line
    assert np.array_equal(read_ply(written(tmp_path / "a.ply", header), ["vertex"])["vertex"].data, ROWS)


def test_obj_info_may_stand_anywhere(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ply", DECLARED + "obj_info Gerät 3\n".encode("latin-1"))
    assert np.array_equal(read_ply(path, ["vertex"])["vertex"].data, ROWS)


def test_what_follows_is_not_read(tmp_path: Path) -> None:
    """A mesh's faces, say, which take long; they may even be cut off."""
    faces = b"element face 1000000\nproperty list uchar int vertex_indices\n"
    ply = read_ply(written(tmp_path / "a.ply", DECLARED + faces), ["vertex"])
    assert [element.name for element in ply.elements] == ["vertex"]
    with pytest.raises(PlyFormatError, match=r"a\.ply: cut short: the header announces 1000060 bytes or more, 60"):
        read_ply(tmp_path / "a.ply", ["vertex", "face"])


@pytest.mark.parametrize("text", [False, True])
def test_what_stands_before_is_read_past(text: bool, tmp_path: Path) -> None:
    faces = np.array([([0, 1, 2],), ([2, 3],)], dtype=[("vertex_indices", "O")])
    elements = [PlyElement.describe(faces, "face"), PlyElement.describe(ROWS, "vertex")]
    PlyData(elements, text=text).write(str(tmp_path / "a.ply"))
    assert np.array_equal(read_ply(tmp_path / "a.ply", ["vertex"])["vertex"].data, ROWS)


@pytest.mark.parametrize("newline", [b"\r\n", b"\r"])
def test_other_line_ends(newline: bytes, tmp_path: Path) -> None:
    header = b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n7\n"
    (tmp_path / "a.ply").write_bytes(header.replace(b"\n", newline))
    assert read_ply(tmp_path / "a.ply", ["vertex"])["vertex"]["x"].tolist() == [7]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (DECLARED.replace(b"5", b"6"), "the header announces 72 bytes or more, 60 follow it"),
        (DECLARED.replace(b"5", b"900000000000000"), "cut short"),
        (DECLARED.replace(b"5", b"1" * 6000), "expected a count"),
        (DECLARED.replace(b"5", b"-1"), "'-1' of element 'vertex': expected a count"),
        (DECLARED.replace(b"5", b"0x5"), "expected a count"),
        (DECLARED.replace(b"float", b"quux"), "damaged or of another form"),
        (DECLARED.replace(b"property float y", b"property float x"), "damaged or of another form"),
        (DECLARED + DECLARED, "damaged or of another form|cut short"),
        (b"nonsense\n" + DECLARED, "damaged or of another form"),
        (b"element vertex 900000000000000\n", "element 'vertex' has no properties"),
    ],
)
@pytest.mark.parametrize("text", [False, True])
def test_headers_that_lie_are_refused(header: bytes, message: str, text: bool, tmp_path: Path) -> None:
    path = written(tmp_path / "a.ply", header)
    if text:
        path.write_bytes(path.read_bytes().replace(b"binary_little_endian", b"ascii"))
        message = "cut short|count|damaged|no properties"
    with pytest.raises(PlyFormatError, match=rf"a\.ply: .*({message})"):
        read_ply(path, ["vertex"])


@pytest.mark.parametrize("content", [b"", b"ply", b"ply\n", b"\x89PNG\r\n\x1a\n", b"ply\n" + b"x" * (2 << 20)])
def test_what_is_no_ply_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.ply").write_bytes(content)
    with pytest.raises(PlyFormatError, match=r"a\.ply: (not a \.ply|no line 'end_header')"):
        read_ply(tmp_path / "a.ply", ["vertex"])


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_ply(tmp_path / "a.ply", ["vertex"])


@pytest.mark.parametrize(
    ("comment", "origin"),
    [
        (b"comment origin 500000.0 5500000.5 -3\n", [500000.0, 5500000.5, -3.0]),
        (b"comment made by hand\ncomment origin 1 2 3\n", [1, 2, 3]),
        (b"comment origin of the survey\n", [0, 0, 0]),
        (b"comment origin 1 2 nan\n", [0, 0, 0]),
        (b"", [0, 0, 0]),
    ],
)
def test_origin(comment: bytes, origin: list[float], tmp_path: Path) -> None:
    assert origin_of(read_ply(written(tmp_path / "a.ply", comment + DECLARED), ["vertex"])).tolist() == origin
