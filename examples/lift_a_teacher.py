"""Lift what a 2D teacher says of a recording's images onto a map: features without a 3D encoder.

python examples/lift_a_teacher.py data/house_drive/bag embedded "a bed" "a plant"
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from chorus_core.config import MapConfig
from chorus_core.distillation.lifting import Lifter
from chorus_core.io.rgbd import open_sequence
from chorus_core.mapping import GaussianMap
from chorus_core.rendering import View, contributions
from chorus_core.semantics.text_encoder import load_text_encoder
from chorus_core.teachers import load_teacher


def main(recording: str, teacher_name: str, *texts: str) -> None:
    sequence = open_sequence(Path(recording))
    frames = [sequence[number] for number in range(0, len(sequence), max(len(sequence) // 12, 1))]
    map_ = GaussianMap(MapConfig(voxel_size=0.08))
    for frame in frames:
        map_.integrate(frame)
    gaussians = map_.export().gaussians
    teacher = load_teacher(teacher_name, torch.device("cpu"))
    lifter = Lifter(len(gaussians), teacher.heads["lang"])
    for frame in frames:
        table = teacher.tables(torch.from_numpy(frame.color)[None])["lang"][0]
        lifter.add(contributions(gaussians, View(frame.intrinsics, frame.world_from_camera)), table)
    features, known = lifter.features(unit=True)  # [N, 384], and which Gaussians any image showed
    embeddings = load_text_encoder("minilm", torch.device("cpu")).encode(list(texts))
    for text, similarity in zip(texts, (features[known].float() @ embeddings.T).T, strict=True):
        best = gaussians.means[known][similarity.argmax()]
        print(f"{text}: most similar {similarity.max():.2f} at {best.numpy().round(2)} m")


if __name__ == "__main__":
    main(*sys.argv[1:])
