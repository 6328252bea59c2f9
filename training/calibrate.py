"""``python -m training.calibrate``: the text side of a trained model, fitted on validation scenes.

Three things are fitted and written beside the weights: the compact basis features are stored in (to training scenes,
where they are given), the logistic map from evidence to the probability that a thing is there, and the threshold that
lets a query be answered with "nothing".
The absent words and scenes of the test are never looked at.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from chorus_core.config import SemanticsConfig
from chorus_core.encoder import ChorusEncoder
from chorus_core.encoder.checkpoint import write_model
from chorus_core.io.atomic import atomic_path
from chorus_core.semantics.calibration import Calibration, choose_threshold, fit_calibration
from chorus_core.semantics.relevancy import FeatureBasis, query_evidence
from training.command_line import run_command
from training.evaluation.encoded import EncodedScene, encode_scenes, predict
from training.evaluation.presence import object_gap, object_score
from training.language import KINDS, LanguageTargets
from training.metrics import confusion, summarize

logger = logging.getLogger(__name__)

REPORTED_DIMS = (32, 64, 96, 128, 160)
OBJECT_GAUSSIANS = SemanticsConfig().min_object_gaussians
"""Gaussians that make an object, as the pipeline's default has it."""


@dataclass(frozen=True)
class Query:
    """A phrase put to a scene.

    Attributes:
        embedding: unit vector [D].
        kind: "name", "synonym" or "description" of a present category, "absent category" or "absent word".
        category: what it describes, place in the bank; -1 where it is not in the scene.
    """

    embedding: Tensor
    kind: str
    category: int


@dataclass(frozen=True)
class Evidence:
    """What a query's best Gaussians look like.

    Attributes:
        kind: of the query.
        rows: evidence of all candidates, float32 [N, 3].
        points: of these, metres [N, 3].
        gap: metres between neighbours of an object.
    """

    kind: str
    rows: Tensor
    points: np.ndarray
    gap: float

    @property
    def present(self) -> bool:
        return not self.kind.startswith("absent")

    def best(self, count: int = 64) -> np.ndarray:
        """The rows of highest similarity [count, 3]."""
        return self.rows[self.rows[:, 0].topk(min(count, len(self.rows))).indices].numpy()

    def score(self, calibration: Calibration) -> float:
        """Highest threshold at which an object is still found; 0 where there is none."""
        scores = calibration(self.rows).numpy()
        return max(0.0, object_score(self.points, scores, self.gap, OBJECT_GAUSSIANS))


# ---- the basis ----------------------------------------------------------------------------------------------------


def basis_samples(scenes: Sequence[EncodedScene], per_scene: int = 4096) -> Tensor:
    """What the basis must hold: the model's own features. What a text has outside of their span is no part of an inner
    product with them; a basis that made room for it would answer queries worse.

    Returns:
        Every scene with the same weight, float32 [n, D].
    """
    parts = []
    for scene in scenes:
        rows = torch.linspace(0, len(scene.features) - 1, min(per_scene, len(scene.features))).long()
        parts.append(scene.features[rows].float() / np.sqrt(len(rows) * len(scenes)))
    return torch.cat(parts)


def retained_accuracy(
    basis: FeatureBasis | None, bank: LanguageTargets, scenes: Sequence[EncodedScene]
) -> dict[str, float]:
    """Labels by the nearest of all names, with float32 features or with float16 ones in the basis.

    Returns:
        ``accuracy``, ``miou`` and ``f_miou`` over the scenes; ``length``, the mean squared length that is kept; and
        ``similarity_error``, the root mean square change of a feature's similarity to names and absent words.
    """
    names = bank.name_embeddings()
    texts = torch.cat([names, bank.absent_validation])
    table = np.zeros((len(names), len(names) + 1), dtype=np.int64)
    kept, error, count = 0.0, 0.0, 0
    for scene in scenes:
        features = scene.features.float()
        compact = features if basis is None else basis.project(features, torch.float16)
        table += confusion(
            scene.category, predict(compact, names if basis is None else basis.project(names)), len(names)
        )
        if basis is not None:
            sample = slice(None, None, max(1, len(features) // 2000))
            change = compact[sample].float() @ basis.project(texts).T - features[sample] @ texts.T
            kept += float(compact.float().square().sum())
            error += float(change.square().mean()) * len(features)
            count += len(features)
    summary = summarize(table, bank.names)
    report = {"accuracy": float(np.diag(table[:, :-1]).sum() / max(1, table.sum())), **summary}
    if basis is not None:
        report |= {"length": kept / count, "similarity_error": float(np.sqrt(error / count))}
    return report


# ---- queries and their evidence -----------------------------------------------------------------------------------


def draw_queries(
    bank: LanguageTargets,
    present: Sequence[int],
    rng: np.random.Generator,
    *,
    per_kind: int = 2,
    absent_categories: int = 40,
    too_near: float = 0.5,
) -> list[Query]:
    """Queries for one scene: what is in it by name, synonym and description, and as many kinds of what is not.

    A category that is not in the scene counts as absent only where the phrase is no near synonym of something that is
    (cosine below ``too_near`` to every name and synonym in it): "couch" is no absent thing in a room with a sofa.
    """
    plain = bank.color < 0
    kinds = {name: KINDS.index(name) for name in ("name", "synonym", "description")}
    of_kind = {name: plain & (bank.kind == place) for name, place in kinds.items()}
    queries = []
    for category in present:
        for name, mask in of_kind.items():
            rows = torch.nonzero(mask & (bank.category == category))[:, 0].tolist()
            for row in rng.choice(rows, min(per_kind, len(rows)), replace=False).tolist() if rows else ():
                queries.append(Query(bank.embeddings[row], name, category))
    inside = torch.isin(bank.category, torch.tensor(list(present)))
    known = bank.embeddings[inside & (of_kind["name"] | of_kind["synonym"])]
    outside = torch.nonzero(~inside & (of_kind["name"] | of_kind["synonym"] | of_kind["description"]))[:, 0]
    far = outside[(bank.embeddings[outside] @ known.T).amax(1) < too_near] if len(known) else outside
    for row in rng.choice(far.numpy(), min(absent_categories, len(far)), replace=False).tolist():
        queries.append(Query(bank.embeddings[row], "absent category", -1))
    queries += [Query(embedding, "absent word", -1) for embedding in bank.absent_validation]
    return queries


def gather_evidence(
    scene: EncodedScene, basis: FeatureBasis, bank: LanguageTargets, rng: np.random.Generator, most: int = 4096
) -> list[Evidence]:
    """The evidence for each query of a scene: of the Gaussians it describes, or, where absent, of the whole scene.

    Only the ``most`` Gaussians of highest similarity are kept: an object is found among them or not at all.
    """
    features = basis.project(scene.features, torch.float16)
    negatives, reference = basis.project(bank.negatives), basis.project(bank.reference)
    gap = object_gap(scene.voxel_size)
    category = torch.from_numpy(scene.category)
    found = []
    for query in draw_queries(bank, scene.present(2 * OBJECT_GAUSSIANS), rng):
        rows = query_evidence(features, basis.project(query.embedding), negatives, reference)
        place = torch.nonzero(category == query.category)[:, 0] if query.category >= 0 else torch.arange(len(rows))
        place = place[rows[place, 0].topk(min(most, len(place))).indices]
        found.append(Evidence(query.kind, rows[place].clone(), scene.points[place.numpy()], gap))
    return found


def fit(evidence: Sequence[Evidence]) -> Calibration:
    """Platt's logistic on the best Gaussians of present and absent queries.

    Raises:
        CalibrationError: present things are not more similar than absent ones (an untrained model).
    """
    present = np.concatenate([e.best() for e in evidence if e.present])
    absent = np.concatenate([e.best() for e in evidence if not e.present])
    return fit_calibration(present, absent)


# ---- the threshold ------------------------------------------------------------------------------------------------


def score_queries(evidence: Sequence[Evidence], calibration: Calibration) -> dict[str, np.ndarray]:
    """Object score of every query, by kind."""
    scores: dict[str, list[float]] = {}
    for item in tqdm(evidence, desc="score", disable=None):
        scores.setdefault(item.kind, []).append(item.score(calibration))
    return {kind: np.array(values) for kind, values in scores.items()}


def threshold_of(scores: dict[str, np.ndarray], reject: float) -> float:
    """The lowest threshold at which both kinds of absent queries are answered "nothing" at least so often."""
    present = np.concatenate([values for kind, values in scores.items() if not kind.startswith("absent")])
    kinds = [values for kind, values in scores.items() if kind.startswith("absent")]
    thresholds = [choose_threshold(present, absent, max_false_alarms=1 - reject) for absent in kinds]
    return float(np.clip(max(thresholds), 1e-3, 1 - 1e-3))


def operating_point(scores: dict[str, np.ndarray], threshold: float) -> dict[str, float]:
    """Share found of each present kind, share answered "nothing" of each absent kind."""
    report = {"threshold": round(threshold, 4)}
    for kind, values in sorted(scores.items()):
        absent = kind.startswith("absent")
        report[kind] = round(float((values < threshold).mean() if absent else (values >= threshold).mean()), 4)
    return report


# ---- all of it ----------------------------------------------------------------------------------------------------


def calibrate(
    scenes: Sequence[EncodedScene],
    bank: LanguageTargets,
    dim: int,
    reject: float,
    seed: int,
    basis_scenes: Sequence[EncodedScene] | None = None,
) -> tuple[FeatureBasis, dict[str, Any]]:
    """Fit basis, calibration and threshold; the report holds the last two and how good they are.

    Args:
        dim: of the basis.
        reject: share of absent queries to answer with "nothing".
        basis_scenes: what the basis is fitted to; the scenes by default.
    """
    samples = basis_samples(scenes if basis_scenes is None else basis_scenes)
    reported = {d for d in REPORTED_DIMS if d < samples.shape[1]}
    bases = {d: FeatureBasis.fit(samples, d) for d in sorted({*reported, dim})}
    accuracy = {"full": retained_accuracy(None, bank, scenes)}
    accuracy |= {str(d): retained_accuracy(basis, bank, scenes) for d, basis in bases.items()}
    rng = np.random.default_rng(seed)
    evidence = [item for scene in scenes for item in gather_evidence(scene, bases[dim], bank, rng)]
    calibration = fit(evidence)
    scores = score_queries(evidence, calibration)
    threshold = threshold_of(scores, reject)
    return bases[dim], {
        "calibration": asdict(calibration),
        "threshold": threshold,
        "queries": {kind: len(values) for kind, values in scores.items()},
        "operating_point": operating_point(scores, threshold),
        "curve": [operating_point(scores, t) for t in np.round(np.linspace(0.05, 0.95, 19), 2).tolist()],
        "basis": accuracy,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.calibrate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, required=True, help="model folder of training.pretrain, or a shipped name"
    )
    parser.add_argument("--scenes", type=Path, required=True, help="folder of validation scenes")
    parser.add_argument("--bank", type=Path, required=True, help="language bank (training.language)")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--basis-scenes", type=Path, help="folder of training scenes to fit the basis to")
    parser.add_argument("--dim", type=int, default=160, help="dimensions features are stored in")
    parser.add_argument("--reject", type=float, default=0.9, help='share of absent queries to answer with "nothing"')
    parser.add_argument("--seed", type=int, default=0, help="of the choice of phrases")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    a = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    encoder = ChorusEncoder.from_pretrained(a.model, a.device)
    text = encoder.description.get("text", {"encoder": "minilm", "head": "lang"})
    bank = LanguageTargets.load(a.bank)
    # Only files of the validation subset are read, whatever else the folder holds.
    scenes = list(encode_scenes(encoder, a.scenes, "val", bank, text["head"]))
    basis_scenes = None
    if a.basis_scenes is not None:
        basis_scenes = list(encode_scenes(encoder, a.basis_scenes, "train", bank, text["head"]))
    basis, report = calibrate(scenes, bank, a.dim, a.reject, a.seed, basis_scenes)
    description = {
        **encoder.description,
        "text": text,
        "calibration": report["calibration"],
        "threshold": report["threshold"],
        "basis_dim": a.dim,
    }
    write_model(a.out, encoder.model, description, {"basis": basis.basis})
    with atomic_path(a.out / "calibration_report.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    logger.info("%s", json.dumps(report, indent=1))


if __name__ == "__main__":
    run_command(main)
