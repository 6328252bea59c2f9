"""Training of probes: one loop for networks on batches of scenes, one for a linear layer on features made once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from chorus_core.encoder.model import ChorusModel, ModelConfig
from training.prepared import PreparedScene
from training.probes.config import KINDS, ProbeConfig
from training.probes.data import LabelledScene, augment, crop, voxel_batch
from training.probes.losses import segmentation_loss
from training.probes.networks import Decoder, LinearHead, SegmentationNetwork
from training.probes.probe import Probe, logits_of


def train_probe(
    kind: str,
    model: ChorusModel | ModelConfig,
    scenes: Sequence[PreparedScene],
    names: Sequence[str],
    config: ProbeConfig | None = None,
    device: torch.device | str = "cpu",
) -> Probe:
    """Train a probe on labelled scenes.

    Args:
        kind: "linear" or "decoder" on the frozen encoder; "finetune" trains decoder and a copy of the encoder;
            "scratch" trains the same network from random weights.
        model: pretrained encoder, which is never changed; "scratch" takes its architecture, or a configuration alone.
        scenes: whose ``segment`` are places in ``names``; on the CPU.
        names: classes.

    Returns:
        the probe, in evaluation mode. Under one seed a CPU gives the same weights again.

    Raises:
        ValueError: no such kind, a configuration where weights are needed, or no labelled scene.
    """
    config = config or ProbeConfig()
    if kind not in KINDS:
        raise ValueError(f"probe = {kind!r}: expected one of {', '.join(KINDS)}")
    if kind != "scratch" and not isinstance(model, ChorusModel):
        raise ValueError(f"probe {kind!r} needs a pretrained model, got an architecture alone")
    architecture = model.config if isinstance(model, ChorusModel) else model
    labelled = [LabelledScene.of(scene, architecture, device) for scene in scenes if bool((scene.segment >= 0).any())]
    if not labelled:
        raise ValueError(f"none of {len(scenes)} scenes has a label: expected at least one labelled Gaussian")
    highest = max(int(scene.segment.max()) for scene in labelled)
    if highest >= len(names):
        raise ValueError(f"scenes have the class {highest}: expected less than {len(names)} names")

    with torch.random.fork_rng(devices=_cuda_devices(device)):
        torch.manual_seed(config.seed)
        network = _build(kind, model, architecture, len(names), config).to(device)
        generator = torch.Generator().manual_seed(config.seed)
        fit = _fit_linear if kind == "linear" else _fit_network
        losses = fit(network, labelled, config, generator)
    return Probe(kind, network.eval(), tuple(names), losses)


def _build(
    kind: str, model: ChorusModel | ModelConfig, architecture: ModelConfig, classes: int, config: ProbeConfig
) -> SegmentationNetwork:
    head = LinearHead(architecture.feature_dim, classes) if kind == "linear" else Decoder(architecture, classes, config)
    if kind in ("linear", "decoder"):
        return SegmentationNetwork(model, head, frozen=True)
    encoder = ChorusModel(architecture, config.drop_path)
    if kind == "finetune":
        encoder.load_state_dict(copy.deepcopy(model.state_dict()))
    return SegmentationNetwork(encoder, head, frozen=False)


def _fit_network(
    network: SegmentationNetwork, scenes: Sequence[LabelledScene], config: ProbeConfig, generator: torch.Generator
) -> list[float]:
    """Updates on batches of augmented scenes; every scene has its turn before any has it again."""
    turns = _turns(len(scenes), generator)
    channels = network.model.config.in_channels

    def batch_loss(step: int) -> Tensor:
        parts = [_variant(scenes[next(turns)], config, generator) for _ in range(config.batch_scenes)]
        batch = voxel_batch([crop(part, config.max_points, generator) for part in parts], channels)
        return segmentation_loss(logits_of(network, batch, seed=step), batch.segment, config.lovasz)

    return _optimise(network, network.trained_parameters(), batch_loss, config)


def _fit_linear(
    network: SegmentationNetwork, scenes: Sequence[LabelledScene], config: ProbeConfig, generator: torch.Generator
) -> list[float]:
    """Updates on random rows of the features that the frozen encoder gives a few augmented copies of each scene."""
    features, labels = _frozen_features(network.model, scenes, config, generator)
    network.head.standardise(features)
    rows = min(config.batch_rows, len(labels))

    def batch_loss(step: int) -> Tensor:
        picks = torch.randint(len(labels), (rows,), generator=generator).to(labels.device)
        return segmentation_loss(network.head(features[picks]), labels[picks], config.lovasz)

    return _optimise(network, network.trained_parameters(), batch_loss, config)


@torch.no_grad()
def _frozen_features(
    model: ChorusModel, scenes: Sequence[LabelledScene], config: ProbeConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Upcast features of labelled voxels, float16 [M, feature_dim], and their classes [M]. One copy is as it is."""
    model.eval()
    quota = max(1, config.cache_rows // (len(scenes) * config.copies))
    features, labels = [], []
    for scene in tqdm(scenes, desc="features", disable=None):
        for number in range(config.copies):
            variant = _variant(scene, config, generator) if number else scene
            batch = voxel_batch([crop(variant, 5 * config.max_points, generator)], model.config.in_channels)
            levels = model.hierarchy(batch.grid, batch.offset)
            device = batch.feat.device
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
                upcast = model(batch.feat, levels)
            known = (batch.segment >= 0).nonzero().squeeze(1)
            kept = known[torch.randperm(len(known), generator=generator)[:quota].to(device)]
            features.append(upcast[kept].half())
            labels.append(batch.segment[kept])
    return torch.cat(features), torch.cat(labels)


def _optimise(
    network: SegmentationNetwork,
    parameters: Sequence[tuple[str, nn.Parameter]],
    batch_loss: Callable[[int], Tensor],
    config: ProbeConfig,
) -> list[float]:
    """AdamW under one cycle, blocks at their own rate; the loss of each step."""
    network.train()
    optimizer = torch.optim.AdamW(_groups(parameters, config), weight_decay=config.weight_decay)
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rates, total_steps=config.steps + 1, pct_start=config.warmup, div_factor=10, final_div_factor=1000
    )
    losses = []
    for step in (bar := tqdm(range(config.steps), desc="probe", disable=None)):
        loss = batch_loss(step)
        optimizer.zero_grad(set_to_none=True)
        if loss.requires_grad:
            loss.backward()
            norm = nn.utils.clip_grad_norm_([p for _, p in parameters], config.clip)
            if torch.isfinite(norm):
                optimizer.step()
        schedule.step()
        losses.append(loss.detach())
        if step % 50 == 0:
            bar.set_postfix(loss=f"{float(loss.detach()):.3f}")
    return torch.stack(losses).cpu().tolist()


def _groups(parameters: Sequence[tuple[str, nn.Parameter]], config: ProbeConfig) -> list[dict[str, object]]:
    """Blocks at their own rate; no decay of norms and biases."""
    found: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters:
        found.setdefault(("block" in name, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": members,
            "lr": config.block_rate if in_block else config.learning_rate,
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (in_block, decays), members in found.items()
    ]


def _variant(scene: LabelledScene, config: ProbeConfig, generator: torch.Generator) -> LabelledScene:
    return augment(scene, generator) if config.augment else scene


def _turns(count: int, generator: torch.Generator) -> Iterator[int]:
    """Places in random order, over and over."""
    while True:
        yield from torch.randperm(count, generator=generator).tolist()


def _cuda_devices(device: torch.device | str) -> list[int]:
    device = torch.device(device)
    return [device.index or 0] if device.type == "cuda" else []
