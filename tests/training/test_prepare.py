"""The command line: options, failures, Ray, and a run that is killed and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "preparation"))  # for small_rooms

from small_rooms import write_room, write_teacher

from chorus_core.config import ConfigError, options
from training import prepare
from training.preparation.config import PrepareConfig
from training.preparation.jobs import SceneReport

VIEWS = {"train_0_0": 6, "train_0_1": 40, "train_0_2": 4, "val_0_0": 2}
OPTIONS = ("--gaussians", "map", "--map-voxel-size", "0.05", "--batch", "1", "--device", "cpu", "--keep-stages")


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three training rooms and one for validation, and a teacher beside them."""
    root = tmp_path_factory.mktemp("rooms")
    for number, (name, views) in enumerate(VIEWS.items()):
        write_room(root / "data", name, number, views)
    write_teacher(root / "teacher")
    return root


def arguments(rooms: Path, out: Path, *more: str) -> list[str]:
    teacher = f"embedded:{rooms / 'teacher'}"
    return ["generated", str(rooms / "data"), "--out", str(out), "--teachers", teacher, *OPTIONS, *more]


def prepared(out: Path) -> dict[str, bytes]:
    files = (p for p in out.rglob("*") if p.is_file() and ".prepare" not in p.parts)
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(files)}


def report(out: Path) -> dict[str, dict]:
    return {row["name"]: row for row in json.loads((out / ".prepare" / "report.json").read_text())}


def stamps(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.is_file()}


def descendants(pid: int) -> set[int]:
    """Processes below one, from /proc."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, front = set(), [pid]
    while front:
        children = parents.get(front.pop(), [])
        found.update(children)
        front.extend(children)
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds: float, what: str) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, what
        time.sleep(0.005)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds Ray's processes in /proc")
def test_a_run_killed_on_ray_and_started_again_ends_as_an_undisturbed_one(rooms: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    out, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "training.prepare", *arguments(rooms, out, "--subset", "train", "--workers", "1")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(command, cwd=Path(prepare.__file__).parents[1], env=environment)
    work = out / ".prepare" / "train"
    below: set[int] = set()
    try:
        wait_until(lambda: run.poll() is not None or (out / "train" / "train_0_0").exists(), 90, "no scene ends")
        below = descendants(run.pid)
        halfway = work / "train_0_1" / "features"
        wait_until(lambda: run.poll() is not None or len(list(halfway.glob("*/*.npz"))) >= 5, 30, "no second scene")
        assert run.poll() is None and below
    finally:
        run.send_signal(signal.SIGKILL)
        for pid in filter(alive, below):  # Ray's processes follow by themselves, but some take a minute to notice
            os.kill(pid, signal.SIGKILL)
        run.wait()
    wait_until(lambda: not any(map(alive, below)), 30, "a process outlived its kill")

    first_folder, first_stages = stamps(out / "train" / "train_0_0"), stamps(work / "train_0_0")
    second_stages = stamps(work / "train_0_1")
    assert 5 <= sum(name.endswith(".npz") for name in second_stages) < VIEWS["train_0_1"]
    assert not (out / "train" / "train_0_1").exists()

    assert prepare.main(arguments(rooms, out, "--subset", "train", "--workers", "0")) == 0
    assert [row["status"] for row in report(out).values()] == ["skipped", "done", "done"]
    assert stamps(out / "train" / "train_0_0") == first_folder and stamps(work / "train_0_0") == first_stages
    after = stamps(work / "train_0_1")
    assert {name: after[name] for name in second_stages if "/." not in name} == {
        name: stamp for name, stamp in second_stages.items() if "/." not in name
    }  # neither the Gaussians nor what the teacher had said were made again

    assert prepare.main(arguments(rooms, whole, "--subset", "train", "--workers", "0")) == 0
    assert prepared(out) == prepared(whole) and len(prepared(whole)) > 20


def test_a_failing_scene_is_named_and_the_others_are_prepared(
    rooms: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("val_0_0", "val_0_1"):
        write_room(data, name, 3, 2)
    (data / "val_0_0" / "color" / "1.png").write_bytes(b"not an image")
    command = arguments(rooms, tmp_path / "out", "--workers", "0")
    command[1] = str(data)
    assert prepare.main(command) == 1
    rows = report(tmp_path / "out")
    assert rows["val/val_0_1"]["status"] == "done" and rows["val/val_0_1"]["outputs"] == ["val/val_0_1"]
    assert rows["val/val_0_0"]["status"] == "failed" and "1.png" in rows["val/val_0_0"]["reason"]
    assert "val/val_0_0 failed: " in caplog.text
    write_room(tmp_path / "mended", "val_0_0", 3, 2)
    (data / "val_0_0" / "color" / "1.png").write_bytes((tmp_path / "mended/val_0_0/color/1.png").read_bytes())
    assert prepare.main(command) == 0
    assert [row["status"] for row in report(tmp_path / "out").values()] == ["done", "skipped"]


def test_ctrl_c_ends_the_run_with_a_report(rooms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(job, progress=False) -> SceneReport:
        if job.scene == "train_0_1":
            raise KeyboardInterrupt
        return SceneReport(job.name, "done", 0.0)

    monkeypatch.setattr(prepare, "prepare_job", interrupted)
    assert prepare.main(arguments(rooms, tmp_path / "out", "--workers", "0")) == prepare.INTERRUPTED
    assert list(report(tmp_path / "out")) == ["train/train_0_0"]


def test_list_shows_scenes_and_touches_nothing(rooms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare.main(["generated", str(rooms / "data"), "--out", str(tmp_path / "out"), "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "train/train_0_0: 6 images with depth, Gaussians, labels" and lines[-1] == "4 scenes"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--subset", "test"], "subset 'test': not in the data set; there are train, val"),
        (["--scenes", "nowhere"], "scene 'nowhere'"),
        (["--map-voxel-size", "-1"], "map.voxel_size = -1.0: expected a value > 0.001"),
        (["--chunk-size", "3"], "chunk.stride = 4.0: expected at most chunk.size = 3.0"),
        (["--dataset-option", "every"], "expected name=value"),
        (["--dataset-option", "colour=1"], "no option 'colour'"),
        (["--workers", "-1"], "expected 0 or more"),
    ],
)
def test_wrong_options_are_named(
    rooms: Path, tmp_path: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        prepare.main([*arguments(rooms, tmp_path / "out"), *more])
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_every_field_has_an_option_with_help_and_files_give_way_to_options(tmp_path: Path) -> None:
    text = prepare.make_parser().format_help()
    for item in options(PrepareConfig):
        assert prepare._flag(item.name) in text and item.help
    path = tmp_path / "prepare.yaml"
    path.write_text("lift: {max_width: 100, center: true}\nfit.steps: 7\n")
    parsed = prepare.make_parser().parse_args(["scannet", ".", "--config", str(path), "--max-width", "50"])
    config = prepare.read_config(parsed)
    assert (config.lift.max_width, config.lift.center, config.fit.steps, config.every) == (50, True, 7, 1)
    path.write_text("lift: {max_with: 100}\n")
    with pytest.raises(ConfigError, match="max_with"):
        prepare.read_config(parsed)


def test_teachers_may_be_given_with_commas() -> None:
    assert prepare.teacher_specs(["a,b:c", "gen+obj=d"]) == ("a", "b:c", "gen+obj=d")
