"""The optimisation: its schedule, what a seed decides, going on from a state, several processes."""

from __future__ import annotations

import copy
import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import run_tiny
import torch
from small_scenes import STILL, blobs, tiny_recipe, units, write_blobs

from chorus_core.encoder.model import ChorusModel
from training.augment import AugmentConfig
from training.configs import Recipe, TeacherConfig
from training.distributed import ALONE, World
from training.objectives import TeacherObjective
from training.prepared import save_prepared
from training.scene_store import SceneStore, map_tensors, whole_scene
from training.step_batches import StepBatches, read_ahead, scene_order
from training.trainer import Trainer

DIM = 16
TEACHERS = (TeacherConfig("lang", DIM, contrast="segment"), TeacherConfig("obj", DIM, contrast="instance"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    return write_blobs(root, {"lang": units(1, 4, DIM), "obj": units(2, 4, DIM)}, {"train": 5, "val": 1})


@pytest.fixture
def store(data: Path) -> SceneStore:
    return SceneStore(data, "train", ("lang", "obj"), ())


def make(recipe: Recipe, **options: object) -> Trainer:
    return Trainer(recipe, [TeacherObjective(t) for t in recipe.pretrain.teachers], ALONE)


def run(trainer: Trainer, store: SceneStore, until: int) -> list[dict[str, float]]:
    """Losses of the steps up to that one."""
    figures = []
    for batch in trainer.batches(store):
        figures.append({name: float(value) for name, value in trainer.train_step(batch).items()})
        if trainer.step == until:
            break
    return figures


def same_weights(left: ChorusModel, right: ChorusModel) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left.state_dict().values(), right.state_dict().values(), strict=True))


# ---- schedule --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [20, 50])
def test_one_cycle_ends_where_it_should(steps: int) -> None:
    """Cosine from peak / divide_first to the peak at the end of the warm-up, to peak / (divide_first divide_last)."""
    recipe = tiny_recipe(TEACHERS, steps=steps, learning_rate=4e-3, block_rate=1e-3, warmup=0.1)
    trainer = make(recipe)
    rates = []
    for _ in range(steps):
        rates.append(sorted({g["lr"] for g in trainer.optimizer.param_groups}))
        trainer.optimizer.step()
        trainer.schedule.step()
    top = steps * 0.1 - 1  # the step of the peak
    for k, (block, other) in enumerate(rates):
        assert other == pytest.approx(4 * block, rel=1e-6)
        rising, share = k <= top, k / top if k <= top else (k - top) / (steps - 1 - top)
        low = 4e-3 / 10 if rising else 4e-3 / 10 / 1000
        cosine = (1 - math.cos(math.pi * share)) / 2 if rising else (1 + math.cos(math.pi * share)) / 2
        assert other == pytest.approx(low + (4e-3 - low) * cosine, rel=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 3, 20])
def test_short_runs_are_fine(steps: int, store: SceneStore) -> None:
    """Also those whose warm-up is a single step (20 x 0.05)."""
    recipe = tiny_recipe(TEACHERS[:1], steps=steps, augment=STILL, batch_scenes=1)
    trainer = make(recipe)
    if steps < 20:
        assert len(run(trainer, store, steps)) == steps
    assert trainer.optimizer.param_groups[0]["lr"] > 0


def test_rates_and_decay_of_the_parameters() -> None:
    """Blocks learn at their own rate; norms and biases do not decay; every parameter is learned once."""
    trainer = make(tiny_recipe(TEACHERS, steps=100, divide_first=1.0))
    group_of = {id(p): g for g in trainer.optimizer.param_groups for p in g["params"]}
    assert sum(len(g["params"]) for g in trainer.optimizer.param_groups) == len(group_of)
    for name, parameter in trainer.model.named_parameters():
        group = group_of[id(parameter)]
        assert group["max_lr"] == (2e-4 if ".block" in name else 2e-3), name
        assert group["weight_decay"] == (0.05 if parameter.ndim > 1 else 0.0), name


# ---- what is drawn ---------------------------------------------------------------------------------------------------


def test_every_epoch_visits_every_scene_once() -> None:
    config = tiny_recipe(TEACHERS, batch_scenes=3, seed=4).pretrain
    pick = scene_order(7, config)
    order = [pick(step, slot) for step in range(14) for slot in range(3)]
    epochs = [order[k : k + 7] for k in range(0, 42, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 3
    assert [scene_order(7, config)(step, 1) for step in range(14)] == order[1::3], "whatever was asked before"


def test_a_seed_repeats_a_run_and_another_does_not(store: SceneStore) -> None:
    def losses(seed: int) -> tuple[list[dict[str, float]], ChorusModel]:
        trainer = make(tiny_recipe(TEACHERS, steps=3, seed=seed, drop_path=0.3))
        return run(trainer, store, 3), trainer.model

    (first, model), (again, twin), (other, _) = losses(0), losses(0), losses(1)
    assert first == again
    assert same_weights(model, twin)
    assert first != other


def test_processes_that_read_ahead_change_nothing(store: SceneStore) -> None:
    """The same batches in the same order, whoever draws them; another step or rank gives others."""
    recipe = tiny_recipe(TEACHERS, steps=5, batch_scenes=4, augment=AugmentConfig())
    batches = StepBatches(store, recipe, ALONE)
    device = torch.device("cpu")
    here, there = (list(read_ahead(batches, (3, 0, 4), workers, device)) for workers in (0, 2))
    for left, right in zip(here, there, strict=True):
        ours: list[torch.Tensor] = []
        theirs: list[torch.Tensor] = []
        map_tensors(left, lambda tensor, kept=ours: kept.append(tensor) or tensor)
        map_tensors(right, lambda tensor, kept=theirs: kept.append(tensor) or tensor)
        assert len(ours) >= 20
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not torch.equal(here[0].feat, here[1].feat)
    second = StepBatches(store, recipe, World(1, 2, device))[3]
    assert torch.equal(second.feat, here[0].feat[-len(second.feat) :]), "the later half of the scenes"


# ---- going on --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [1, 4])
def test_a_restored_run_ends_at_the_same_weights(stop: int, store: SceneStore, tmp_path: Path) -> None:
    """Through a file, with augmentation, dropped paths and a teacher that joins after the stop."""
    teachers = (TEACHERS[0], TeacherConfig("obj", DIM, contrast="instance", starts_at=0.5))
    recipe = tiny_recipe(teachers, steps=6, drop_path=0.3, augment=AugmentConfig())
    straight = make(recipe)
    first = run(straight, store, stop)
    torch.save(straight.state(), tmp_path / "state.pt")
    rest = run(straight, store, 6)
    torch.manual_seed(123)
    resumed = make(recipe)
    run(resumed, store, 2)  # anything: a state replaces all of it
    resumed.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.step == stop == len(first)
    assert run(resumed, store, 6) == rest
    assert same_weights(straight.model, resumed.model)
    assert same_weights(straight.average, resumed.average)


# ---- a step ----------------------------------------------------------------------------------------------------------


def test_the_average_follows_its_formula(store: SceneStore) -> None:
    """EMA in float64 beside it; the decay grows from 0.1 as (1 + step) / (10 + step)."""
    trainer = make(tiny_recipe(TEACHERS, steps=6, ema=0.3, augment=STILL))
    expected = {k: v.double().clone() for k, v in trainer.average.state_dict().items()}
    for k, batch in enumerate(trainer.batches(store)):
        trainer.train_step(batch)
        decay = min(0.3, (1 + k) / (10 + k))
        for name, value in trainer.model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value.double()
    for name, value in trainer.average.state_dict().items():
        assert torch.allclose(value.double(), expected[name], atol=1e-6), name
    assert not trainer.average.training
    assert not any(p.requires_grad for p in trainer.average.parameters())


def test_without_averaging_the_average_is_the_model(store: SceneStore) -> None:
    trainer = make(tiny_recipe(TEACHERS, steps=2, ema=0.0, augment=STILL))
    run(trainer, store, 2)
    assert same_weights(trainer.model, trainer.average)


def test_a_staged_teacher_joins(store: SceneStore) -> None:
    teachers = (TeacherConfig("lang", DIM), TeacherConfig("obj", DIM, starts_at=0.5))
    trainer = make(tiny_recipe(teachers, steps=5, augment=STILL))
    head = copy.deepcopy(trainer.model.projectors["obj"].state_dict())
    early = run(trainer, store, 3)
    assert all("obj.feature" not in figures for figures in early)
    assert all(torch.equal(v, head[k]) for k, v in trainer.model.projectors["obj"].state_dict().items())
    late = run(trainer, store, 5)
    assert all("obj.feature" in figures for figures in late), "from 3 of 5 steps on"
    assert not torch.equal(trainer.model.projectors["obj"].mlp_head[0].weight, head["mlp_head.0.weight"])


def test_gradients_that_are_not_finite_are_skipped(store: SceneStore) -> None:
    trainer = make(tiny_recipe(TEACHERS, steps=4, augment=STILL))
    batches = list(trainer.batches(store))
    trainer.train_step(batches[0])
    before = copy.deepcopy(trainer.model), copy.deepcopy(trainer.average)
    batches[1].targets["lang"][7] = torch.nan
    figures = trainer.train_step(batches[1])
    assert not math.isfinite(float(figures["grad_norm"]))
    assert same_weights(trainer.model, before[0])
    assert same_weights(trainer.average, before[1])
    assert trainer.step == 2, "the schedule goes on"
    assert math.isfinite(float(trainer.train_step(batches[2])["loss"]))
    assert not same_weights(trainer.model, before[0])


def test_gradients_are_clipped(store: SceneStore, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(tiny_recipe(TEACHERS, steps=4, augment=STILL, clip=1e-3))
    norms = []
    step = trainer.optimizer.step

    def measured() -> None:
        norms.append(float(torch.cat([p.grad.flatten() for p in trainer.model.parameters()]).norm()))
        step()

    measured._wrapped_by_lr_sched = True
    monkeypatch.setattr(trainer.optimizer, "step", measured)
    figures = run(trainer, store, 2)
    assert all(f["grad_norm"] > 1e-2 for f in figures)
    assert norms == pytest.approx([1e-3, 1e-3], rel=1e-3)


# ---- several processes -----------------------------------------------------------------------------------------------


def test_scenes_must_divide_among_processes() -> None:
    recipe = tiny_recipe(TEACHERS, batch_scenes=3)
    with pytest.raises(ValueError, match="batch_scenes = 3: expected a multiple of 2"):
        Trainer(recipe, [], World(0, 2, torch.device("cpu")))


@pytest.fixture
def torchrun(repository: Path) -> Callable[..., None]:
    def call(*arguments: object) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1",
            "--master-port", port, *arguments,
        ]  # fmt: skip
        path = os.pathsep.join([str(repository), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        done = subprocess.run(
            [str(c) for c in command], env=environment, cwd=repository, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr[-3000:]

    return call


def test_two_processes_train_as_one(tmp_path: Path, torchrun: Callable[..., None]) -> None:
    """A batch of four scenes on two processes: the same scenes, the same losses but for rounding, one set of files.

    No two scenes have the same classes in the same numbers, so the processes' own means differ from the whole's.
    """
    data = tmp_path / "prepared"
    for k in range(6):
        scene = blobs({"lang": units(1, 4, DIM), "obj": units(2, 4, DIM)}, k, each=50 + 14 * k, name=f"scene_{k}")
        scene = replace(scene, segment=torch.where(scene.segment == k % 3, -1, scene.segment))
        save_prepared(data / ("train" if k < 5 else "val") / scene.info.name, scene)
    torchrun(run_tiny.__file__, data, tmp_path / "two")
    run_tiny.main(data, tmp_path / "one")
    one = torch.load(tmp_path / "one" / "record_0.pt", weights_only=True)
    ranks = [torch.load(tmp_path / "two" / f"record_{rank}.pt", weights_only=True) for rank in (0, 1)]
    for step, scenes in enumerate(one["seen"]):
        together = ranks[0]["seen"][step] + ranks[1]["seen"][step]
        assert len(scenes) == len(together) == 4
        assert all(torch.equal(a, b) for a, b in zip(scenes, together, strict=True))
    for step, figures in enumerate(one["losses"]):
        for name, value in figures.items():
            mine = [rank["losses"][step][name] for rank in ranks]
            if name == "grad_norm":  # of the averaged gradients, on both
                assert mine[0] == pytest.approx(mine[1], rel=1e-6)
            assert sum(mine) / 2 == pytest.approx(value, rel=1e-3), (step, name)
    assert "obj.feature" in one["losses"][-1], "the staged teacher has joined"
    assert all(torch.equal(v, ranks[1]["average"][k]) for k, v in ranks[0]["average"].items())
    # Weights whose gradient is rounding alone (the keys' biases) are moved by Adam at will: compare what models say.
    batch = whole_scene(SceneStore(data, "val", (), ())[0], 0.02, points=False)
    said = []
    for record in (one, ranks[0]):
        model = ChorusModel(run_tiny.recipe().model).eval()
        model.load_state_dict(record["average"])
        with torch.no_grad():
            upcast = model(batch.feat, model.hierarchy(batch.grid, batch.offset))
            said.append(torch.cat([model.project(upcast, head) for head in ("lang", "obj")], dim=1))
    start = ChorusModel(run_tiny.recipe().model).eval()
    assert float((said[0] - said[1]).abs().max()) < 2e-3
    with torch.no_grad():
        fresh = start.project(start(batch.feat, start.hierarchy(batch.grid, batch.offset)), "lang")
    assert float((said[0][:, :DIM] - fresh).abs().max()) > 0.1, "training moved far more than that"
    assert (tmp_path / "two" / "model" / "model.safetensors").is_file()
    assert len((tmp_path / "two" / "log.jsonl").read_text().splitlines()) == 1, "only one process writes"
