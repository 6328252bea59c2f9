"""Files of rosbag2 as recorders leave them: foreign topics, no index, cut short, journals, metadata of any kind."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from mcap.writer import CompressionType, IndexType, Writer
from recordings import (
    COLOR,
    COUNT,
    DEPTH,
    FEEDBACK,
    STORE,
    Recording,
    check_frames,
    recording,
    write_mcap,
)
from rosbags.rosbag2 import StoragePlugin
from rosbags.typesys import Stores, get_typestore

from chorus_core.io import bag_topics
from chorus_core.io.bag_storage import RawMessage, open_bag
from chorus_core.io.rgbd import SequenceError, open_sequence


def all_messages(path: Path) -> list[RawMessage]:
    bag = open_bag(path)
    found = list(bag.messages(bag.topics))
    assert not [m for m in found if isinstance(m, SequenceError)]
    return found


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("store", [s for s in Stores if s.name.startswith("ROS2")])
def test_types_read_are_the_same_in_every_distribution(store):
    for kind in (
        getattr(bag_topics, n) for n in ("IMAGE", "COMPRESSED_IMAGE", "CAMERA_INFO", "TF", "ODOMETRY", "POSE")
    ):
        assert get_typestore(store).hash_rihs01(kind) == STORE.hash_rihs01(kind)


@pytest.mark.parametrize(
    "foreign",
    [
        ("unknown", "", "cdr"),  # rosbag2 where it does not find a definition
        ("ros2msg", "int32 a\n---\nint32 b\n", "cdr"),  # and of a service's events
        ("jsonschema", "{}", "json"),
        ("protobuf", "\x00", "protobuf"),
        ("ros1msg", "int32 a", "ros1"),
    ],
)
def test_topics_that_are_not_read_do_not_matter(tmp_path, foreign):
    check_frames(open_sequence(write_mcap(tmp_path / "bag.mcap", foreign=foreign)))


def test_action_definition_in_sqlite(tmp_path):
    folder = recording().write(tmp_path / "bag", StoragePlugin.SQLITE3)
    with sqlite3.connect(next(folder.glob("*.db3"))) as database:
        database.execute("INSERT INTO message_definitions VALUES (99, 'a/action/B_Feedback', 'unknown', '', '')")
        database.execute(f"INSERT INTO topics VALUES (99, '{FEEDBACK}', 'a/action/B_Feedback', 'cdr', '', '')")
        database.execute("INSERT INTO messages VALUES (9999, 99, 0, x'00010000')")
    check_frames(open_sequence(folder))


def test_no_profile(tmp_path):
    check_frames(open_sequence(write_mcap(tmp_path / "bag.mcap", profile="")))


@pytest.mark.parametrize(
    "options",
    [
        {"use_chunking": False},
        {"index_types": IndexType.NONE},
        {"use_statistics": False},
        {"use_summary_offsets": False, "repeat_channels": False, "repeat_schemas": False},
        {"compression": CompressionType.LZ4},
        {"compression": CompressionType.NONE, "enable_crcs": False},
    ],
)
def test_every_kind_of_mcap(tmp_path, options, caplog):
    check_frames(open_sequence(write_mcap(tmp_path / "bag.mcap", **options)))
    assert not caplog.records


@pytest.mark.parametrize("compression", list(CompressionType))
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_cut_mcap_is_read_as_far_as_it_goes(tmp_path, caplog, compression, share):
    """All messages of the chunks that are whole, with one warning, whatever is read of them and how often."""
    path = write_mcap(tmp_path / "bag.mcap", compression=compression)
    whole, bytes_ = all_messages(path), path.read_bytes()
    path.write_bytes(bytes_[: int(share * len(bytes_))])
    bag = open_bag(path)
    found = [m for m in bag.messages(bag.topics) if isinstance(m, RawMessage)]
    assert len(found) >= (share - 0.2) * len(whole)
    assert found == whole[: len(found)]
    assert [m for m in bag.messages({DEPTH}) if isinstance(m, RawMessage)] == [m for m in found if m.topic == DEPTH]
    assert [r.getMessage() for r in caplog.records if "mcap recover" in r.getMessage()] == [
        r.getMessage() for r in caplog.records
    ]
    assert len(caplog.records) == 1


def test_damaged_chunk_costs_only_its_messages(tmp_path):
    path = write_mcap(tmp_path / "bag.mcap", compression=CompressionType.NONE)
    whole, bytes_ = all_messages(path), bytearray(path.read_bytes())
    bytes_[len(bytes_) // 3] ^= 1  # found by the checksum of the chunk, before it is a wrong pixel
    path.write_bytes(bytes_)
    bag = open_bag(path)
    found = list(bag.messages(bag.topics))
    errors = [m for m in found if isinstance(m, SequenceError)]
    assert len(errors) == 1 and str(path) in str(errors[0]) and "crc" in str(errors[0])
    assert 0.5 * len(whole) < len(found) - 1 < len(whole)
    assert set(found) - set(errors) < set(whole)


def test_chunks_that_overlap_in_time_are_read_in_order(tmp_path):
    path = tmp_path / "bag.mcap"
    with path.open("wb") as stream:
        writer = Writer(stream, chunk_size=30)
        writer.start()
        channel = writer.register_channel("/a", "cdr", writer.register_schema("a/msg/A", "ros2msg", b""))
        for time in (5, 3, 9, 1, 8, 2, 7, 4, 6):
            writer.add_message(channel, time, bytes(20), time)
        writer.finish()
    assert [m.log_time for m in all_messages(path)] == list(range(1, 10))
    assert [m.log_time for m in open_bag(path).messages({"/a"}, 3, 6)] == [3, 4, 5]


@pytest.mark.parametrize("share", [0.7, 0.8, 0.9])
def test_cut_sqlite_is_read_as_far_as_it_goes(tmp_path, caplog, share):
    path = next(recording().write(tmp_path / "bag", StoragePlugin.SQLITE3).glob("*.db3"))
    whole, bytes_ = all_messages(path), path.read_bytes()
    path.write_bytes(bytes_[: int(share * len(bytes_))])
    bag = open_bag(path)
    found = [m for m in bag.messages(bag.topics) if isinstance(m, RawMessage)]
    assert 0 < len(found) < len(whole)
    assert set(found) < set(whole)
    assert ["read as far as it goes" in r.getMessage() for r in caplog.records] == [True]


@pytest.fixture
def crashed(tmp_path) -> Path:
    """A recording whose recorder was killed after half of it: the rest is in the -wal alone."""
    folder = recording().write(tmp_path / "bag", StoragePlugin.SQLITE3)
    file = next(folder.glob("*.db3"))
    code = f"""
import os, sqlite3
d = sqlite3.connect({str(file)!r})
rows = d.execute("SELECT * FROM messages ORDER BY id").fetchall()
d.execute("DELETE FROM messages WHERE id > ?", (rows[len(rows) // 2][0],))
d.commit()
d.execute("PRAGMA journal_mode=WAL")
d.executemany("INSERT INTO messages VALUES (?, ?, ?, ?)", rows[len(rows) // 2 + 1:])
d.commit()
os._exit(1)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 1
    (folder / "metadata.yaml").unlink()
    assert (folder / f"{file.name}-wal").stat().st_size > 0
    return folder


def test_sqlite_is_read_with_its_wal(crashed, caplog):
    before = content(crashed)
    crashed.chmod(0o555)
    try:
        check_frames(open_sequence(crashed))
    finally:
        crashed.chmod(0o755)
    assert content(crashed) == before
    assert ["-wal" in r.getMessage() for r in caplog.records] == [True]
    (crashed / "bag.db3-wal").unlink()
    assert len(open_sequence(crashed)) < COUNT  # the fixture does what it says


def test_copies_do_not_stay(crashed, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    sequence = open_sequence(crashed)
    assert len(list(scratch.iterdir())) == 1
    if os.fork() == 0:
        del sequence  # in a worker of a data loader, say
        os._exit(0)
    os.wait()
    assert len(list(scratch.iterdir())) == 1
    check_frames(sequence)
    del sequence
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("storage", list(StoragePlugin))
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("offered_qos_profiles: []", "offered_qos_profiles: ''"),
        ("offered_qos_profiles: []", "offered_qos_profiles: [{history: of another distribution}]"),
        ("storage_identifier: ", "storage_identifier: '' #"),
        ("version: 9", "version: 99"),
        ("relative_file_paths:", "other:"),
        ("bag.", "/home/me/bag/bag."),
        ("bag.", "before_it_was_renamed."),
        ("rosbag2_bagfile_information:", "rosbag2_bagfile_information: ["),
    ],
)
def test_only_the_file_names_of_the_metadata_count(tmp_path, storage, old, new):
    folder = recording().write(tmp_path / "bag", storage)
    text = (folder / "metadata.yaml").read_text()
    assert old in text
    (folder / "metadata.yaml").write_text(text.replace(old, new))
    check_frames(open_sequence(folder))


def test_several_files(tmp_path):
    """Split by time; eleven of them, for the order of names is not that of their numbers. With and without metadata."""
    messages = sorted(recording().messages, key=lambda m: m[2])
    folder = tmp_path / "bag"
    folder.mkdir()
    size = -(-len(messages) // 11)
    names = [f"bag_{number}.mcap" for number in range(11)]
    for number, name in enumerate(names):
        part = Recording(messages[number * size : (number + 1) * size]).write(tmp_path / f"part{number}")
        shutil.copy(next(part.glob("*.mcap")), folder / name)
    check_frames(open_sequence(folder))
    times = [m.log_time for m in all_messages(folder)]
    assert times == sorted(times) and len(times) == len(messages)
    (folder / "metadata.yaml").write_text(f"rosbag2_bagfile_information: {{relative_file_paths: {names}}}")
    check_frames(open_sequence(folder))
    (folder / "bag_3.mcap").unlink()
    assert len(open_sequence(folder)) < COUNT


def test_missing_files_and_mixed_recordings_are_named(tmp_path, caplog):
    folder = recording().write(tmp_path / "bag")
    text = (folder / "metadata.yaml").read_text()
    (folder / "metadata.yaml").write_text(text.replace("- bag.mcap", "- bag.mcap\n  - bag_1.mcap"))
    check_frames(open_sequence(folder))
    assert "names files that are not there: bag_1.mcap" in caplog.text
    (folder / "metadata.yaml").unlink()
    shutil.copy(folder / "bag.mcap", folder / "kitchen.mcap")
    with pytest.raises(SequenceError, match=r"files of several recordings \(bag, kitchen\)"):
        open_sequence(folder)
    (tmp_path / "text.mcap").write_text("no bag")
    with pytest.raises(SequenceError, match="neither mcap nor sqlite3"):
        open_sequence(tmp_path / "text.mcap")


def test_nothing_to_read(tmp_path):
    path = tmp_path / "bag.mcap"
    path.write_bytes(b"\x89MCAP0\r\n and no more")
    with pytest.raises(SequenceError, match=r"not a readable rosbag2 recording: no messages$"):
        open_sequence(path)
    with path.open("wb") as stream:
        writer = Writer(stream)
        writer.start()
        channel = writer.register_channel("/image", "ros1", writer.register_schema("sensor_msgs/Image", "ros1msg", b""))
        writer.add_message(channel, 0, b"", 0)
        writer.finish()
    with pytest.raises(SequenceError, match=r"no messages but /image \(ros1\)"):
        open_sequence(path)


def test_range_and_topics(tmp_path):
    for storage in StoragePlugin:
        path = recording().write(tmp_path / storage.name, storage)
        whole = all_messages(path)
        start, stop = whole[7].log_time, whole[20].log_time
        expected = [m for m in whole if start <= m.log_time < stop and m.topic in (COLOR, DEPTH)]
        assert list(open_bag(path).messages({COLOR, DEPTH}, start, stop)) == expected and len(expected) > 3


def test_a_part_that_cannot_be_opened_costs_itself_alone(tmp_path, caplog):
    """The recorder was killed before it wrote anything into the newest file; macOS left one of its own."""
    folder = recording().write(tmp_path / "bag", StoragePlugin.MCAP)
    (folder / "metadata.yaml").unlink()
    (folder / "bag_1.mcap").touch()
    (folder / "._bag.mcap").write_bytes(b"macOS")
    assert len(open_sequence(folder)) == COUNT
    assert "bag_1.mcap: not a readable rosbag2 recording" in caplog.text and "._bag" not in caplog.text
    for path in folder.glob("bag*"):
        path.write_bytes(b"")
    with pytest.raises(SequenceError, match="begins like neither"):
        open_bag(folder)


def test_a_part_that_the_metadata_leaves_out_is_said(tmp_path, caplog):
    folder = recording().write(tmp_path / "bag", StoragePlugin.MCAP)
    (folder / "bag_1.mcap").write_bytes((folder / "bag.mcap").read_bytes())
    assert len(open_sequence(folder)) == COUNT
    assert "metadata.yaml does not name bag_1.mcap: not read" in caplog.text
