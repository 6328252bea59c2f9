"""The pipeline on frames of the shipped recording, with the shipped model."""

from __future__ import annotations

import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.building import rooms
from chorus_core.config import Config, ConfigError, parse
from chorus_core.encoder import CheckpointError
from chorus_core.encoder.checkpoint import write_model
from chorus_core.encoder.model import ChorusModel, ModelConfig
from chorus_core.frames import RgbdFrame
from chorus_core.gaussians import Gaussians
from chorus_core.io.map_file import MapFileError, ModelReference, features_path, load_map, save_map
from chorus_core.io.rgbd import open_sequence
from chorus_core.pipeline import Pipeline
from chorus_core.saved_map import open_saved_map
from chorus_core.semantics.query_text import QueryError
from chorus_core.semantics.text_side import TextSideError
from chorus_core.semantics.vocabulary import MAX_LABELS, VocabularyCancelled, VocabularyError
from chorus_core.stamps import SECOND

OPTIONS = {
    "map.voxel_size": 0.06,
    "encoder.min_gaussians": 100,
    "encoder.period": 0.05,
    "semantics.vocabulary": "house",
    "semantics.object_gap": 0.15,
}


@pytest.fixture(scope="module")
def frames(repository: Path) -> list[RgbdFrame]:
    sequence = open_sequence(repository / "data" / "house_drive" / "bag")
    return [sequence[i] for i in range(0, 40, 4)]


@pytest.fixture(scope="module")
def mapped(frames: list[RgbdFrame]) -> Pipeline:
    """A pipeline with a map and its meaning. Tests must leave both as they are."""
    pipeline = Pipeline(parse(Config, OPTIONS))
    for frame in frames:
        pipeline.integrate(frame)
    pipeline.encode_all()
    return pipeline


def test_map_is_labelled_whole_and_consistently(mapped: Pipeline) -> None:
    labelled = mapped.labelled_map()
    assert len(labelled) > 1000
    assert bool((labelled.labels >= 0).all())
    assert labelled.features.dtype == torch.float16
    assert labelled.features.shape == (len(labelled), mapped.semantics.text.dim)
    assert labelled.stamp == mapped.map.stamp
    shares = torch.bincount(labelled.labels, minlength=len(mapped.vocabulary)) / len(labelled)
    floor = shares[mapped.vocabulary.labels.index("floor")]
    assert 0.05 < float(floor) < 0.7, "a room seen at this height shows floor, and not only floor"


def test_what_is_far_from_a_change_is_not_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Pipeline(
        parse(Config, OPTIONS | {"encoder.max_gaussians": 4000, "encoder.min_context": 1000, "map.voxel_size": 0.08})
    )
    pipeline.map.insert(rooms(20_000, (0.0, 0.0, 0.0), 0.08))
    pipeline.encode_all()
    before = pipeline.labelled_map()
    assert bool((before.labels >= 0).all())

    corner = torch.tensor([0.3, 0.3, 0.8])
    box = torch.cartesian_prod(*[torch.arange(6) * 0.08] * 3) + corner
    pipeline.map.insert(dataclasses.replace(rooms(216, (0.0, 0.0, 0.0), 0.08), means=box))
    read: list[int] = []
    encode = pipeline.encoder.encode

    def counted(gaussians: Gaussians, *options: object, **more: object) -> torch.Tensor:
        read.append(len(gaussians))
        return encode(gaussians, *options, **more)

    monkeypatch.setattr(pipeline.encoder, "encode", counted)
    pipeline.encode_all()
    after = pipeline.labelled_map()
    assert 0 < sum(read) < 0.3 * len(after), "only the change and its surroundings are read"
    assert bool((after.labels >= 0).all())

    assert torch.equal(after.gaussians.means[: len(before)], before.gaussians.means), "what was there keeps its place"
    features = after.features[: len(before)]
    far = (before.gaussians.means[:, :2] - corner[:2]).amax(dim=1) > 2.0
    assert float(far.float().mean()) > 0.8
    assert torch.equal(features[far], before.features[far])
    assert not torch.equal(features[~far], before.features[~far])


@pytest.mark.parametrize("raised", [-0.5, -0.06, 0.0, 0.3])
def test_the_height_of_a_floor_in_the_world_does_not_matter(mapped: Pipeline, raised: float) -> None:
    scene = rooms(6_000, (0.03, 0.03, 1.0 * 0.06), 0.06)
    moved = dataclasses.replace(scene, means=scene.means + torch.tensor([0.0, 0.0, raised]))
    torch.testing.assert_close(mapped.describe(moved), mapped.describe(scene), atol=4e-3, rtol=0)


def test_a_budget_that_the_model_exceeds_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"encoder.memory_gib = 0.01: memory of 0.01 GiB: expected at least 0\.\d\d"):
        Pipeline(parse(Config, OPTIONS | {"encoder.memory_gib": 0.01}))


def test_encode_step_has_nothing_to_do_without_changes(mapped: Pipeline) -> None:
    assert mapped.encode_step() is None


def test_query_answers_with_points_of_its_objects(mapped: Pipeline) -> None:
    result = mapped.query("floor", threshold=0.5, max_objects=2)
    assert 0 < len(result.objects) <= 2
    assert sum(o.count for o in result.objects) == len(result.points) == len(result.scores) == len(result.colors)
    assert bool((result.scores >= 0.5).all())
    for item in result.objects:
        np.testing.assert_allclose(result.points[item.indices].mean(axis=0), item.centroid, atol=1e-4)
    assert result.objects[0].centroid[2] < 0.5, "the floor is low"


def test_query_for_a_thing_that_is_not_there_finds_nothing(mapped: Pipeline) -> None:
    assert mapped.query("elephant").objects == []


@pytest.mark.parametrize("text", ["", "   ", "x" * 10_000, "a\x00b", "a\x07b"])
def test_unusable_query_text_is_refused(mapped: Pipeline, text: str) -> None:
    with pytest.raises(QueryError):
        mapped.query(text)


@pytest.mark.parametrize(("threshold", "limit"), [(float("nan"), 0), (-0.1, 0), (1.5, 0), (0.5, -1)])
def test_numbers_of_a_query_out_of_range_are_refused(mapped: Pipeline, threshold: float, limit: int) -> None:
    with pytest.raises(QueryError, match="expected"):
        mapped.query("chair", threshold=threshold, max_objects=limit)


def test_text_that_names_a_file_is_only_text(mapped: Pipeline, tmp_path: Path) -> None:
    target = tmp_path / "secret.txt"
    target.write_text("refrigerator")
    before = target.stat().st_atime_ns
    mapped.query(str(target))
    assert target.stat().st_atime_ns == before


def test_vocabulary_changes_relabel_and_bad_ones_change_nothing(mapped: Pipeline) -> None:
    original = mapped.vocabulary
    try:
        mapped.set_vocabulary(["floor", "anything else"])
        assert set(mapped.labelled_map().labels.tolist()) <= {0, 1}
        for bad in ([], ["same", "same"], ["a\x00"], "no such vocabulary"):
            with pytest.raises(VocabularyError):
                mapped.set_vocabulary(bad)
        assert mapped.vocabulary.labels == ("floor", "anything else")
    finally:
        mapped.set_vocabulary(list(original.labels))


def test_a_large_vocabulary_neither_delays_queries_nor_must_be_waited_for(mapped: Pipeline) -> None:
    original, before = mapped.vocabulary, mapped.labelled_map()
    names = [f"thing number {i}" for i in range(MAX_LABELS)]  # a minute of encoding on one core
    with pytest.raises(VocabularyError, match=f"{MAX_LABELS + 1} labels: expected 1 to {MAX_LABELS}"):
        mapped.set_vocabulary([*names, "one more"])
    cancelled = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        change = pool.submit(mapped.set_vocabulary, names, cancelled)
        try:
            seconds = [mapped.query(f"a text not asked before {i}").seconds for i in range(10)]
            assert not change.done()
        finally:
            cancelled.set()
        began = time.monotonic()
        with pytest.raises(VocabularyCancelled):
            change.result()
        given_up = time.monotonic() - began
    assert np.median(seconds) < 1.0
    assert given_up < 2.0  # a batch and what else the machine does
    assert mapped.vocabulary is original
    assert mapped.labelled_map() is before


def test_saved_map_answers_as_the_live_one(mapped: Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "map.ply"
    assert mapped.save(path) == path.resolve()
    labelled, model = load_map(path)
    assert model == ModelReference("chorus_mini", mapped.encoder.description["sha256"], unit=True)
    live = mapped.labelled_map()
    torch.testing.assert_close(labelled.gaussians.means, live.gaussians.means)
    assert torch.equal(labelled.labels, live.labels)
    assert torch.equal(labelled.features, live.features)
    assert labelled.vocabulary.labels == live.vocabulary.labels


def test_a_map_of_another_model_is_refused(mapped: Pipeline, tmp_path: Path) -> None:
    """Features of one model mean nothing to the texts of another, though they may be as wide."""
    path = tmp_path / "map.ply"
    mapped.save(path)
    assert len(open_saved_map(path, model="chorus_mini").labelled) == len(mapped.labelled_map())
    labelled, model = load_map(path)
    save_map(path, labelled, dataclasses.replace(model, sha256="0" * 64))
    with pytest.raises(MapFileError, match="was encoded by chorus_mini with sha256 000000000000"):
        open_saved_map(path)


def test_a_map_of_another_width_is_refused(mapped: Pipeline, tmp_path: Path) -> None:
    path = mapped.save(tmp_path / "map.ply")
    labelled, model = load_map(path)
    narrow = dataclasses.replace(labelled, features=labelled.features[:, :7])
    save_map(path, narrow, model)
    with pytest.raises(MapFileError, match=r"map\.ply has features of width 7, the texts of chorus_mini have \d+"):
        open_saved_map(path)


def test_a_save_is_named_absolutely_and_takes_old_features_with_it(
    mapped: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert mapped.save("new/map.ply") == tmp_path.resolve() / "new" / "map.ply"
    bare = Pipeline(parse(Config, OPTIONS))
    bare.map.insert(mapped.labelled_map().gaussians)
    assert bare.save("new/map.ply") == tmp_path.resolve() / "new" / "map.ply"
    assert [item.name for item in (tmp_path / "new").iterdir()] == ["map.ply"]
    assert features_path("new/map.ply") is None
    with pytest.raises(MapFileError, match=r"map\.ply has no features: `python -m chorus_core encode"):
        load_map("new/map.ply")


def test_frames_are_integrated_while_the_encoder_runs_in_the_background(frames: list[RgbdFrame]) -> None:
    pipeline = Pipeline(parse(Config, OPTIONS))
    pipeline.start()
    try:
        for repeat in range(3):
            for frame in frames:
                pipeline.integrate(dataclasses.replace(frame, stamp=frame.stamp + 100 * SECOND * repeat))
        deadline = time.monotonic() + 60
        while pipeline.status().last_encode_stamp < pipeline.map.stamp and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        pipeline.stop()
    status = pipeline.status()
    assert status.frames == 3 * len(frames)
    assert status.encodes > 0
    assert status.last_encode_stamp == pipeline.map.stamp
    assert set(status.stage_ms) >= {"integrate", "snapshot", "encode", "label"}


def test_a_background_thread_that_dies_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Pipeline(parse(Config, OPTIONS))
    assert pipeline.ended == ""

    def die() -> None:
        raise SystemExit("killed")

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "encode_step", die)
        pipeline.start()
        deadline = time.monotonic() + 30
        while not pipeline.ended and time.monotonic() < deadline:
            time.sleep(0.02)
        assert pipeline.status().ended == "SystemExit: killed"
        pipeline.stop()
    assert pipeline.ended == ""
    pipeline.start()
    assert pipeline.ended == ""
    pipeline.stop()
    assert pipeline.ended == "", "it was stopped"


def test_an_empty_map_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the map is empty"):
        Pipeline(parse(Config, OPTIONS)).save(tmp_path / "map.ply")
    assert not list(tmp_path.iterdir())


def test_a_failed_encode_is_tried_again(frames: list[RgbdFrame], monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Pipeline(parse(Config, OPTIONS))
    for frame in frames[:3]:
        pipeline.integrate(frame)
    encode = pipeline.encoder.encode

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(pipeline.encoder, "encode", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        pipeline.encode_step()
    pipeline.start()
    deadline = time.monotonic() + 30
    while not pipeline.status().encode_failures and time.monotonic() < deadline:
        time.sleep(0.02)
    pipeline.stop()
    assert pipeline.status().encode_failures > 0
    assert pipeline.status().last_error == "RuntimeError: out of memory"
    assert (pipeline.status().encoded, pipeline.status().encodes) == (0.0, 0)

    monkeypatch.setattr(pipeline.encoder, "encode", encode)
    report = pipeline.encode_step()
    assert report is not None
    assert 0 < report.encoded == len(pipeline.labelled_map()) <= report.total == len(pipeline.map)


def test_changes_are_not_forgotten_when_the_copy_fails(
    frames: list[RgbdFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline(parse(Config, OPTIONS))
    for frame in frames[:3]:
        pipeline.integrate(frame)
    export = pipeline.map.export

    def fail() -> None:
        raise MemoryError

    monkeypatch.setattr(pipeline.map, "export", fail)
    with pytest.raises(MemoryError):
        pipeline.encode_step()
    monkeypatch.setattr(pipeline.map, "export", export)
    assert pipeline.encode_step() is not None


def test_reset_forgets_map_and_meaning(frames: list[RgbdFrame]) -> None:
    pipeline = Pipeline(parse(Config, OPTIONS))
    pipeline.integrate(frames[0])
    pipeline.integrate(frames[1])
    pipeline.encode_all()
    pipeline.reset()
    assert len(pipeline.map) == len(pipeline.labelled_map()) == 0
    status = pipeline.status()
    assert (status.encodes, status.evicted, status.encoded, status.stage_ms) == (0, 0, 0.0, {})
    with pytest.raises(QueryError, match="nothing of the map is encoded yet"):  # which is not "it is not there"
        pipeline.query("chair")
    pipeline.integrate(frames[0])
    assert len(pipeline.map) > 0


@pytest.mark.parametrize("heads", [{"lang": 48}, {"dino": 384}])
def test_a_model_whose_features_do_not_fit_its_texts_is_refused_at_once(heads: dict[str, int], tmp_path: Path) -> None:
    tiny = {"enc_depths": (1, 1), "enc_channels": (8, 16), "enc_num_head": (1, 2), "patch_size": 16}
    write_model(tmp_path, ChorusModel(ModelConfig(**tiny, heads=heads)), {"text": {"encoder": "minilm"}})
    with pytest.raises(TextSideError, match=r"expected 'lang' with 384"):
        Pipeline(parse(Config, {"encoder.checkpoint": str(tmp_path)}))


def test_missing_checkpoint_is_named() -> None:
    with pytest.raises(CheckpointError, match="no_such_model"):
        Pipeline(parse(Config, {"encoder.checkpoint": "no_such_model"}))


def test_frames_held_back_are_counted_and_leave_the_map_alone(frames: list[RgbdFrame]) -> None:
    pipeline = Pipeline(parse(Config, OPTIONS))
    for frame in frames:
        pipeline.integrate(frame)
    before = len(pipeline.map)
    pose = frames[-1].world_from_camera.copy()
    pose[0, 3] += 50.0
    report = pipeline.integrate(dataclasses.replace(frames[-1], world_from_camera=pose))
    assert (report.held, report.touched) == ("pose_jump", 0)
    assert pipeline.integrate(dataclasses.replace(frames[-1], depth=2 * frames[-1].depth)).held == "depth_scale"
    for _ in range(30):
        pipeline.integrate(frames[-1])
    status = pipeline.status()
    assert status.held == {"pose_jump": 1, "depth_scale": 1, "still": 21}
    assert status.frames == len(frames) + 9
    assert len(pipeline.map) < 1.2 * before
    pipeline.reset()
    assert pipeline.status().held == {}


def test_keyframes_are_kept_of_what_was_integrated(frames: list[RgbdFrame]) -> None:
    pipeline = Pipeline(parse(Config, OPTIONS | {"keyframes.count": 3}))
    for frame in frames:
        pipeline.integrate(frame)
        pipeline.integrate(frame)
    kept = pipeline.keyframes.keyframes()
    assert len(kept) == pipeline.status().keyframes == 3
    assert "keyframe" in pipeline.status().stage_ms
    frame_of = {frame.stamp: frame for frame in frames}
    for keyframe in kept:
        shown, taken = keyframe.frame(), frame_of[keyframe.stamp]
        assert np.abs(shown.depth - taken.depth).max() < 1e-3
        assert np.abs(shown.color.astype(int) - taken.color).mean() < 4
    pipeline.reset()
    assert pipeline.status().keyframes == 0
    without = Pipeline(parse(Config, OPTIONS | {"keyframes.count": 0}))
    without.integrate(frames[0])
    assert len(without.keyframes) == 0
