"""The encoder against outputs of the reference implementation (random weights, float32)."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from chorus_core.encoder.inference import InferenceModel
from chorus_core.encoder.model import ChorusModel, ModelConfig
from chorus_core.encoder.serialization import morton

PARITY = Path(__file__).resolve().parents[1] / "data" / "parity"
CASES = sorted(path.name.removesuffix(".io.npz") for path in PARITY.glob("*.io.npz"))


def load_case(name: str) -> tuple[ChorusModel, dict[str, torch.Tensor]]:
    config = ModelConfig.from_dict(json.loads((PARITY / f"{name}.json").read_text()))
    model = ChorusModel(config).eval()
    model.load_state_dict(load_file(PARITY / f"{name}.weights.safetensors"))
    arrays = np.load(PARITY / f"{name}.io.npz")
    return model, {key: torch.from_numpy(arrays[key]) for key in arrays}


def find_curves(model: ChorusModel, io: dict[str, torch.Tensor]) -> list[tuple[int, ...]]:
    """An order of the curves at each pooled stage with which the reference agrees; the vectors do not record the one
    that was drawn.

    Found stage by stage. Random features never agree to 1e-3 by chance: where a stage has more voxels than a patch,
    one order does. Where a patch holds them all, attention is over all of them whatever their order, and every order
    agrees.
    """
    offset = torch.tensor([len(io["feat"])])
    widths = model.config.enc_channels
    curves = [(0, 1, 2, 3) for _ in widths]
    for stage in range(len(widths)):
        first = sum(widths[:stage])
        columns = slice(first, first + widths[stage])
        depth = model.config.enc_depths[stage]
        matching = []
        for head in itertools.permutations(range(4), min(depth, 4)):
            rest = tuple(i for i in range(4) if i not in head)
            trial = [*curves[:stage], (*head, *rest), *curves[stage + 1 :]]
            levels = model.hierarchy(io["grid_coord"], offset, trial)
            upcast = model(io["feat"], levels)
            if (upcast - io["upcast"])[:, columns].abs().max() < 1e-3 * io["upcast"].std():
                matching.append(trial[stage])
        in_one_patch = len(levels[stage].grid) <= model.config.patch_size
        assert matching, f"stage {stage}: no order of the curves agrees with the reference"
        assert in_one_patch or len(matching) == 1, f"stage {stage}: {len(matching)} orders agree with the reference"
        curves[stage] = matching[0]
    return curves


def as_compared(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """A head's output in the form of the vectors: of unit length where they are, else as the head gives it."""
    unit = (expected.norm(dim=1) - 1.0).abs().max() < 1e-3
    return torch.nn.functional.normalize(found.float(), dim=1) if unit else found


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_outputs_agree_with_reference(name: str) -> None:
    model, io = load_case(name)
    curves = find_curves(model, io)
    assert curves[0] == (0, 1, 2, 3), "the reference does not shuffle the first stage"
    levels = model.hierarchy(io["grid_coord"], torch.tensor([len(io["feat"])]), curves)
    upcast = model(io["feat"], levels)
    assert (upcast - io["upcast"]).abs().max() < 1e-4 * io["upcast"].std()
    for head in model.config.heads:
        expected = io[f"head_{head}"]
        found = as_compared(model.project(upcast, head, rows=1000), expected)
        assert (found - expected).abs().max() < 1e-4 * expected.std()


def read_for_inference(
    model: ChorusModel, io: dict[str, torch.Tensor], device: str, precision: torch.dtype
) -> dict[str, torch.Tensor]:
    """Upcast features and heads as the encoder reads them: rearranged, and with kernels where there are some."""
    curves = find_curves(model, io)
    grid = io["grid_coord"] - io["grid_coord"].amin(dim=0)
    order = torch.argsort(morton(grid))  # as voxelize leaves them
    inference = InferenceModel(model, torch.device(device), precision)
    with torch.inference_mode():
        levels = model.hierarchy(grid[order].to(device), torch.tensor([len(grid)]), curves)
        pyramid = inference.read(io["feat"][order].to(device), levels)
        parts = pyramid.cut(torch.arange(len(grid), device=device), 3000)
        bases = dict.fromkeys([None, *model.config.heads])
        slices = list(inference.features(pyramid, parts, bases))
        found = {}
        for head in bases:
            whole = torch.cat([f[head].values if f[head].length is None else f[head].values / f[head].length[:, None]
                               for f in slices])  # fmt: skip
            found[head or "upcast"] = torch.empty_like(whole, device="cpu", dtype=torch.float32)
            found[head or "upcast"][order] = whole.cpu().float()
    return found


@pytest.mark.parametrize("name", CASES)
def test_what_the_encoder_reads_agrees_with_reference(name: str) -> None:
    model, io = load_case(name)
    for key, found in read_for_inference(model, io, "cpu", torch.float32).items():
        expected = io["upcast" if key == "upcast" else f"head_{key}"]
        assert (as_compared(found, expected) - expected).abs().max() < 1e-4 * expected.std(), key


@pytest.mark.parametrize("draw", range(4))
@torch.no_grad()
def test_below_the_patch_size_every_order_is_the_right_one(draw: int) -> None:
    """Scenes of fewer voxels than a patch, and of a few more, with an order of our own as the reference's."""
    model, io = load_case("chorus_3dgs_small")
    drawn = [(0, 1, 2, 3), *(tuple(np.random.default_rng(draw).permutation(4).tolist()) for _ in range(2))]
    for count, several in ((model.config.patch_size - 28, True), (model.config.patch_size * 2, False)):
        small = {key: io[key][:count] for key in ("feat", "grid_coord")}
        levels = model.hierarchy(small["grid_coord"], torch.tensor([count]), drawn)
        small["upcast"] = model(small["feat"], levels)
        assert (len(levels[0].grid) <= model.config.patch_size) is several
        found = model.hierarchy(small["grid_coord"], torch.tensor([count]), find_curves(model, small))
        assert (model(small["feat"], found) - small["upcast"]).abs().max() < 1e-4 * small["upcast"].std()


@torch.no_grad()
def test_a_head_that_the_release_leaves_raw() -> None:
    """Against the projector written out in float64: as it comes, and normalised."""
    torch.manual_seed(0)
    model = ChorusModel(ModelConfig(9, (8, 16), (1, 1), (1, 2), 16, heads={"lang": 6, "pe": 10})).eval()
    upcast = torch.randn(50, 24)
    projector = model.projectors["pe"]
    norm, (first, _, second) = projector.input_norm, projector.mlp_head
    x = upcast.double()
    x = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    x = x * norm.weight.double() + norm.bias.double()
    x = x @ first.weight.double().T + first.bias.double()
    x = 0.5 * x * (1 + torch.erf(x / 2**0.5))
    raw = x @ second.weight.double().T + second.bias.double()
    unit = raw / raw.norm(dim=1, keepdim=True)
    for expected in (raw, unit):
        found = as_compared(model.project(upcast, "pe"), expected)
        assert (found - expected).abs().max() < 1e-4 * expected.std()
    assert (model.project(upcast, "lang").norm(dim=1) - 1).abs().max() < 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_what_the_encoder_reads_on_cuda_agrees_with_reference(name: str, precision: torch.dtype) -> None:
    model, io = load_case(name)
    for key, found in read_for_inference(model, io, "cuda", precision).items():
        expected = io["upcast" if key == "upcast" else f"head_{key}"]
        found = as_compared(found, expected)
        cosine = torch.nn.functional.cosine_similarity(found, expected, dim=1)
        print(f"{name} {key} {precision}: cosine mean {cosine.mean():.6f}, 1st percentile {cosine.quantile(0.01):.6f}")
        if precision == torch.float32:
            assert (found - expected).abs().max() < 1e-3 * expected.std(), key
        else:
            assert cosine.mean() > 0.999
            assert cosine.quantile(0.01) > 0.995


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_outputs_agree_under_autocast(name: str) -> None:
    """As training and its validation run the model."""
    model, io = load_case(name)
    curves = find_curves(model, io)
    model, io = model.cuda(), {key: value.cuda() for key, value in io.items()}
    levels = model.hierarchy(io["grid_coord"], torch.tensor([len(io["feat"])]), curves)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        upcast = model(io["feat"], levels)
        heads = {head: model.project(upcast, head) for head in model.config.heads}
    for found, expected in [(upcast, io["upcast"]), *((heads[h], io[f"head_{h}"]) for h in heads)]:
        cosine = torch.nn.functional.cosine_similarity(found.float(), expected, dim=1)
        assert cosine.mean() > 0.999
        assert cosine.quantile(0.01) > 0.995


def test_release_size_model_has_the_released_keys() -> None:
    expected = json.loads((PARITY / "chorus_3dgs_release_keys.json").read_text())
    with torch.device("meta"):
        state = ChorusModel(ModelConfig()).state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == expected
