from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from training.evaluation.prepared_scenes import EvaluationScene
from training.probes import ProbeConfig, evaluate_probe, train_probe
from training.probes.data import LabelledScene, voxel_batch
from training.probes.networks import Decoder, LinearHead, SegmentationNetwork
from training.probes.train import _groups


def state(model) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("channels", [9, 11])
def test_a_linear_probe_separates_what_is_separable(tiny, room, small, names, channels: int) -> None:
    model = tiny(channels)
    before = state(model)
    scenes = [room(seed, name=f"room{seed}") for seed in range(3)]
    probe = train_probe("linear", model, scenes, names, replace(small, steps=80))
    report = evaluate_probe(probe, [EvaluationScene(room(10))])
    assert report["gaussians"]["all"]["macc"] > 0.95 and probe.losses[-1] < probe.losses[0]
    assert probe.network.model is model and same(before, state(model))


def test_a_decoder_overfits_one_scene_on_a_frozen_encoder(tiny, room, small, names) -> None:
    model, scene = tiny(stages=3), room(n=90)
    scene = replace(scene, segment=torch.randint(0, 3, (90,), generator=torch.Generator().manual_seed(0)))
    before = state(model)
    config = replace(small, steps=80, augment=False)
    probe = train_probe("decoder", model, [scene], names, config)
    found = probe.predict(scene)
    # One voxel has one class: what Gaussians share cannot be told apart.
    batch = voxel_batch([LabelledScene.of(scene, model.config, "cpu")], 11)
    right = found == batch.segment[batch.voxel_of_point]
    assert float(right.float().mean()) > 0.95
    assert same(before, state(model)) and not any(p.grad is not None for p in model.parameters())


def test_finetuning_changes_a_copy(tiny, room, small, names) -> None:
    model = tiny()
    before = state(model)
    probe = train_probe("finetune", model, [room()], names, replace(small, steps=3))
    assert same(before, state(model))
    after = state(probe.network.model)
    assert all(not torch.equal(before[key], after[key]) for key in before if key.endswith("cpe.0.weight"))
    assert all(torch.equal(before[key], after[key]) for key in before if key.startswith("projectors"))


def test_scratch_takes_the_architecture_only(tiny, room, small, names) -> None:
    model = tiny()
    config = replace(small, steps=2)
    a = train_probe("scratch", model, [room()], names, config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    b = train_probe("scratch", model.config, [room()], names, config)
    assert same(state(a.network), state(b.network))
    with pytest.raises(ValueError, match="pretrained"):
        train_probe("decoder", model.config, [room()], names, config)


@pytest.mark.parametrize("kind", ["linear", "finetune"])
def test_a_seed_repeats_a_probe_and_leaves_the_callers_randomness_alone(tiny, room, small, names, kind: str) -> None:
    scenes = [room(seed, name=f"room{seed}") for seed in range(2)]
    config = replace(small, steps=4, drop_path=0.3)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    a = train_probe(kind, tiny(), scenes, names, config)
    torch.manual_seed(3)
    model = tiny()
    torch.manual_seed(3)
    b = train_probe(kind, model, scenes, names, config)
    assert torch.equal(torch.rand(1), expected)
    assert same(state(a.network), state(b.network)) and a.losses == b.losses
    c = train_probe(kind, tiny(), scenes, names, replace(config, seed=1))
    assert not same(state(a.network), state(c.network))


def test_rates_of_blocks_and_of_the_rest(tiny, names, small) -> None:
    network = SegmentationNetwork(tiny(), Decoder(tiny().config, 3, small), frozen=False)
    groups = _groups(network.trained_parameters(), replace(small, learning_rate=1.0, block_rate=0.1))
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    named = dict(network.named_parameters())
    assert rate[id(named["model.backbone.enc.enc0.block0.attn.qkv.weight"])] == 0.1
    assert rate[id(named["head.block0.0.attn.qkv.weight"])] == 0.1
    assert (
        rate[id(named["model.backbone.embedding.stem.linear.weight"])] == rate[id(named["head.linear.weight"])] == 1.0
    )
    assert decay[id(named["head.linear.bias"])] == 0.0 and decay[id(named["head.linear.weight"])] > 0
    assert not [name for name, p in named.items() if "projectors" in name and id(p) in rate]


def test_stage_outputs_are_what_the_upcast_is_made_of(tiny, room) -> None:
    model = tiny(stages=3)
    batch = voxel_batch([LabelledScene.of(room(seed), model.config, "cpu") for seed in range(2)], 11)
    levels = model.hierarchy(batch.grid, batch.offset)
    with torch.no_grad():
        outputs, upcast = model.backbone.pyramid(batch.feat, levels).features, model(batch.feat, levels)
    rows, parts = torch.arange(len(batch.grid)), []
    for s, level in enumerate(levels):
        rows = rows if s == 0 else level.cell_of_finer[rows]
        parts.append(outputs[s][rows])
    assert torch.equal(torch.cat(parts, dim=1), upcast)


def test_the_linear_head_standardises(names) -> None:
    features = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) * 7 + 3
    head = LinearHead(6, 3)
    head.standardise(features, rows=64)
    np.testing.assert_allclose(head.mean, features.double().numpy().mean(0), rtol=1e-5)
    np.testing.assert_allclose(head.deviation, features.double().numpy().std(0), rtol=1e-5)


def test_labels_that_do_not_fit(tiny, room, small, names) -> None:
    scene = room()
    with pytest.raises(ValueError, match="expected one of linear"):
        train_probe("mlp", tiny(), [scene], names, small)
    with pytest.raises(ValueError, match="less than 2"):
        train_probe("linear", tiny(), [scene], names[:2], small)
    with pytest.raises(ValueError, match="none of 1 scenes"):
        train_probe("linear", tiny(), [replace(scene, segment=torch.full((300,), -1))], names, small)
    with pytest.raises(ValueError, match="decoder_channels has 1"):
        Decoder(
            tiny(stages=3).config, 3, replace(small, decoder_channels=(16,), decoder_depths=(1,), decoder_heads=(2,))
        )


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"decoder_depths": (2,)}, {"decoder_channels": (63, 96, 192, 384)}, {"cache_rows": 0}]
)
def test_bad_settings(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ProbeConfig(**wrong)


def test_large_scenes_are_predicted_in_tiles(tiny, room, small, names) -> None:
    probe = train_probe("linear", tiny(), [room()], names, small)
    far = room(n=300)
    far.gaussians.means[150:] += torch.tensor((50.0, 0, 0))
    whole, tiled = probe.predict(far), probe.predict(far, max_points=160)
    assert bool((tiled >= 0).all()) and float((whole == tiled).float().mean()) > 0.9


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["linear", "decoder", "finetune", "scratch"])
def test_on_cuda(tiny, room, small, names, kind: str) -> None:
    scenes = [room(seed, name=f"room{seed}") for seed in range(2)]
    probe = train_probe(kind, tiny(), scenes, names, replace(small, steps=60), "cuda")
    report = evaluate_probe(probe, [EvaluationScene(room(10))])
    assert report["gaussians"]["all"]["macc"] > 0.8
