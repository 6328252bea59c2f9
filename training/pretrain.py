"""``python -m training.pretrain``: multi-teacher pretraining of a Chorus model on Gaussian scenes.

Scenes live on the training device and are augmented there; a folder that a generator is still filling is read again
as training goes on. A stopped run goes on from its last state. Every teacher is a :class:`TeacherTarget`.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from chorus_core.encoder.checkpoint import read_model, write_model
from chorus_core.encoder.model import ChorusModel, ModelConfig
from chorus_core.io.atomic import atomic_path
from training.augment import AugmentConfig, augment
from training.language import COLORS, LanguageTargets
from training.scene_store import Batch, SceneStore, collate
from training.targets import LanguageTarget, TeacherTarget
from training.validate import validate

logger = logging.getLogger(__name__)

MINI = ModelConfig(
    enc_channels=(32, 64, 128, 192, 256),
    enc_depths=(2, 2, 2, 2, 2),
    enc_num_head=(2, 4, 8, 12, 16),
    patch_size=512,
    heads={"lang": 384},
    head_ratio=1,
)
"""``chorus_mini``: the release's family at a twelfth of its size."""


@dataclass(frozen=True)
class PretrainConfig:
    """Optimisation: the paper's choices where a run of minutes allows them."""

    batch_scenes: int = 8
    learning_rate: float = 2e-3
    block_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    drop_path: float = 0.1
    clip: float = 1.0
    ema: float = 0.999
    seconds: float = 540.0
    total_seconds: float = 540.0
    validate_every: float = 60.0
    seed: int = 0
    augment: AugmentConfig = field(default_factory=AugmentConfig)


class Trainer:
    """Model, its running average, optimiser and what is needed to go on after a stop."""

    def __init__(self, model: ChorusModel, config: PretrainConfig, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.model = model.to(device)
        self.average = copy.deepcopy(self.model).eval()
        self.optimizer = torch.optim.AdamW(_parameter_groups(model, config), weight_decay=config.weight_decay)
        self.rng = torch.Generator(device=device).manual_seed(config.seed)
        self.step = 0
        self.elapsed = 0.0
        self.log: list[dict[str, float]] = []

    def train_step(self, batch: Batch, targets: Sequence[TeacherTarget]) -> dict[str, Tensor]:
        """One update; returns the loss terms, still on the device."""
        self._set_rate()
        self.model.train()
        permutations = [torch.randperm(4).tolist() for _ in self.model.config.enc_depths]
        levels = self.model.hierarchy(batch.grid, batch.offset, permutations)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            upcast = self.model(batch.feat, levels)
            terms = {}
            for target in targets:
                predicted = self.model.project(upcast, target.head, rows=1 << 30)
                for name, value in target.loss(predicted, batch, self.rng).items():
                    terms[f"{target.head}.{name}"] = value
        loss = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        if torch.isfinite(norm):
            self.optimizer.step()
            self._update_average()
        self.step += 1
        return {name: value.detach() for name, value in terms.items()} | {"grad_norm": norm}

    def _set_rate(self) -> None:
        """One cycle over the planned time: a linear warm-up, then a cosine down to a thousandth."""
        progress = min(self.elapsed / self.config.total_seconds, 1.0)
        if progress < self.config.warmup:
            factor = 0.05 + 0.95 * progress / self.config.warmup
        else:
            done = (progress - self.config.warmup) / (1 - self.config.warmup)
            factor = 0.001 + 0.999 * 0.5 * (1 + float(torch.cos(torch.tensor(done * torch.pi))))
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        for mine, theirs in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mine.lerp_(theirs, 1 - decay)

    def state(self) -> dict[str, object]:
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": self.rng.get_state(),
            "step": self.step,
            "elapsed": self.elapsed,
            "log": self.log,
        }

    def restore(self, state: dict[str, object]) -> None:
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rng.set_state(state["rng"].cpu())
        self.step, self.elapsed, self.log = state["step"], state["elapsed"], state["log"]


def _parameter_groups(model: ChorusModel, config: PretrainConfig) -> list[dict[str, object]]:
    """Blocks at their own rate, as in the paper; no decay on norms and biases."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault((".block" in name, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "peak": config.block_rate if in_block else config.learning_rate,
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (in_block, decays), parameters in groups.items()
    ]


def draw_batch(store: SceneStore, config: PretrainConfig, rng: torch.Generator) -> Batch:
    """Random scenes, each augmented."""
    picks = torch.randint(0, len(store.scenes), (config.batch_scenes,), generator=rng, device=store.device).tolist()
    parts = []
    for scene in (store.scenes[i] for i in picks):
        gaussians, instance, grid_size = augment(scene.gaussians, scene.instance, scene.voxel_size, config.augment, rng)
        parts.append((scene, gaussians, instance, grid_size))
    return collate(parts)


def pretrain(trainer: Trainer, train: SceneStore, val: SceneStore, targets: Sequence[TeacherTarget], out: Path) -> None:
    """Train for the configured seconds, validating, logging and saving on the way."""
    config = trainer.config
    began, base = time.perf_counter(), trainer.elapsed
    next_validation = config.validate_every
    recent: list[dict[str, Tensor]] = []
    with tqdm(total=round(config.seconds), unit="s", desc="pretrain") as bar:
        while (spent := time.perf_counter() - began) < config.seconds:
            trainer.elapsed = base + spent
            recent.append(trainer.train_step(draw_batch(train, config, trainer.rng), targets))
            bar.update(round(spent) - bar.n)
            if spent >= next_validation:
                next_validation += config.validate_every
                train.refresh()
                val.refresh(limit=24)
                _report(trainer, train, val, targets, recent, out)
                recent = []
    _report(trainer, train, val, targets, recent, out)


def _report(
    trainer: Trainer,
    train: SceneStore,
    val: SceneStore,
    targets: Sequence[TeacherTarget],
    recent: list[dict[str, Tensor]],
    out: Path,
) -> None:
    entry: dict[str, float] = {"step": trainer.step, "seconds": round(trainer.elapsed, 1), "scenes": len(train.scenes)}
    for name in recent[0] if recent else ():
        entry[name] = float(torch.stack([r[name] for r in recent]).mean())
    if val.scenes:
        language = next(t for t in targets if isinstance(t, LanguageTarget))
        entry |= validate(trainer.average, val, language)
    trainer.log.append(entry)
    logger.info("%s", {k: round(v, 4) for k, v in entry.items()})
    with atomic_path(out / "state.pt") as temporary:
        torch.save(trainer.state(), temporary)
    with atomic_path(out / "log.json") as temporary:
        Path(temporary).write_text(json.dumps(trainer.log, indent=1), encoding="utf-8")
    description = {"name": "chorus_mini", "text": {"encoder": "minilm", "head": "lang"}, "steps": trainer.step}
    write_model(out / "model", trainer.average, description)


def _wait_for_scenes(store: SceneStore, count: int) -> None:
    """Until a generator has written as many scenes as training begins with."""
    if not store.folder.is_dir():
        raise SystemExit(f"{store.folder}: no such folder; training.scenes.generate makes it")
    store.refresh()
    while len(store.scenes) < count:
        logger.info("%d of %d scenes in %s, waiting for more", len(store.scenes), count, store.folder)
        time.sleep(5)
        store.refresh()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=Path, required=True, help="folder of training scenes")
    parser.add_argument("--val-scenes", type=Path, required=True, help="folder of validation scenes")
    parser.add_argument("--bank", type=Path, required=True, help="language bank (training.language)")
    parser.add_argument(
        "--trained-categories", type=Path, required=True, help="JSON list of the categories of training"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for state, log and model")
    parser.add_argument("--seconds", type=float, default=540.0, help="how long to train now")
    parser.add_argument(
        "--total-seconds",
        type=float,
        help="length of the whole schedule, where it takes several runs (default: --seconds)",
    )
    parser.add_argument("--init", help="model to go on from: a folder or the name of a shipped one")
    parser.add_argument("--batch-scenes", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=PretrainConfig.learning_rate, help="blocks take half")
    parser.add_argument("--max-points", type=int, default=AugmentConfig.max_points, help="crop of a scene, Gaussians")
    parser.add_argument("--validate-every", type=float, default=60.0, help="seconds")
    parser.add_argument("--wait-for", type=int, default=16, help="begin when as many scenes are there (default 16)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    a = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    a.out.mkdir(parents=True, exist_ok=True)
    device = torch.device(a.device)
    torch.manual_seed(a.seed)
    torch.set_float32_matmul_precision("high")

    bank = LanguageTargets.load(a.bank, device)
    trained_names = set(json.loads(a.trained_categories.read_text(encoding="utf-8")))
    trained = torch.tensor([c in trained_names for c in bank.categories], device=device)
    stores = [
        SceneStore(folder, subset, device, bank.index, list(COLORS))
        for folder, subset in ((a.scenes, "train"), (a.val_scenes, "val"))
    ]
    _wait_for_scenes(stores[0], a.wait_for)
    stores[1].refresh(limit=24)

    config = PretrainConfig(
        seconds=a.seconds, total_seconds=a.total_seconds or a.seconds, batch_scenes=a.batch_scenes,
        learning_rate=a.learning_rate, block_rate=a.learning_rate / 2, validate_every=a.validate_every, seed=a.seed,
        augment=AugmentConfig(max_points=a.max_points),
    )  # fmt: skip
    targets = [LanguageTarget(bank, trained)]
    model_config = ModelConfig(**{**MINI.to_dict(), "heads": {t.head: t.dim for t in targets}})
    model = ChorusModel(model_config, config.drop_path)
    if a.init:
        model.load_state_dict(read_model(a.init)[0].state_dict())
    trainer = Trainer(model, config, device)
    if (a.out / "state.pt").is_file():
        trainer.restore(torch.load(a.out / "state.pt", map_location=device, weights_only=True))
        if trainer.elapsed >= config.total_seconds:
            raise SystemExit(
                f"{a.out}: its schedule of {config.total_seconds:g} s is over after {trainer.elapsed:.0f} s; "
                "give a longer --total-seconds to go on, or another --out"
            )
        logger.info("going on from step %d", trainer.step)
    (a.out / "config.json").write_text(json.dumps(asdict(config), indent=2), encoding="utf-8")
    pretrain(trainer, stores[0], stores[1], targets, a.out)


if __name__ == "__main__":
    main()
