"""Sums over processes, and losses whose parts average to the whole."""

from __future__ import annotations

import socket
from pathlib import Path
from unittest import mock

import pytest
import torch
from small_bank import DIM, NAMES
from small_scenes import units
from torch import Tensor, distributed, multiprocessing

from training.configs import TeacherConfig
from training.distributed import ALONE, World
from training.objectives import ClassTexts, TeacherObjective
from training.scene_store import Batch

SIZES = ((130, 340, 110, 7), (210, 0, 480, 150))
"""Voxels of each class that two processes hold; the third instance of each has no teacher."""


def part(rank: int) -> tuple[Batch, Tensor]:
    """One process's batch, an instance a class, and predictions."""
    sizes = torch.tensor(SIZES[rank])
    segment = torch.arange(4).repeat_interleave(sizes)
    segment[::9] = -1
    count = len(segment)
    batch = Batch(
        torch.zeros(count, 3), torch.zeros(count, 11), torch.tensor([count]), segment, segment.clone(), NAMES[:4],
        ("",) * 4, {"lang": units(rank, count, DIM)}, {"lang": segment != 2},
    )  # fmt: skip
    return batch, units(10 + rank, count, DIM)


def together(parts: list[Batch]) -> Batch:
    """The batch that two processes share."""
    first, second = parts
    moved = torch.where(second.instance >= 0, second.instance + 4, -1)
    return Batch(
        *(torch.cat((getattr(first, name), getattr(second, name))) for name in ("grid", "feat", "offset", "segment")),
        torch.cat((first.instance, moved)), NAMES[:4] * 2, ("",) * 8,
        {"lang": torch.cat((first.targets["lang"], second.targets["lang"]))},
        {"lang": torch.cat((first.valid["lang"], second.valid["lang"]))},
    )  # fmt: skip


def lose(batch: Batch, predicted: Tensor, contrast: str, halves: Tensor, world: World) -> tuple[dict, Tensor]:
    """Loss terms, and the gradient of their sum."""
    config = TeacherConfig("lang", DIM, contrast=contrast, contrast_weight=1.0, text_weight=0.5, class_power=0.5)
    texts = ClassTexts(units(5, len(NAMES), DIM), torch.arange(len(NAMES)) < 6)
    predicted.requires_grad_()
    with mock.patch.object(torch, "randint", lambda *a, **k: halves):  # the same halves, however they are spread
        terms = TeacherObjective(config, texts=texts, world=world).loss(predicted, batch, torch.Generator(), 1.0)
    sum(terms.values()).backward()
    return {name: float(value.detach()) for name, value in terms.items()}, predicted.grad


def halves_of(batch: Batch) -> Tensor:
    return torch.arange(int((batch.segment >= 0).sum())) % 2


def process(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    world = World(rank, 2, torch.device("cpu"))
    batch, predicted = part(rank)
    found = {c: lose(batch, predicted.clone(), c, halves_of(batch), world) for c in ("segment", "instance")}
    ragged = world.total(torch.ones(2 + rank, 3, dtype=torch.int64))
    torch.save((found, ragged, world.highest(rank + 7)), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list:
    """What two processes came to."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(process, (port, str(folder)), nprocs=2)
    return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("contrast", ["segment", "instance"])
def test_parts_of_a_batch_average_to_the_whole(found: list, contrast: str) -> None:
    """Every loss term, and the gradient that DistributedDataParallel makes of the processes'."""
    batches, predicted = zip(*(part(rank) for rank in (0, 1)), strict=True)
    halves = torch.cat([halves_of(batch) for batch in batches])
    terms, gradient = lose(together(list(batches)), torch.cat(predicted), contrast, halves, ALONE)
    (first, first_gradient), (second, second_gradient) = (rank[0][contrast] for rank in found)
    assert terms.keys() == first.keys() == {"feature", "contrast", "text"}
    for name, value in terms.items():
        assert (first[name] + second[name]) / 2 == pytest.approx(value, rel=1e-5), name
    assert first["contrast"] == pytest.approx(second["contrast"], rel=1e-6)
    torch.testing.assert_close(torch.cat((first_gradient, second_gradient)) / 2, gradient, rtol=1e-4, atol=1e-8)
    assert first["feature"] != pytest.approx(second["feature"], rel=1e-3), "the parts differ"


def test_tables_of_different_length_are_padded(found: list) -> None:
    for _, ragged, highest in found:
        assert ragged.tolist() == [[2] * 3, [2] * 3, [1] * 3]
        assert highest == 8


def test_one_process_is_the_whole() -> None:
    table = torch.rand(3, 2)
    assert ALONE.total(table) is table
    assert ALONE.share(table) is table
    assert ALONE.highest(5) == 5
