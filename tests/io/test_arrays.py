"""NumPy files from outside."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from chorus_core.io.arrays import read_npy, read_npz
from chorus_core.io.errors import ReadError


class OwnError(ReadError):
    pass


def header(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"shape": shape, "fortran_order": False, "descr": dtype})
    return stream.getvalue()


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    for values in (np.arange(6.0).reshape(2, 3), np.zeros((0, 3)), np.array(["a", "bc"]), np.asfortranarray(np.eye(3))):
        np.save(tmp_path / "a.npy", values)
        assert np.array_equal(read_npy(tmp_path / "a.npy"), values)
        np.savez_compressed(tmp_path / "a.npz", a=values, other=np.array([None]))
        arrays = read_npz(tmp_path / "a.npz", ["a"], ["b"])
        assert list(arrays) == ["a"]
        assert np.array_equal(arrays["a"], values)


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", header((10**15, 3)), header((-1, 3)), header((2, 3)) + bytes(23), header((2,))[:40]],
)
def test_an_array_that_is_not_there_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(OwnError, match=r"a\.npy: damaged"):
        read_npy(tmp_path / "a.npy", OwnError)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", content)
    with pytest.raises(OwnError, match=r"a\.npz: damaged"):
        read_npz(tmp_path / "a.npz", ["a"], error=OwnError)


def test_no_objects(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}], dtype=object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", a=objects)
    with pytest.raises(OwnError, match="an array of Python objects"):
        read_npy(tmp_path / "a.npy", OwnError)
    with pytest.raises(OwnError, match="an array of Python objects"):
        read_npz(tmp_path / "a.npz", ["a"], error=OwnError)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(2))
    with pytest.raises(OwnError, match=r"a\.npz: no array b and c .it has a.: expected a and b and c"):
        read_npz(tmp_path / "a.npz", ["a", "b", "c"], error=OwnError)
    for path, read in (("none.npy", read_npy), ("none.npz", lambda p: read_npz(p, ["a"]))):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / path)
