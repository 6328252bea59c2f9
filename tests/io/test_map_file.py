"""A saved map is the old one, the new one or an error, never some of each: whatever is cut, flipped or interrupted."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import plyfile
import pytest
import torch
from small_maps import MODEL, legacy, save, seed_of, small_map

from chorus_core.io.gaussian_ply import load_extra, load_gaussians
from chorus_core.io.map_file import (
    MapFileError,
    features_path,
    load_map,
    move_map,
    save_bare_map,
)
from chorus_core.semantics.labelled_map import LabelledMap


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    labelled = small_map(4, count=50)
    path = save(tmp_path / "new" / "map.ply", labelled)
    assert path == (tmp_path / "new" / "map.ply").resolve()
    assert seed_of(path) == 4
    assert load_map(path)[1] == MODEL
    save(path, small_map(5))
    assert seed_of(path) == 5
    assert sorted(item.name for item in path.parent.iterdir()) == [features_path(path).name, "map.ply"]


def test_both_files_are_what_the_format_says(tmp_path: Path) -> None:
    path = save(tmp_path / "map.ply", small_map(1))
    (comment,) = plyfile.PlyData.read(str(path)).comments
    word, save_id, digest = comment.split(" ")
    sidecar = tmp_path / f"map.{save_id}.features.npz"
    assert word == "chorus_map"
    assert features_path(path) == sidecar
    assert hashlib.sha256(sidecar.read_bytes()).hexdigest() == digest
    rest = path.read_bytes().replace(f"comment {comment}\n".encode(), b"")
    with np.load(sidecar) as file:
        assert hashlib.sha256(rest).hexdigest() == str(file["ply_sha256"])


def test_the_ply_alone_opens_in_any_viewer(tmp_path: Path) -> None:
    labelled = small_map(1)
    path = save(tmp_path / "map.ply", labelled)
    features_path(path).unlink()
    assert torch.equal(load_gaussians(path).means, labelled.gaussians.means)
    assert set(load_extra(path)) == {"label", "instance", "confidence"}
    with pytest.raises(MapFileError, match=r"map\.[0-9a-f]{8}\.features\.npz: missing; `python -m chorus_core encode"):
        load_map(path)


def test_a_cut_or_a_flip_anywhere_is_found(tmp_path: Path) -> None:
    """Also beside features of an older kind, which a save that was killed late has left."""
    path = tmp_path / "map.ply"
    left = legacy(path, small_map(2)).read_bytes()
    save(path, small_map(1))
    path.with_suffix(".features.npz").write_bytes(left)
    tried = 0
    for file in (path, features_path(path)):
        whole = file.read_bytes()
        for damaged in damages(whole):
            file.write_bytes(damaged)
            with pytest.raises(MapFileError) as caught:
                load_map(path)
            assert "\n" not in str(caught.value)
            assert str(tmp_path) in str(caught.value)
            tried += 1
        file.write_bytes(whole)
        assert seed_of(path) == 1
    assert tried > 3000


def damages(whole: bytes) -> Iterator[bytes]:
    """Every cut, and a flipped bit in every third byte."""
    for place in range(len(whole)):
        yield whole[:place]
        if place % 3 == 0:
            flipped = bytearray(whole)
            flipped[place] ^= 1 << (place % 8)
            yield bytes(flipped)


def test_a_damaged_map_of_the_older_kind_is_an_error_or_whole(tmp_path: Path) -> None:
    """It has no digests: zip's own find most, and what is out of range is refused."""
    path = tmp_path / "map.ply"
    sidecar = legacy(path, small_map(1))
    assert seed_of(path) == 1
    for file in (path, sidecar):
        whole = file.read_bytes()
        for damaged in list(damages(whole))[::7]:
            file.write_bytes(damaged)
            try:
                found = load_map(path)[0]
            except MapFileError as error:
                assert "\n" not in str(error)
            else:
                assert -1 <= int(found.labels.min()) <= int(found.labels.max()) < len(found.vocabulary)
                assert bool(((found.confidence >= 0) & (found.confidence <= 1)).all())
                assert bool(found.features.isfinite().all())
        file.write_bytes(whole)


def test_parts_of_two_saves_do_not_go_together(tmp_path: Path) -> None:
    one, two = save(tmp_path / "one.ply", small_map(1)), save(tmp_path / "two.ply", small_map(2))
    features_path(one).write_bytes(features_path(two).read_bytes())
    with pytest.raises(MapFileError, match=r"one\.[0-9a-f]{8}\.features\.npz: damaged, or .*one\.ply is"):
        load_map(one)


@pytest.mark.parametrize("older", [save, legacy])
def test_a_save_that_dies_at_any_step_leaves_the_old_map_or_the_new(
    tmp_path: Path, older: Callable[[Path, LabelledMap], Path]
) -> None:
    found = []
    for step in range(1, 40):
        folder = tmp_path / str(step)
        folder.mkdir()
        older(folder / "map.ply", small_map(1))
        died = die_at(step, lambda path=folder / "map.ply": save(path, small_map(2)))
        found.append(seed_of(folder / "map.ply"))
        save(folder / "map.ply", small_map(3))
        assert seed_of(folder / "map.ply") == 3
        assert len(list(folder.iterdir())) == 2, "what the dead one left is removed"
        if not died:
            break
    assert not died
    assert len(found) > 8
    assert found == sorted(found) and set(found) == {1, 2}


def die_at(step: int, act: Callable[[], object]) -> bool:
    """Do something in a process that dies, as if killed, before its ``step``-th call to the file system."""
    process = os.fork()
    if process == 0:
        calls = 0

        def counted(call: Callable) -> Callable:
            def wrapped(*arguments: object, **options: object) -> object:
                nonlocal calls
                calls += 1
                if calls == step:
                    os._exit(9)
                return call(*arguments, **options)

            return wrapped

        for name in ("open", "fsync", "replace", "unlink", "close"):
            setattr(os, name, counted(getattr(os, name)))
        io.open = counted(io.open)
        try:
            act()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert status in (0, 9)
    return status == 9


FILL_THE_DISK = """
import resource, signal, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from test_map_file import save, seed_of, small_map
path = Path(sys.argv[1]) / "map.ply"
save(path, small_map(1))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in (0, 1, 500, 1000, 2000, 4000, 12000):  # bytes that a file may have
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        save(path, small_map(2, count=200))
    except OSError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert seed_of(path) == 1
    assert len(list(path.parent.iterdir())) == 2
"""


def test_a_full_disk_is_named_and_leaves_the_old_map(tmp_path: Path) -> None:
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", FILL_THE_DISK, str(tmp_path), str(here), str(here.parents[1])],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 7
    place = re.escape(str(tmp_path.resolve()))
    for line in lines:
        assert re.fullmatch(rf"\[Errno 27\] File too large: '{place}/map(\.[0-9a-f]{{8}}\.features\.npz|\.ply)'", line)
    assert len({line.endswith(".ply'") for line in lines}) == 2, "either of the files was the one without room"


def test_a_reader_is_not_disturbed_by_saves(tmp_path: Path) -> None:
    path = save(tmp_path / "map.ply", small_map(0))
    ended = threading.Event()

    def write() -> None:
        for seed in range(1, 60):
            save(path, small_map(seed))
            time.sleep(0.03)  # a reader needs a moment between two saves, or it would try for ever
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    seeds = []
    while not ended.is_set():
        seeds.append(seed_of(path))
    writer.join()
    assert seeds == sorted(seeds)
    assert len(set(seeds)) > 3


def test_saves_of_several_threads_do_not_take_each_others_features(tmp_path: Path) -> None:
    path = tmp_path / "map.ply"
    threads = [
        threading.Thread(target=lambda s=s: [save(path, small_map(10 * s + i)) for i in range(10)]) for s in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seed_of(path) % 10 == 9
    assert len(list(tmp_path.iterdir())) == 2


def test_features_of_maps_with_like_names_stay(tmp_path: Path) -> None:
    """``map.20261127.features.npz`` looks like features of ``map.ply``."""
    dated, other = tmp_path / "map.20261127.ply", tmp_path / "map2.ply"
    legacy(dated, small_map(1))
    save(other, small_map(2))
    for seed in (3, 4):
        save(tmp_path / "map.ply", small_map(seed))
    assert [seed_of(path) for path in (dated, other, tmp_path / "map.ply")] == [1, 2, 4]
    save(dated, small_map(5))
    assert [seed_of(path) for path in (dated, other, tmp_path / "map.ply")] == [5, 2, 4]
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("older", [save, legacy])
def test_a_moved_map_keeps_its_features(tmp_path: Path, older: Callable[[Path, LabelledMap], Path]) -> None:
    older(tmp_path / "map.ply", small_map(1))
    save(tmp_path / "out" / "kitchen.ply", small_map(2))
    target = move_map(tmp_path / "map.ply", tmp_path / "out" / "kitchen.ply")
    assert target == (tmp_path / "out" / "kitchen.ply").resolve()
    assert seed_of(target) == 1
    assert len(list((tmp_path / "out").iterdir())) == 2
    assert [item.name for item in tmp_path.iterdir()] == ["out"]
    assert move_map(target, target) == target
    assert seed_of(target) == 1


def test_a_ply_that_was_renamed_alone_finds_its_features(tmp_path: Path) -> None:
    save(tmp_path / "map.ply", small_map(1)).rename(tmp_path / "kitchen.ply")
    assert seed_of(tmp_path / "kitchen.ply") == 1
    assert seed_of(move_map(tmp_path / "kitchen.ply", tmp_path / "out" / "a.ply")) == 1
    assert [item.name for item in tmp_path.iterdir()] == ["out"]


def test_a_bare_map_takes_the_place_of_a_labelled_one(tmp_path: Path) -> None:
    path = save(tmp_path / "map.ply", small_map(1))
    save_bare_map(path, small_map(2).gaussians)
    assert [item.name for item in tmp_path.iterdir()] == ["map.ply"]
    assert features_path(path) is None
    with pytest.raises(MapFileError, match="has no features"):
        load_map(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"labels": torch.tensor([0, 2, 1])}, r"label of 1 of 3 Gaussians is not in \[-1, 1\]"),
        ({"labels": torch.tensor([0, -2, 1])}, "label of 1 of 3"),
        ({"confidence": torch.tensor([0.5, 1.5, float("nan")])}, r"confidence of 2 of 3 Gaussians is not in \[0, 1\]"),
        ({"features": torch.full((3, 4), float("inf")).half()}, "features of 3 of 3 Gaussians are not finite"),
        ({"features": torch.ones(3, 4).half()}, "features of 3 of 3 Gaussians are not of at most unit length"),
        ({"features": torch.zeros(2, 4).half()}, r"features are float16 \(2, 4\): expected float16 \(3, width\)"),
        ({"features": torch.zeros(3, 4)}, "features are float32"),
        ({"features": torch.zeros(3, 0).half()}, r"\(3, 0\)"),
    ],
)
def test_values_out_of_range_are_neither_written_nor_read(
    tmp_path: Path, change: dict[str, torch.Tensor], reason: str
) -> None:
    wrong = dataclasses.replace(small_map(2), **change)
    path = save(tmp_path / "map.ply", small_map(1))
    with pytest.raises(MapFileError, match=reason):
        save(path, wrong)
    assert seed_of(path) == 1
    sidecar = legacy(tmp_path / "old.ply", wrong)
    if "unit length" in reason:  # which maps of the older kind do not promise
        assert len(load_map(tmp_path / "old.ply")[0]) == 3
    else:
        with pytest.raises(MapFileError, match=reason):
            load_map(tmp_path / "old.ply")
    assert sidecar.is_file()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"vocabulary": np.array(["chair", "Chair"])}, "label 1 'Chair' repeats"),
        ({"vocabulary": np.array("chair")}, "vocabulary is"),
        ({"vocabulary": np.array([b"chair"], dtype=object)}, "damaged or of another form"),
        ({"stamp": np.array(np.nan)}, "cannot convert float NaN"),
        ({"stamp": np.array("today")}, "damaged or of another form"),
        ({"version": np.array(5)}, "of version 5: expected at most 4, update to read it"),
    ],
)
def test_other_contents_of_the_features_are_refused(tmp_path: Path, change: dict[str, np.ndarray], reason: str) -> None:
    sidecar = legacy(tmp_path / "map.ply", small_map(1))
    with np.load(sidecar) as file:
        arrays = dict(file)
    np.savez(sidecar, **arrays | change)
    with pytest.raises(MapFileError, match=rf"map\.features\.npz.*{reason}"):
        load_map(tmp_path / "map.ply")


def test_no_such_map(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"map\.ply"):
        load_map(tmp_path / "map.ply")


def test_a_stamp_keeps_its_digits(tmp_path: Path) -> None:
    labelled = dataclasses.replace(small_map(1), stamp=1_750_000_000_123_456_789)
    assert load_map(save(tmp_path / "map.ply", labelled))[0].stamp == labelled.stamp
