"""Bags with bytes flipped, lost, repeated or overwritten: the frames that are whole, or one kind of error."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from mcap.writer import CompressionType
from recordings import (
    BASE_FROM_CAMERA,
    COUNT,
    PERIOD,
    START,
    STORE,
    Recording,
    color_of,
    depth_of,
    odom_from_base,
    recording,
    write_mcap,
)
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from chorus_core.frames import RgbdFrame
from chorus_core.io.rgbd import SequenceError, open_sequence
from chorus_core.io.sqlite_storage import SqliteFile
from chorus_core.io.storage import Stored

MUTATIONS = 70  # of each kind of bag


def damaged(content: bytes, seed: int) -> bytes:
    """Another content, by one to thirty changes of one sort."""
    rng = random.Random(seed)
    data = bytearray(content)

    def place(room: int = 1) -> int:
        return rng.randrange(len(data) - room + 1)

    sort = rng.choice(["flip", "cut", "lose", "blank", "repeat", "number"])
    if sort == "flip":
        for _ in range(rng.choice([1, 3, 30])):
            data[place()] ^= 1 << rng.randrange(8)
    elif sort == "cut":
        del data[place() :]
    elif sort == "lose":
        start = place()
        del data[start : start + rng.choice([1, 8, 100, 5000])]
    elif sort == "blank":
        size = rng.choice([1, 8, 512])
        start = place(size)
        data[start : start + size] = bytes([rng.choice([0, 255])]) * size
    elif sort == "repeat":
        start, at = place(), place()
        data[at:at] = data[start : start + rng.choice([8, 64, 4096])]
    else:  # a length or an offset that leads anywhere
        start = place(8)
        data[start : start + 8] = rng.choice([0, 1, 2**31 - 1, 2**32, 2**63 - 1, 2**64 - 1]).to_bytes(8, "little")
    return bytes(data)


def read(path: Path) -> list[RgbdFrame] | None:
    """The frames of a bag, or None where it is refused in one line; anything else that is raised fails the test."""
    try:
        return list(open_sequence(path))
    except SequenceError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000
        return None


def is_right(frame: RgbdFrame) -> bool:
    index = round((frame.stamp * 1e-9 - START) / PERIOD)
    pose = odom_from_base(index * PERIOD) @ BASE_FROM_CAMERA
    return (
        np.array_equal(frame.color, color_of(index))
        and np.allclose(frame.depth, depth_of(index), atol=1e-3)
        and np.allclose(frame.world_from_camera, pose, atol=1e-6)
    )


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    sqlite = recording().write(folder / "bag", StoragePlugin.SQLITE3)
    unchecked = {"compression": CompressionType.NONE, "enable_crcs": False}
    return {
        "checked.mcap": write_mcap(folder / "checked.mcap").read_bytes(),
        "unchecked.mcap": write_mcap(folder / "unchecked.mcap", **unchecked).read_bytes(),
        "bag.db3": next(sqlite.glob("*.db3")).read_bytes(),
    }


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["checked.mcap", "unchecked.mcap", "bag.db3"])
def test_damaged_bags(tmp_path, contents, name):
    outcomes = []
    for seed in range(MUTATIONS):
        path = tmp_path / name
        path.write_bytes(damaged(contents[name], seed))
        frames = read(path)
        outcomes.append(len(frames or []))
        assert frames is None or 0 < len(frames) <= COUNT, seed
        # where there are checksums, what is handed out is right; otherwise a flipped bit may be a wrong pixel
        assert name != "checked.mcap" or all(map(is_right, frames or [])), seed
    assert outcomes.count(0) > 5, "some were beyond reading"
    assert outcomes.count(COUNT) > 5, "some were not hurt where it matters"
    assert len(outcomes) - outcomes.count(0) - outcomes.count(COUNT) > 2, "some lost frames"


@pytest.mark.parametrize(("victims", "errors"), [([3], 1), ([3, 4, 9], 2)])
def test_what_lies_behind_a_damaged_page_is_read(tmp_path, victims, errors):
    """The loss of a page of the table costs the messages on it alone, with an error for each run of lost pages."""
    many = Recording()
    kind = STORE.types["std_msgs/msg/String"]
    for n in range(400):
        many.add("/log", n / 10, kind(f"<{n}>" * 30))
    path = next(many.write(tmp_path / "bag", StoragePlugin.SQLITE3).glob("*.db3"))
    content = path.read_bytes()
    size = int.from_bytes(content[16:18], "big")
    pages = [content[at : at + size] for at in range(0, len(content), size)]
    leaves = [number for number, page in enumerate(pages) if page[0] == 13 and b"><" in page]
    lost = {n for n in range(400) for v in victims if f"<{n}>".encode() in pages[leaves[v]]}
    for v in victims:
        pages[leaves[v]] = bytes(size)
    path.write_bytes(b"".join(pages))
    found = list(SqliteFile(path).messages([1]))
    read = [STORE.deserialize_cdr(m.data, kind.__msgtype__).data for m in found if isinstance(m, Stored)]
    assert 0 < len(lost) < 200
    assert read == [f"<{n}>" * 30 for n in range(400) if n not in lost]
    assert len(found) - len(read) == errors


def test_damaged_metadata(tmp_path):
    """The files are there, whatever is written of them."""
    folder = recording().write(tmp_path / "bag", StoragePlugin.MCAP)
    content = (folder / "metadata.yaml").read_bytes()
    for seed in range(40):
        (folder / "metadata.yaml").write_bytes(damaged(content, seed))
        frames = read(folder)
        assert frames is not None and len(frames) == COUNT and all(map(is_right, frames)), seed


def test_damaged_file_compression(tmp_path):
    folder = recording().write(tmp_path / "bag", StoragePlugin.SQLITE3, CompressionMode.FILE)
    file = next(folder.glob("*.zstd"))
    content = file.read_bytes()
    for seed in range(20):
        file.write_bytes(damaged(content, seed))
        read(folder)
