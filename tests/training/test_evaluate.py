from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_core.encoder import ChorusModel, ModelConfig, write_model
from chorus_core.frames import CameraIntrinsics, RgbdFrame
from chorus_core.gaussians import Gaussians
from chorus_core.io.scene_folder import SceneFolderError
from chorus_core.rendering import View, render
from chorus_core.semantics.connectivity import connected_groups
from chorus_core.semantics.labelled_map import LabelledMap
from chorus_core.semantics.text_encoder import MiniLMEncoder
from chorus_core.semantics.vocabulary import Vocabulary
from training.datasets.base import LabelledPoints
from training.evaluate import main, presence_report
from training.evaluation.encoded import EncodedScene, SceneAccuracy, Unseen
from training.evaluation.figures import draw_recording
from training.evaluation.label_accuracy import label_accuracy
from training.evaluation.points import save_points
from training.evaluation.presence import Answer, object_score
from training.evaluation.recording import hold_out, psnr, render_quality
from training.evaluation.surface import LabelledSurface, SurfaceError, carry_labels
from training.evaluation.zero_shot import PROMPT
from training.prepared import LiftedFeatures, PreparedScene, SceneInfo, save_prepared


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.integers(1, 6))
def test_object_score_is_the_highest_threshold_with_an_object(seed: int, n: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    points, scores = rng.uniform(0, 1, (n, 3)), np.round(rng.uniform(0, 1, n), 3)

    def has_object(threshold: float) -> bool:
        return bool((connected_groups(points[scores >= threshold], 0.25, count) >= 0).any())

    thresholds = [t for t in np.unique(scores) if has_object(t)]
    assert object_score(points, scores, 0.25, count) == (max(thresholds) if thresholds else -1.0)


def test_scattered_peaks_are_no_object() -> None:
    cluster = np.random.default_rng(0).uniform(0, 0.1, (20, 3))
    peaks = np.arange(60.0).reshape(20, 3) + 10
    scores = np.r_[np.full(20, 0.4), np.full(20, 0.9)]
    assert object_score(np.r_[cluster, peaks], scores, 0.1, 15) == pytest.approx(0.4)


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 40))
def test_held_out_frames(frames: int, count: int) -> None:
    held = hold_out(frames, count)
    assert held == sorted(set(held)) and len(held) <= count and all(0 < h < frames for h in held)
    assert frames < 2 * count or len(held) == count
    assert len(held) <= frames / 2


def test_every_fifteenth_of_three_hundred() -> None:
    assert hold_out(300, 20) == list(range(7, 300, 15))


def test_psnr() -> None:
    image = np.random.default_rng(0).uniform(0, 1, (8, 9, 3))
    assert psnr(image, image) == float("inf")
    assert psnr(np.zeros((4, 4)), np.full((4, 4), 0.1)) == pytest.approx(20.0)


def wall(n: int = 40) -> Gaussians:
    """A square of coloured discs at z = 2 m, facing a camera at the origin."""
    x, y = torch.meshgrid(torch.linspace(-1, 1, n), torch.linspace(-1, 1, n), indexing="ij")
    means = torch.stack((x, y, torch.full_like(x, 2.0)), dim=-1).view(-1, 3)
    quats = torch.tensor((1.0, 0, 0, 0)).expand(len(means), 4).contiguous()
    scales = torch.tensor((0.03, 0.03, 0.005)).expand(len(means), 3).contiguous()
    colors = ((means + 1) / 3).clamp(0, 1)
    return Gaussians(means, quats, scales, torch.full((len(means),), 0.95), colors)


def own_view(gaussians: Gaussians) -> RgbdFrame:
    intrinsics = CameraIntrinsics(60.0, 60.0, 31.5, 23.5, 64, 48)
    drawn = render(gaussians, View(intrinsics, np.eye(4)))
    color = (drawn.color.numpy() * 255).round().astype(np.uint8)
    return RgbdFrame(color, drawn.depth.numpy(), intrinsics, np.eye(4), 0)


def test_a_map_draws_its_own_view_well() -> None:
    gaussians = wall()
    quality = render_quality(gaussians, [own_view(gaussians)], size=(64, 48))
    assert quality.views == 1 and quality.psnr > 45 and quality.depth_error < 1e-3
    dark = Gaussians(gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.colors * 0)
    assert render_quality(dark, [own_view(gaussians)], size=(64, 48)).psnr < 15


def surface(n: int = 400) -> LabelledSurface:
    points = np.random.default_rng(0).uniform(0, 1, (n, 3)).astype(np.float32)
    label = (points[:, 0] * 4).astype(np.int64)  # four slabs
    return LabelledSurface(points, label, label, ("wall", "chair", "table", "gong"), frozenset({"gong"}))


def labelled(points: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> LabelledMap:
    n = len(points)
    gaussians = Gaussians(
        torch.from_numpy(points).float(), torch.tensor((1.0, 0, 0, 0)).repeat(n, 1), torch.full((n, 3), 0.02),
        torch.full((n,), 0.9), torch.full((n, 3), 0.5),
    )  # fmt: skip
    features = torch.zeros(n, 4, dtype=torch.float16)
    return LabelledMap(gaussians, features, torch.from_numpy(labels), torch.ones(n), Vocabulary(names), 0)


def test_perfect_labels_in_another_order() -> None:
    truth = surface()
    names = ("gong", "lamp", "table", "chair", "wall")
    to = np.array([names.index(label) for label in truth.labels])
    report = label_accuracy(labelled(truth.points, to[truth.label], names), truth, 0.01)
    assert report["reached"] == 1.0 and set(report["iou"].values()) == {1.0}
    assert report["reached_points"]["seen"]["f_miou"] == report["reached_points"]["held_back"]["miou"] == 1.0
    assert report["reached_points"]["all"]["classes"] == 4


def test_misses_and_unlabelled_gaussians_count_in_the_second_figure_only() -> None:
    truth = surface()
    half = truth.points[:, 1] < 0.5
    names = truth.labels
    report = label_accuracy(labelled(truth.points[half], truth.label[half], names), truth, 1e-4)
    assert report["reached"] == pytest.approx(half.mean())
    assert report["reached_points"]["all"]["miou"] == 1.0
    assert report["all_points"]["all"]["miou"] == pytest.approx(half.mean(), abs=0.06)
    nothing = labelled(truth.points, np.full(len(half), -1), names)
    assert label_accuracy(nothing, truth, 0.01)["reached"] == 0.0


def test_a_label_the_recording_lacks_is_wrong() -> None:
    truth = surface()
    wrong = np.where(truth.label == 1, 4, truth.label)
    report = label_accuracy(labelled(truth.points, wrong, (*truth.labels, "stool")), truth, 0.01)
    assert (
        report["iou"]["chair"] == 0.0 and report["confused"]["chair"] == "stool 100%" and "stool" not in report["iou"]
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(0, 30), st.integers(0, 30))
def test_carried_labels_are_the_nearest(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    points, wanted, labels = rng.uniform(0, 1, (n, 3)), rng.uniform(0, 1, (m, 3)), rng.integers(0, 5, n)
    carried = carry_labels(points, labels, wanted, 0.2)
    distance = np.linalg.norm(wanted[:, None] - points[None], axis=-1)
    expected = [labels[d.argmin()] if n and d.min() < 0.2 else -1 for d in distance]
    assert carried.tolist() == expected


def test_the_shipped_surface(repository: Path) -> None:
    folder = repository / "data" / "house_drive"
    if not (folder / "ground_truth.npz").is_file():
        pytest.skip("the shipped recording is not here")
    truth = LabelledSurface.load(folder)
    assert len(truth.points) == len(truth.label) > 100_000 and truth.held_back < set(truth.labels)
    counts = np.bincount(truth.instance)
    tree = json.loads((folder / "ground_truth.json").read_text(encoding="utf-8"))
    assert counts.tolist() == [i["points"] for i in tree["instances"]][: len(counts)]


@pytest.mark.parametrize("break_it", ["json", "npz", "instance"])
def test_bad_surface(tmp_path: Path, break_it: str) -> None:
    tree = {"labels": ["wall"], "held_back_labels": [], "instances": [{"label": "wall"}]}
    instance = np.full(5, 3 if break_it == "instance" else 0, np.uint8)
    if break_it != "json":
        (tmp_path / "ground_truth.json").write_text(json.dumps(tree), encoding="utf-8")
    if break_it != "npz":
        np.savez(tmp_path / "ground_truth.npz", points_mm=np.zeros((5, 3), np.int16), instance=instance)
    with pytest.raises(SurfaceError, match=r"expected|fit together"):
        LabelledSurface.load(tmp_path)


def scene(category: list[int], instance: list[int], ids: list[str]) -> EncodedScene:
    n = len(category)
    return EncodedScene(
        "s", np.zeros((n, 3)), torch.zeros(n, 2), np.array(category), np.array(instance), ids, 0.03
    )  # fmt: skip


def test_groups_of_scene_accuracy() -> None:
    # 0 wall (seen), 1 chair (seen; model b unseen), 2 gong (held back)
    accuracy = SceneAccuracy(("wall", "chair", "gong"), Unseen(frozenset({"b"}), frozenset({"gong"})))
    one = scene([0, 0, 1, 1, 1, 1, 2, 2, -1], [0, 0, 1, 1, 2, 2, 3, 3, -1], ["made:wall", "a", "b", "g"])
    accuracy.add(one, np.array([0, 0, 1, 1, 1, 0, 2, 1, 0]))
    pooled = accuracy.report()["pooled"]
    assert pooled["seen"]["miou"] == pytest.approx(np.mean([2 / 3, 3 / 5]))
    assert pooled["seen"]["f_miou"] == pytest.approx(3 / 5)
    assert pooled["unseen_instances"]["f_miou"] == pytest.approx(1 / 2)
    assert pooled["seen_instances"]["f_miou"] == 1.0
    assert pooled["held_back"]["f_miou"] == pytest.approx(1 / 2)
    accuracy.add(one, np.array([0, 0, 1, 1, 1, 1, 2, 2, 0]))
    over = accuracy.report()["over_scenes"]["held_back.f_miou"]
    assert over == {"mean": 0.75, "std": 0.25, "scenes": 2}


def test_presence_report() -> None:
    truth = surface()
    absent = [Answer("harp", 0, 0.0, ""), Answer("cow", 2, 0.7, "chair")]
    present = [Answer("chair", 1, 0.9, "chair"), Answer("table", 1, 0.8, "wall"), Answer("gong", 0, 0.0, "")]
    report = presence_report(absent, present, truth)
    assert report["absent_answered_nothing"] == 0.5
    assert (report["seen_found"], report["seen_right"], report["held_back_found"]) == (1.0, 0.5, 0.0)


def test_pictures(tmp_path: Path) -> None:
    gaussians = wall()
    plane = gaussians.means.numpy()[:, [0, 2, 1]]  # upright, z up
    half = (plane[:, 0] > 0).astype(np.int64)
    truth = LabelledSurface(plane.astype(np.float32), half, half, ("wall", "chair"), frozenset())
    paths = draw_recording(tmp_path, labelled(plane, half, ("wall", "chair")), truth, [own_view(gaussians)], 0.1)
    assert [p.name for p in paths] == ["overview.png", "view_0.png"] and all(p.stat().st_size > 500 for p in paths)


def test_unknown_recording(tmp_path: Path) -> None:
    with pytest.raises(SurfaceError, match="ground_truth"):
        main(["house", "--model", str(tmp_path), "--sequence", str(tmp_path), "--out", str(tmp_path / "out")])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of two rooms to learn from and one to judge by, whose lifted features are the texts of their classes;
    beside it a tiny model with random weights."""
    root = tmp_path_factory.mktemp("prepared")
    names = ("floor", "red box", "blue ball")
    texts = MiniLMEncoder().encode([PROMPT.replace("{label}", name) for name in names])
    for place in ("train/a", "train/b", "val/c"):
        rng = torch.Generator().manual_seed(ord(place[-1]))
        segment = torch.arange(240) % 3
        means = torch.rand(240, 3, generator=rng) * 0.5 + segment[:, None] * torch.tensor((1.0, 0, 0))
        gaussians = Gaussians(
            means, torch.tensor((1.0, 0, 0, 0)).repeat(240, 1), torch.full((240, 3), 0.03), torch.full((240,), 0.9),
            torch.eye(3)[segment],
        )  # fmt: skip
        normals = torch.tensor((0.0, 0, 1)).repeat(240, 1)
        lifted = {"lang": LiftedFeatures(texts.half(), segment)}
        info = SceneInfo(place[-1], 0.1, names)
        save_prepared(root / place, PreparedScene(info, gaussians, normals, segment, segment, lifted))
    labelled_points = LabelledPoints(means.numpy() + 0.001, segment.numpy(), segment.numpy(), names)
    save_points(root / "val" / "c", labelled_points)
    torch.manual_seed(0)
    config = ModelConfig(
        enc_channels=(16, 24), enc_depths=(1, 1), enc_num_head=(2, 2), patch_size=64, heads={"lang": 384}, head_ratio=1,
        grid_size=0.1,
    )  # fmt: skip
    write_model(root / "model", ChorusModel(config), {"name": "tiny"})
    return root


def run_command(prepared: Path, out: Path, *arguments: str) -> dict:
    main(
        [*arguments, "--model", str(prepared / "model"), "--data", str(prepared), "--device", "cpu", "--out", str(out)]
    )
    (report,) = out.glob("*.json")
    return json.loads(report.read_text(encoding="utf-8"))


def test_zero_shot_command(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run_command(prepared, tmp_path, "zero-shot", "--lifted", "--upstream-vote")
    printed = capsys.readouterr().out
    assert report["gaussians"]["all"]["miou"] == report["points"]["all"]["miou"] == 1.0
    assert report["points_upstream_vote"]["all"]["miou"] == 1.0 and report["features"] == "lifted from 2D"
    assert "upstream vote" in printed and "f-mIoU" in printed and str(tmp_path / "zero-shot.json") in printed
    groups = tmp_path / "groups.yaml"
    groups.write_text("things: [red box]", encoding="utf-8")
    classes = tmp_path / "classes.txt"
    classes.write_text("red box\nfloor\nchair\n", encoding="utf-8")
    report = run_command(
        prepared, tmp_path, "zero-shot", "--groups", str(groups), "--classes", str(classes), "--prompt", "a {label}",
        "--smoothing", "1",
    )  # fmt: skip
    assert report["features"] == "3D encoder" and report["model"] == "tiny" and report["prompt"] == ["a {label}"]
    assert report["gaussians"]["all"]["classes"] == 2 and report["gaussians"]["things"]["classes"] == 1
    assert 0 <= report["points"]["all"]["miou"] <= 1 and "points_upstream_vote" not in report


def test_instances_command(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run_command(prepared, tmp_path, "instances", "--lifted", "--min-points", "20", "--gap", "0.3")
    assert report["gaussians"]["all"] == report["points"]["all"] == {"map": 1, "map50": 1, "map25": 1, "classes": 2}
    assert "mAP25" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["linear", "decoder"])
def test_probe_command(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    report = run_command(
        prepared, tmp_path, "probe", "--kind", kind, "--steps", "2", "--batch-scenes", "1",
        "--scene-fraction", "0.5", "--points-per-scene", "20", "--name", "mine",
    )  # fmt: skip
    assert len(report["train_scenes"]) == 1 and report["train_labels"] == 20 and (tmp_path / "mine.json").is_file()
    assert report["kind"] == kind and report["points"]["all"]["classes"] == 3 and "mIoU" in capsys.readouterr().out


def test_agreement_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "a.npy", np.array([0, 0, 1, 1, -1]))
    np.save(tmp_path / "b.npy", np.array([0, 1, 1, 1, 0]))
    (tmp_path / "classes.txt").write_text("chair\ntable\n", encoding="utf-8")
    paths = [
        f"--{name}={tmp_path / file}" for name, file in (("a", "a.npy"), ("b", "b.npy"), ("classes", "classes.txt"))
    ]
    main(["agreement", *paths, "--out", str(tmp_path / "out")])
    report = json.loads((tmp_path / "out" / "agreement.json").read_text(encoding="utf-8"))
    assert report["agreement"] == 0.75 and report["classes"]["chair"]["iou"] == 0.5
    assert "75.0 of the Gaussians" in capsys.readouterr().out


def test_commands_say_what_is_missing(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(SceneFolderError, match="no prepared scenes"):
        run_command(prepared, tmp_path, "zero-shot", "--subset", "test")
    with pytest.raises(SceneFolderError, match=r"proposals\.npy"):
        run_command(prepared, tmp_path, "instances", "--lifted", "--proposals", "file")
