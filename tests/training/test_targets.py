"""What a teacher asks of a batch."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.scene_store import Batch
from training.targets import LanguageTarget, balance

CATEGORIES = 5


@given(st.lists(st.integers(-1, CATEGORIES - 1), min_size=1, max_size=80), st.sampled_from([0.0, 0.5, 1.0]))
def test_balance_gives_each_category_a_power_of_its_size(category: list[int], power: float) -> None:
    weights = balance(torch.tensor(category), CATEGORIES, power)
    assert (weights[torch.tensor(category) < 0] == 0).all()
    labelled = [c for c in category if c >= 0]
    if not labelled:
        assert (weights == 0).all()
        return
    assert weights.mean() == pytest.approx(1.0, rel=1e-4)
    shares = {c: float(weights[torch.tensor(category) == c].sum()) for c in set(labelled)}
    unit = sum(shares.values()) / sum(labelled.count(c) ** power for c in shares)
    for c, share in shares.items():
        assert share == pytest.approx(unit * labelled.count(c) ** power, rel=1e-4)


class Bank:
    """A bank of one phrase a category, so that what is drawn is known."""

    def __init__(self, dim: int) -> None:
        self.categories = [f"thing {i}" for i in range(CATEGORIES)]
        self.embeddings = torch.nn.functional.normalize(torch.randn(CATEGORIES, dim), dim=1)
        self.drawn: list[torch.Tensor] = []

    def name_embeddings(self) -> torch.Tensor:
        return self.embeddings

    def sample(self, category: torch.Tensor, color: torch.Tensor, *, rng: torch.Generator) -> torch.Tensor:
        self.drawn.append(category)
        return self.embeddings[category]


def make_batch(instance: torch.Tensor, category: torch.Tensor) -> Batch:
    count = len(instance)
    unused = SimpleNamespace(grid=torch.zeros(count, 3), feat=torch.zeros(count, 11))
    return Batch(
        unused.grid, unused.feat, torch.tensor([count]), instance, category, torch.full_like(category, -1),
        torch.zeros_like(instance), [str(i) for i in range(len(category))],
    )  # fmt: skip


@pytest.fixture
def target() -> LanguageTarget:
    torch.manual_seed(0)
    trained = torch.tensor([True, True, False, True, False])
    return LanguageTarget(Bank(8), trained)  # type: ignore[arg-type]


def test_the_right_answer_costs_least(target: LanguageTarget) -> None:
    category = torch.tensor([0, 1, 3])
    instance = torch.arange(3).repeat_interleave(150)
    batch = make_batch(instance, category)
    right = target.bank.embeddings[category[instance]]
    wrong = target.bank.embeddings[category[(instance + 1) % 3]]
    best, worse = (target.loss(p, batch, torch.Generator().manual_seed(0)) for p in (right, wrong))
    assert set(best) == {"feature", "split", "bank"}
    assert float(best["feature"]) == pytest.approx(0.0, abs=1e-5)
    assert best["feature"] < worse["feature"]
    assert best["bank"] < worse["bank"]
    assert torch.equal(target.bank.drawn[0], category), "one phrase for each instance"


def test_what_is_unlabelled_or_untrained_says_nothing_to_the_bank(target: LanguageTarget) -> None:
    """Categories that training never sees must not become negatives, nor unlabelled voxels answers."""
    instance = torch.cat((torch.full((50,), -1), torch.zeros(50, dtype=torch.int64)))
    predicted = torch.nn.functional.normalize(torch.randn(100, 8), dim=1).requires_grad_()
    terms = target.loss(predicted, make_batch(instance, torch.tensor([2])), torch.Generator().manual_seed(0))
    assert float(terms["bank"].detach()) == 0.0
    sum(terms.values()).backward()
    assert (predicted.grad[:50] == 0).all()
    assert (predicted.grad[50:] != 0).any()


def test_weights_of_the_terms(target: LanguageTarget) -> None:
    batch = make_batch(torch.arange(2).repeat_interleave(120), torch.tensor([0, 1]))
    predicted = torch.nn.functional.normalize(torch.randn(240, 8), dim=1)
    one = target.loss(predicted, batch, torch.Generator().manual_seed(0))
    doubled = LanguageTarget(target.bank, target.trained, eta=0.04, bank_weight=1.0)
    two = doubled.loss(predicted, batch, torch.Generator().manual_seed(0))
    assert float(two["split"]) == pytest.approx(2 * float(one["split"]), rel=1e-5)
    assert float(two["bank"]) == pytest.approx(2 * float(one["bank"]), rel=1e-5)
    assert float(two["feature"]) == pytest.approx(float(one["feature"]))
    assert target.dim == 8
