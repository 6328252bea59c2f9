"""Features of any scene of Gaussians, and the name that each comes closest to.

python examples/encode_a_scene.py out/map.ply bed chair table wall floor
"""

from __future__ import annotations

import sys

from chorus_core.encoder import ChorusEncoder
from chorus_core.encoder.features import encode_features
from chorus_core.io.gaussian_ply import load_gaussians
from chorus_core.semantics.relevancy import classify
from chorus_core.semantics.text_side import TextSide
from chorus_core.semantics.vocabulary import Vocabulary


def main(scene: str, *names: str) -> None:
    gaussians = load_gaussians(scene)  # N of them, z up, metres
    encoder = ChorusEncoder.from_pretrained("chorus_mini")  # device="cuda" where there is one
    features = encode_features(encoder, gaussians)  # [N, 384] float16
    text = TextSide.of(encoder)
    vocabulary = Vocabulary(names)
    labels, _ = classify(text.project_features(features), text.embed_labels(vocabulary))  # [N]
    for place, name in enumerate(names):
        print(f"{name}: {int((labels == place).sum())} of {len(gaussians)} Gaussians")


if __name__ == "__main__":
    main(*sys.argv[1:])
