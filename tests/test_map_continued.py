"""A map that was saved, and whose process was killed, goes on as if nothing had happened."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.building import rooms
from chorus_core.config import Config, parse
from chorus_core.frames import RgbdFrame
from chorus_core.io.map_file import MapFileError, load_map, load_map_state, save_map
from chorus_core.io.rgbd import open_sequence
from chorus_core.mapping.map_state import MapStateError
from chorus_core.pipeline import Pipeline
from chorus_core.saved_map import open_saved_map
from chorus_core.semantics.relevancy import classify

OPTIONS = {
    "map.voxel_size": 0.06,
    "encoder.min_gaussians": 100,
    "semantics.vocabulary": "house",
    "semantics.object_gap": 0.15,
}
BEFORE = 4
QUESTIONS = ("chair", "something to sit on", "floor", "table", "elephant")

MAP_AND_DIE = """
import os, signal, sys
from pathlib import Path
from test_map_continued import BEFORE, begun, house_frames
begun(house_frames(Path(sys.argv[1]))[:BEFORE]).save(sys.argv[2])
print("saved", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def house_frames(repository: Path) -> list[RgbdFrame]:
    sequence = open_sequence(repository / "data" / "house_drive" / "bag")
    return [sequence[i] for i in range(0, 40, 5)]


def begun(frames: list[RgbdFrame]) -> Pipeline:
    """Some frames, encoded but for the last one."""
    pipeline = Pipeline(parse(Config, OPTIONS))
    for frame in frames[:-1]:
        pipeline.integrate(frame)
    pipeline.encode_all()
    pipeline.integrate(frames[-1])
    return pipeline


def gone_on(pipeline: Pipeline, frames: list[RgbdFrame]) -> Pipeline:
    for frame in frames:
        pipeline.integrate(frame)
    pipeline.encode_all()
    return pipeline


@pytest.fixture(scope="module")
def frames(repository: Path) -> list[RgbdFrame]:
    return house_frames(repository)


@pytest.fixture(scope="module")
def saved(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map whose process was killed right after it had saved it."""
    path = tmp_path_factory.mktemp("saved") / "map.ply"
    paths = (str(Path(__file__).parent), str(repository), os.environ.get("PYTHONPATH", ""))
    died = subprocess.run(
        [sys.executable, "-c", MAP_AND_DIE, str(repository), str(path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (died.returncode, died.stdout) == (-signal.SIGKILL, "saved\n"), died.stderr
    return path


@pytest.fixture(scope="module")
def uninterrupted(frames: list[RgbdFrame]) -> Pipeline:
    return begun(frames[:BEFORE])


def loaded(path: Path, **options: object) -> Pipeline:
    pipeline = Pipeline(parse(Config, OPTIONS | options))
    pipeline.load(path)
    return pipeline


def check_equal(one: Pipeline, other: Pipeline) -> None:
    """Every array of both maps, every object and every answer."""
    a, b = one.map.store, other.map.store
    assert (one.map.frames, one.map.stamp, a.next_birth, a.used) == (
        other.map.frames,
        other.map.stamp,
        b.next_birth,
        b.used,
    )
    slots = a.occupied()
    assert torch.equal(slots, b.occupied())
    for name in ("state", "hits", "missed", "birth", "slot_cell", "first_seen", "last_seen", "labels"):
        assert torch.equal(getattr(a, name)[slots], getattr(b, name)[slots]), name
    labelled = slots[a.labels[slots] >= 0]
    for name in ("features", "confidence"):
        assert torch.equal(getattr(a, name)[labelled], getattr(b, name)[labelled]), name
    ours, theirs = one.labelled_map(), other.labelled_map()
    assert np.array_equal(ours.instances, theirs.instances)
    assert [(o.id, o.label, o.first_seen, o.last_seen, o.count) for o in ours.objects] == (
        [(o.id, o.label, o.first_seen, o.last_seen, o.count) for o in theirs.objects]
    )
    assert ours.objects and ours.next_object == theirs.next_object
    for text in QUESTIONS:
        answers = [pipeline.query(text, threshold=0.3) for pipeline in (one, other)]
        found = [[(o.id, o.score, o.count, *o.centroid) for o in answer.objects] for answer in answers]
        assert found[0] == found[1], text


def test_a_map_goes_on_as_if_its_process_had_lived(
    saved: Path, uninterrupted: Pipeline, frames: list[RgbdFrame]
) -> None:
    again = loaded(saved)
    assert again.map.map_id == load_map(saved)[0].map_id != uninterrupted.map.map_id
    check_equal(again, uninterrupted)
    check_equal(gone_on(again, frames[BEFORE:]), gone_on(uninterrupted, frames[BEFORE:]))


def test_a_loaded_map_answers_without_a_camera_and_as_its_file_does(saved: Path) -> None:
    live, file = loaded(saved), open_saved_map(saved)
    for text in QUESTIONS:
        answers = [source.query(text, threshold=0.3) for source in (live, file)]
        found = [[(o.id, o.count, o.first_seen, o.last_seen) for o in a.objects] for a in answers]
        assert found[0] == found[1], text
        assert answers[0].map_id == answers[1].map_id != ""


def test_saving_again_changes_nothing(saved: Path, tmp_path: Path) -> None:
    twice = loaded(loaded(saved).save(tmp_path / "again.ply"))
    check_equal(twice, loaded(saved))
    assert twice.map.map_id == loaded(saved).map.map_id


def test_what_was_not_encoded_when_it_was_saved_is_encoded_then(saved: Path) -> None:
    pipeline = loaded(saved)
    report = pipeline.encode_step()
    assert report is not None and report.encoded > 0
    assert pipeline.encode_step() is None


def test_a_map_of_other_words_takes_the_words_in_use_and_keeps_its_objects(saved: Path) -> None:
    pipeline = loaded(saved, **{"semantics.vocabulary": "indoor"})
    labelled = pipeline.labelled_map()
    assert labelled.vocabulary is pipeline.vocabulary
    known = labelled.labels >= 0
    labels, _ = classify(labelled.features[known], pipeline.semantics.text.embed_labels(pipeline.vocabulary))
    assert torch.equal(labelled.labels[known], labels)
    before = {item.id for item in load_map(saved)[0].objects}
    assert len(before & {item.id for item in labelled.objects}) >= len(before) / 2


def test_features_of_another_model_are_made_anew(saved: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = Pipeline(parse(Config, OPTIONS))
    other.load(saved)
    other.encoder.description = dict(other.encoder.description, sha256="1" * 64)
    path = other.save(tmp_path / "other.ply")
    with caplog.at_level(logging.WARNING):
        pipeline = loaded(path)
    assert "is encoded again" in caplog.text
    assert (pipeline.labelled_map().encoded, len(pipeline.map)) == (0.0, len(other.map))
    pipeline.encode_all()
    assert pipeline.labelled_map().encoded == 1.0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"map.voxel_size": 0.05}, r"map\.voxel_size = 0\.05: expected 0\.06, as the saved map has"),
        ({"map.max_gaussians": 1000}, r"map\.max_gaussians = 1000: the saved map takes \d+"),
    ],
)
def test_a_map_that_does_not_fit_is_refused_and_the_present_one_stays(
    saved: Path, frames: list[RgbdFrame], options: dict[str, object], reason: str
) -> None:
    pipeline = Pipeline(parse(Config, OPTIONS | options))
    pipeline.integrate(frames[0])
    before = pipeline.map.map_id, len(pipeline.map)
    with pytest.raises(MapStateError, match=reason):
        pipeline.load(saved)
    assert (pipeline.map.map_id, len(pipeline.map)) == before


def test_a_scene_that_no_robot_mapped_cannot_be_gone_on_with(saved: Path, tmp_path: Path) -> None:
    labelled, model = load_map(saved)
    path = save_map(tmp_path / "scene.ply", labelled, model)
    with pytest.raises(MapFileError, match="a scene without the state of a map"):
        loaded(path)


def test_what_waits_for_its_turn_waits_in_the_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a map larger than one pass: columns in the queue, and the region whose encoding failed."""
    options = OPTIONS | {"encoder.max_gaussians": 1500, "encoder.min_context": 500, "map.voxel_size": 0.08}
    pipeline = Pipeline(parse(Config, options))
    pipeline.map.insert(rooms(20_000, (0.0, 0.0, 0.0), 0.08))
    assert pipeline.encode_step() is not None
    with monkeypatch.context() as patched:
        patched.setattr(pipeline.encoder, "encode", lambda *_, **__: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            pipeline.encode_step()
    assert 0.0 < pipeline.labelled_map().encoded < 0.9
    again = Pipeline(parse(Config, options))
    again.load(pipeline.save(tmp_path / "map.ply"))
    again.encode_all()
    assert again.labelled_map().encoded == 1.0
    assert not bool(again.map.store.waiting().any())
    assert again.encode_step() is None


@pytest.mark.parametrize(
    ("name", "value"), [("frames", "abc"), ("stamp", 1.5), ("next_birth", "x"), ("handed_out", True), ("voxel_size", 2)]
)
def test_a_state_of_other_types_is_refused(saved: Path, name: str, value: object) -> None:
    state = load_map_state(saved)[2]
    with pytest.raises(MapStateError, match=f"{name} = .*: expected a "):
        replace(state, **{name: value})
