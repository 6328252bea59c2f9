"""``python -m training.teach``: train the embedded 2D teacher on rendered views of training rooms.

Views come from ``training.scenes.generate --keep-views``. With ``--follow`` training begins while the generator is
still at work and takes up new rooms as they appear; such a run is not repeatable bit for bit.

``--start`` goes on from a teacher folder. Of one on EfficientNet-Lite0 (``training.teaching.start``) the share of the
classifier is left out while rooms are learned; ``training.teaching.mix`` chooses it.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

from chorus_core.io.atomic import atomic_path
from chorus_core.io.documents import read_json
from chorus_core.teachers.efficientnet_lite import BLOCKS
from chorus_core.teachers.embedded import (
    EmbeddedConfig,
    EmbeddedNet,
    build_net,
    layout_on,
    load_embedded_net,
    prepare_images,
    write_embedded,
)
from chorus_core.teachers.embedded_net import LiteNet
from training.command_line import run_command
from training.language import LanguageTargets
from training.metrics import confusion, summarize
from training.progress import Progress
from training.teaching.objectives import (
    classifier_loss,
    generalist_loss,
    kept_loss,
    language_loss,
    object_loss,
)
from training.teaching.view_store import ViewBatch, ViewStore, draw_pairs, plain_views

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TeachConfig:
    """Optimisation of the embedded teacher.

    Attributes:
        generalist, object_aware: weights of their losses.
        classes: weight of the loss by which "lang" remembers what the encoder's classifier says.
        tuned_from: first block of EfficientNet-Lite0 that is tuned; none where it is their number.
        encoder_rate: learning rate of these blocks, as a share of the others'.
        kept: weight of the loss that keeps the tuned encoder near the one it began as.
        photographic: share of images that each fault of cameras and of JPEG is given to.
    """

    steps: int = 6000
    seconds: float = 0.0
    pairs: int = 24
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    ema: float = 0.998
    generalist: float = 0.3
    object_aware: float = 0.5
    classes: float = 0.0
    tuned_from: int = BLOCKS
    encoder_rate: float = 0.1
    kept: float = 1.0
    photographic: float = 0.5
    seed: int = 0


class TeacherTrainer:
    """The network, its running average, optimiser and schedule."""

    def __init__(
        self, net: EmbeddedNet, config: TeachConfig, bank: LanguageTargets, trained: Tensor, device: torch.device
    ) -> None:
        self.config, self.bank, self.trained, self.device = config, bank, trained, device
        self.progress = Progress(config.steps, config.seconds)
        self.net = net.to(device, memory_format=layout_on(device))
        self.average = copy.deepcopy(self.net).eval().requires_grad_(False)
        self.before = copy.deepcopy(self.net.encoder).eval().requires_grad_(False) if self._tunes() else None
        groups = self._parameter_groups()
        self.optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=device.type == "cuda")
        self.schedule = OneCycleLR(
            self.optimizer, [g["lr"] for g in groups], total_steps=self.progress.points, cycle_momentum=False,
            pct_start=0.05 * (1 + 1e-9),  # OneCycleLR divides by zero where the rise takes exactly one step
        )  # fmt: skip
        self.step = 0

    def _tunes(self) -> bool:
        return isinstance(self.net, LiteNet) and self.config.tuned_from < BLOCKS

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """What is learned, and the rates; the rest of a pretrained encoder is frozen."""
        rate = self.config.learning_rate
        if not isinstance(self.net, LiteNet):
            return [{"params": list(self.net.parameters()), "lr": rate}]
        self.net.encoder.requires_grad_(False)
        fresh = [p for p in self.net.parameters() if p.requires_grad]
        tuned = [p for block in self.net.encoder.tuned_blocks(self.config.tuned_from) for p in block.parameters()]
        for parameter in tuned:
            parameter.requires_grad_(True)
        groups = [(fresh, rate), (tuned, rate * self.config.encoder_rate)]
        return [{"params": parameters, "lr": lr} for parameters, lr in groups if parameters]

    def train_step(self, store: ViewStore) -> dict[str, Tensor]:
        """One update; returns the loss terms, still on the device."""
        host = np.random.default_rng([self.config.seed, self.step])
        seed = (self.config.seed, self.step, 1)
        batch = draw_pairs(store, self.config.pairs, seed, int(host.integers(2**62)), self.config.photographic)
        rng = torch.Generator(self.device).manual_seed(int(host.integers(2**62)))
        self.net.train()
        terms = self._losses(batch, rng)
        loss = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self._update_average()
        self.step += 1
        self.progress.advance(self.schedule, self.step)
        return {name: value.detach() for name, value in terms.items()}

    def _losses(self, batch: ViewBatch, rng: torch.Generator) -> dict[str, Tensor]:
        images = prepare_images(batch.images, self.net.config.height).contiguous(memory_format=layout_on(self.device))
        config, terms = self.config, {}
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            stages = self.net.encode(images)
            features = self.net.learned(stages, grid=tuple(batch.instance.shape[1:]))
            if isinstance(self.net, LiteNet):
                before = stages if self.before is None else self._encode_as_before(images)
                if self.before is not None:
                    terms["kept"] = config.kept * kept_loss(stages, before)
                if config.classes:
                    says = self.net.class_features(before[-1])
                    terms["lang.classes"] = config.classes * classifier_loss(features["lang"], says)
        return {
            **language_loss(features["lang"], batch, self.bank, self.trained, rng),
            **terms,
            "gen": config.generalist * generalist_loss(features["gen"], batch.points, rng),
            "obj": config.object_aware * object_loss(features["obj"], batch.instance),
        }

    @torch.no_grad()
    def _encode_as_before(self, images: Tensor) -> list[Tensor]:
        return self.net.encode(images, self.before)

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.net.parameters()), 1 - decay)
        for mine, theirs in zip(self.average.buffers(), self.net.buffers(), strict=True):
            mine.copy_(theirs)


@torch.inference_mode()
def validate(net: EmbeddedNet, store: ViewStore, bank: LanguageTargets, trained: Tensor) -> dict[str, float]:
    """Labels of single cells by the nearest trained name, over all views of the store's scenes."""
    names = [name for name, kept in zip(bank.names, trained.tolist(), strict=True) if kept]
    embeddings = bank.name_embeddings()[trained]
    place = torch.where(trained, trained.cumsum(0) - 1, -1)
    table = np.zeros((len(names), len(names) + 1), dtype=np.int64)
    for scene in store.scenes:
        batch = plain_views(scene)
        category = torch.tensor([bank.index(c) for c in batch.category], device=store.device)
        truth = torch.where(batch.instance >= 0, place[category[batch.instance.clamp(min=0)]], -1)
        with torch.autocast(store.device.type, dtype=torch.bfloat16, enabled=store.device.type == "cuda"):
            features = [_language(net, part, tuple(truth.shape[1:])) for part in batch.images.split(16)]
        predicted = torch.cat([(f.float() @ embeddings.T).argmax(dim=-1) for f in features])
        table += confusion(truth.flatten().cpu().numpy(), predicted.flatten().cpu().numpy(), len(names))
    return {f"val.{name}": value for name, value in summarize(table, names).items()}


def _language(net: EmbeddedNet, images: Tensor, grid: tuple[int, int]) -> Tensor:
    """The "lang" map of images uint8 [B, H, W, 3] on a grid of labels [B, h, w, D]."""
    features = net(prepare_images(images, net.config.height))["lang"].permute(0, 3, 1, 2)
    return functional.interpolate(features, size=grid, mode="bilinear").permute(0, 2, 3, 1)


def _begin(folder: Path | None) -> EmbeddedNet:
    """A network to learn rooms with: fresh, or a teacher's without the share of its classifier."""
    if folder is None:
        return build_net(EmbeddedConfig())
    net = load_embedded_net(folder)
    net.config = replace(net.config, class_share=0.0)
    return net


def _wait(store: ViewStore, count: int) -> None:
    while store.refresh() < count:
        logger.info("%d of %d rooms with views in %s, waiting for more", len(store.scenes), count, store.folder)
        time.sleep(3)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.teach", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=Path, required=True, help="folder of training rooms with views")
    parser.add_argument("--val-scenes", type=Path, help="folder of validation rooms with views")
    parser.add_argument("--bank", type=Path, required=True, help="language bank (training.language)")
    parser.add_argument("--trained-categories", type=Path, required=True, help="JSON list of training's categories")
    parser.add_argument("--out", type=Path, required=True, help="teacher folder to write")
    parser.add_argument("--start", type=Path, help="teacher folder to go on from")
    parser.add_argument("--steps", type=int, help=f"updates (default {TeachConfig.steps})")
    parser.add_argument("--seconds", type=float, default=0.0, help="train for so long, with the schedule by the clock")
    parser.add_argument("--pairs", type=int, default=TeachConfig.pairs, help="pairs of views a step")
    for name in ("learning_rate", "classes", "tuned_from", "kept", "photographic"):
        default, flag = getattr(TeachConfig, name), f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=type(default), default=default, help=f"see TeachConfig (default {default})")
    parser.add_argument("--follow", type=int, default=0, help="begin with so many rooms and take up new ones")
    parser.add_argument("--report-every", type=int, default=250, help="steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    a = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    device = torch.device(a.device)
    torch.manual_seed(a.seed)
    torch.set_float32_matmul_precision("high")
    bank = LanguageTargets.load(a.bank, device)
    names = set(read_json(a.trained_categories, kind=list))
    trained = torch.tensor([c in names for c in bank.categories], device=device)

    store = ViewStore(a.scenes, "train", device)
    _wait(store, a.follow) if a.follow else store.refresh(wait=True)
    val = ViewStore(a.val_scenes, "val", device) if a.val_scenes else None
    if not store.scenes:
        raise SystemExit(f"{a.scenes}: no training rooms with views; training.scenes.generate --keep-views makes them")
    steps = a.steps or (1_000_000 if a.seconds else TeachConfig.steps)
    config = TeachConfig(
        steps=steps, seconds=a.seconds, pairs=a.pairs, seed=a.seed, learning_rate=a.learning_rate, classes=a.classes,
        tuned_from=a.tuned_from, kept=a.kept, photographic=a.photographic,
    )  # fmt: skip
    trainer = TeacherTrainer(_begin(a.start), config, bank, trained, device)
    log: list[dict[str, float]] = []
    recent: list[dict[str, Tensor]] = []
    began = time.perf_counter()
    for step in tqdm(range(1, config.steps + 1), desc="teach", disable=None):
        recent.append(trainer.train_step(store))
        last = trainer.progress.over(step)
        if step % 50 == 0 and a.follow:
            store.refresh()
        if step % a.report_every == 0 or last:
            entry = {"step": step, "seconds": round(time.perf_counter() - began, 1), "rooms": len(store.scenes)}
            entry |= {name: float(torch.stack([r[name] for r in recent]).mean()) for name in recent[0]}
            if val is not None and val.refresh(wait=True):
                entry |= validate(trainer.average, val, bank, trained)
            log.append(entry)
            recent = []
            logger.info("%s", {k: round(v, 4) for k, v in entry.items()})
            description = {"name": a.out.name, "steps": step, "seed": a.seed, "training": asdict(config), "log": log}
            write_embedded(a.out, trainer.average, description)
        if last:
            break
    with atomic_path(a.out / "log.json") as temporary:
        temporary.write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
