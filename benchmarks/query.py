"""``python -m benchmarks.query``: milliseconds of a text query over a map of a million Gaussians.

Features are random unit vectors, but for one in a hundred Gaussians: these lie in clusters and agree with the text.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.building import rooms
from benchmarks.report import parser, publish, repeat, spread
from chorus_core.semantics.objects import extract_objects
from chorus_core.semantics.relevancy import relevancy

NEGATIVES = 5
REFERENCE = 100
GAP, MIN_COUNT = 0.08, 15

PLACES = ("on the desk", "by the window", "in the kitchen", "under the stairs", "next to the door")
THINGS = (
    "red mug",
    "office chair",
    "bookshelf",
    "place to sit",
    "thing to read",
    "fire extinguisher",
    "bin",
    "potted plant",
)


def make_map(count: int, dim: int, seed: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Points [N, 3], features fp16 [N, dim] and the text they are to be compared with [dim]."""
    generator = torch.Generator().manual_seed(seed)
    points = rooms(count, (0.0, 0.0, 0.0), 0.02, seed).means
    text = normalize(torch.randn(dim, generator=generator), dim=0)
    features = normalize(torch.randn(len(points), dim, generator=generator), dim=1)
    seeds = points[torch.randint(0, len(points), (max(count // 20_000, 1),), generator=generator)]
    agrees = torch.zeros(len(points), dtype=torch.bool)
    for centre in seeds:
        agrees |= (points - centre).square().sum(dim=1) < 0.16**2
    features[agrees] = normalize(features[agrees] + 1.5 * text, dim=1)
    return points.to(device), features.half().to(device), text.to(device)


def measure_map(count: int, dim: int, seed: int, device: torch.device, times: int) -> list[dict[str, Any]]:
    """Rows for a text that is already encoded: scores, scores and the matching indices, and the whole to objects."""
    points, features, text = make_map(count, dim, seed, device)
    generator = torch.Generator().manual_seed(seed + 1)
    negatives = normalize(torch.randn(NEGATIVES, dim, generator=generator), dim=1).to(device)
    reference = normalize(torch.randn(REFERENCE, dim, generator=generator), dim=1).to(device)

    def scores() -> Tensor:
        return relevancy(features, text, negatives, reference)

    threshold = 0.98  # of the logistic with the default scale of 10: a margin of 0.39 over the best negative

    def matches() -> tuple[Tensor, Tensor]:
        values = scores()
        found = (values >= threshold).nonzero().squeeze(1)
        return found, values[found]

    def objects() -> int:
        found, values = matches()
        where = points[found].cpu().numpy()
        return len(extract_objects(where, values.cpu().numpy(), "thing", gap=GAP, min_count=MIN_COUNT))

    size = f"{len(points):,} x {dim} {str(features.dtype).removeprefix('torch.')}"
    found = f"{len(matches()[0]):,} match"
    few = max(times // 5, 5)
    return [
        {"call": "relevancy", "over": size, "calls": times, **spread(repeat(scores, device, 3, times))},
        {"call": "relevancy, threshold", "over": f"{size}, {found}", "calls": times,
         **spread(repeat(matches, device, 3, times))},
        {"call": "relevancy, threshold, objects", "over": f"{size}, {objects()} objects", "calls": few,
         **spread(repeat(objects, device, 2, few))},
    ]  # fmt: skip


def measure_text(times: int) -> list[dict[str, Any]] | str:
    """Rows for a new text through MiniLM on the CPU: the first one, loading included, and later ones."""
    try:
        from chorus_core.semantics.text_encoder import TextEncoderError, load_text_encoder

        began = time.perf_counter()
        encoder = load_text_encoder("minilm")
        encoder.encode(["a chair"])
        cold = 1e3 * (time.perf_counter() - began)
    except (ImportError, TextEncoderError) as error:
        return f"not measured: {error}"
    texts = iter(
        [f"{number} times a {thing} {place}" for number in range(times) for thing in THINGS for place in PLACES]
    )
    warm = repeat(lambda: encoder.encode([next(texts)]), torch.device("cpu"), warmup=3, times=times)
    return [
        {"call": "new text, cold (loads MiniLM)", "over": "1 text, CPU", "calls": 1, **spread([cold])},
        {"call": "new text, warm", "over": "1 text, CPU", "calls": times, **spread(warm)},
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--gaussians", type=int, default=1_000_000)
    options.add_argument("--dim", type=int, default=160, help="of the stored features; the shipped model's by default")
    options.add_argument("--repeat", type=int, default=200, help="measured calls")
    a = options.parse_args(arguments)
    device = torch.device(a.device)
    torch.manual_seed(a.seed)
    np.random.seed(a.seed)

    text_rows = measure_text(a.repeat)
    rows = measure_map(a.gaussians, a.dim, a.seed, device, a.repeat)
    extra: dict[str, Any] = {"negatives": NEGATIVES, "reference texts": REFERENCE}
    if isinstance(text_rows, str):
        extra["new text"] = text_rows
    else:
        rows += text_rows
    publish("query", rows, device, a.out, **extra)


if __name__ == "__main__":
    main()
