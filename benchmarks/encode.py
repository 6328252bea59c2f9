"""``python -m benchmarks.encode``: seconds and memory to encode maps of several sizes, and where the time goes.

``chorus_mini`` with its shipped weights, or with random ones where they are absent (time does not depend on them); on
CUDA the release-size model with random weights and both of its heads, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.building import rooms
from benchmarks.encode_parts import measure_ceilings, measure_parts
from benchmarks.report import parser, peak_memory_mib, publish, repeat, reset_peak_memory
from chorus_core.config import EncoderConfig
from chorus_core.encoder import ChorusEncoder
from chorus_core.encoder.checkpoint import SHIPPED
from chorus_core.encoder.model import ChorusModel, ModelConfig
from chorus_core.encoder.smoothing import smooth
from chorus_core.gaussians import Gaussians

VOXEL = 0.02
SIZES = {"cpu": [50_000, 200_000], "cuda": [100_000, 500_000, 1_500_000, 5_000_000]}


def models(device: torch.device, only: str | None) -> Iterator[tuple[str, ChorusEncoder]]:
    """The models to measure, each with a name that says where its weights are from."""
    if only in (None, "mini"):
        if (SHIPPED / "chorus_mini" / "config.json").is_file():
            yield "chorus_mini (shipped)", ChorusEncoder.from_pretrained("chorus_mini", device)
        else:
            from training.configs import RECIPES

            yield (
                "chorus_mini (random weights)",
                ChorusEncoder(ChorusModel(RECIPES["chorus_mini"].model), device=device),
            )
    if only == "release" or (only is None and device.type == "cuda"):
        yield "release size (random weights)", ChorusEncoder(ChorusModel(ModelConfig()), device=device)


def make_bases(encoder: ChorusEncoder, heads: Sequence[str], width: int) -> dict[str | None, Tensor | None]:
    """An orthonormal basis of ``width`` columns for each head; none for 0."""
    if not width:
        return dict.fromkeys(heads)
    return {head: torch.linalg.qr(torch.randn(encoder.width(head), width))[0].to(encoder.device) for head in heads}


def measure_encode(
    encoder: ChorusEncoder,
    scene: Gaussians,
    bases: Mapping[str | None, Tensor | None],
    max_points: int,
    memory_gib: float | None,
    times: int,
) -> dict[str, Any]:
    """One row: seconds, and peak memory with the scene and the weights in it."""

    def encode() -> None:
        encoder.encode_heads(scene, bases, max_points=max_points, memory_gib=memory_gib)

    encode()
    reset_peak_memory(encoder.device)
    seconds = repeat(encode, encoder.device, warmup=0, times=times) / 1e3
    return {
        "Gaussians": len(scene),
        "stored": " + ".join(
            str(encoder.width(head) if basis is None else basis.shape[1]) for head, basis in bases.items()
        ),
        "p50_s": float(np.median(seconds)),
        "max_s": float(seconds.max()),
        "us_a_Gaussian": 1e6 * float(np.median(seconds)) / len(scene),
        "peak_GiB": peak_memory_mib(encoder.device) / 1024,
    }


def measure_smoothing(count: int, scene: Gaussians, device: torch.device, times: int) -> float:
    """Seconds to smooth features of the shipped model's width over a scene."""
    features = torch.randn((count, 160), device=device).half()
    points, rounds = scene.means.to(device), EncoderConfig().smoothing
    return float(np.median(repeat(lambda: smooth(features, points, VOXEL, rounds), device, 1, times))) / 1e3


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--gaussians", type=int, nargs="+", help="map sizes")
    options.add_argument("--heads", nargs="+", help="of the model (default: all that it shares with the release)")
    options.add_argument(
        "--basis", type=int, nargs="+", default=[0, 128], help="stored widths; 0 stores what heads give"
    )
    options.add_argument(
        "--max-points", type=int, default=2_000_000, help="Gaussians of a pass at most; more are tiled"
    )
    options.add_argument("--memory-gib", type=float, help="budget of an encode")
    options.add_argument("--repeat", type=int, default=5, help="measured encodes of each map")
    options.add_argument("--parts", type=int, help="map size to break down (default: none on a CPU, 500,000 on CUDA)")
    options.add_argument("--model", choices=("mini", "release"), help="only this one")
    a = options.parse_args(arguments)
    device = torch.device(a.device)
    torch.manual_seed(a.seed)

    rows, extra = [], {}
    for name, encoder in models(device, a.model):
        parameters = sum(p.numel() for p in encoder.model.parameters()) / 1e6
        heads = a.heads or [head for head in ("lang", "dino") if head in encoder.model.config.heads]
        for size in a.gaussians or SIZES[device.type]:
            scene = rooms(size, (0.0, 0.0, 0.0), VOXEL, a.seed).to(device)
            for width in a.basis:
                bases = make_bases(encoder, heads, min(width, min(encoder.width(head) for head in heads)))
                row = {"model": f"{name}, {parameters:.1f} M"}
                try:
                    row |= measure_encode(encoder, scene, bases, a.max_points, a.memory_gib, a.repeat)
                except (torch.OutOfMemoryError, ValueError) as error:
                    row |= {"Gaussians": len(scene), "stored": width, "p50_s": str(error).split(":")[0]}
                    torch.cuda.empty_cache()
                rows.append(row)
        broken_down = a.parts or (500_000 if device.type == "cuda" else 0)
        if broken_down:
            scene = rooms(broken_down, (0.0, 0.0, 0.0), VOXEL, a.seed).to(device)
            ceilings = measure_ceilings(device, encoder.inference.precision)
            extra[f"parts of {name}"] = measure_parts(encoder, scene, dict.fromkeys(heads), 5, ceilings)
            extra["ceilings"] = f"{ceilings.flops / 1e12:.3g} TFLOP/s, {ceilings.bandwidth / 1e12:.3g} TB/s"
        extra["smoothing, s"] = measure_smoothing(len(scene), scene, device, a.repeat)
    memory = "allocated on the GPU, the scene and the weights included" if device.type == "cuda" else "of the process"
    publish("encode", rows, device, a.out, input=f"floors, walls and ceilings at {VOXEL} m", memory=memory, **extra)


if __name__ == "__main__":
    main()
