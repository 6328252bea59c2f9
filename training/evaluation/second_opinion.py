"""What a 2D teacher, lifted onto a map, says of its Gaussians, against the labels of the 3D encoder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from chorus_core.distillation.lifting import Lifter
from chorus_core.frames import RgbdFrame
from chorus_core.gaussians import Gaussians
from chorus_core.pipeline import Pipeline
from chorus_core.rendering import View, contributions
from chorus_core.semantics.relevancy import classify
from chorus_core.semantics.text_encoder import load_text_encoder
from chorus_core.semantics.vocabulary import Vocabulary, encode_labels
from chorus_core.teachers.base import Teacher, TeacherError
from training.evaluation.agreement import class_agreement


@dataclass(frozen=True)
class SecondOpinion:
    """Two labellings of the Gaussians of a map.

    Attributes:
        own: by the encoder, place in the vocabulary, -1 = none, int64 [N].
        theirs: by the teacher [N].
        vocabulary: what both chose from.
    """

    own: np.ndarray
    theirs: np.ndarray
    vocabulary: Vocabulary

    def report(self) -> dict[str, Any]:
        """See :func:`~training.evaluation.agreement.class_agreement`; the encoder is "a", the teacher "b"."""
        return class_agreement(self.own, self.theirs, self.vocabulary.labels)


def ask_teacher(
    pipeline: Pipeline,
    frames: Iterable[RgbdFrame],
    teacher: Teacher,
    vocabulary: Vocabulary | None = None,
    width: int = 320,
) -> SecondOpinion:
    """Label the pipeline's map by its encoder and by a lifted teacher, with the same words.

    The pipeline's own vocabulary is replaced.

    Args:
        frames: that the teacher sees.
        vocabulary: to choose from; by default the classes of a closed-set teacher.
        width: frames are made that wide, pixels.

    Raises:
        TeacherError: the teacher has no text space, or no classes where no vocabulary is given.
    """
    if teacher.text is None or "lang" not in teacher.heads:
        raise TeacherError(f'{teacher.name}: no "lang" head in a text space; a second opinion needs one')
    if vocabulary is None:
        classes = tuple(dict.fromkeys(name for name in getattr(teacher, "classes", ()) if name))
        if not classes:
            raise TeacherError(f"{teacher.name}: no classes of its own; give a vocabulary to choose from")
        vocabulary = Vocabulary(classes)
    pipeline.set_vocabulary(vocabulary.labels)
    labelled = pipeline.labelled_map()
    features, valid = lift_language(labelled.gaussians, frames, teacher, width)
    texts = encode_labels(vocabulary, load_text_encoder(teacher.text, features.device)).to(features.device)
    theirs = torch.where(valid, classify(features, texts)[0], -1)
    return SecondOpinion(labelled.labels.cpu().numpy(), theirs.cpu().numpy(), vocabulary)


@torch.inference_mode()
def lift_language(
    gaussians: Gaussians, frames: Iterable[RgbdFrame], teacher: Teacher, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit features [N, D] of a teacher's "lang" head, and where it says something, bool [N]."""
    lifter = Lifter(len(gaussians), teacher.heads["lang"], gaussians.device)
    for frame in tqdm(frames, desc=f"lift {teacher.name}", disable=None):
        k = frame.intrinsics
        small = frame.resized(width, round(k.height * width / k.width))
        table = teacher.tables(torch.from_numpy(small.color)[None])["lang"][0]
        lifter.add(contributions(gaussians, View(small.intrinsics, small.world_from_camera)), table)
    return lifter.features(min_weight=1e-2, unit=True)
