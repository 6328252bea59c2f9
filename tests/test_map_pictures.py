"""The pictures of a map are written, one a query, and show it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from chorus_core.encoder import ChorusEncoder
from chorus_core.gaussians import Gaussians
from chorus_core.map_pictures import draw_map
from chorus_core.semantics.labelled_map import LabelledMap
from chorus_core.semantics.text_side import TextSide
from chorus_core.semantics.vocabulary import Vocabulary


def test_a_picture_each(tmp_path: Path) -> None:
    text = TextSide.of(ChorusEncoder.from_pretrained("chorus_mini"))
    vocabulary = Vocabulary(("sofa", "lamp"))
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 3 - 1  # a third is not encoded
    means = torch.rand(400, 3, generator=rng) * torch.tensor((2.0, 2.0, 0.5))
    gaussians = Gaussians(
        means, torch.tensor((1.0, 0, 0, 0)).repeat(400, 1), torch.full((400, 3), 0.04), torch.full((400,), 0.9),
        torch.rand(400, 3, generator=rng),
    )  # fmt: skip
    features = text.embed_labels(vocabulary)[labels.clamp(min=0)].half()
    labelled = LabelledMap(gaussians, features, labels, torch.ones(400), vocabulary, 0)
    paths = draw_map(labelled, text, ("a lamp!", "sofa"), tmp_path)
    assert [p.name for p in paths] == [
        "map_color.png", "map_labels.png", "map_pca.png", "query_a_lamp.png", "query_sofa.png",
    ]  # fmt: skip
    pictures = [cv2.imread(str(p)) for p in paths]
    assert all(picture.std() > 5 for picture in pictures)
    assert not np.array_equal(pictures[3], pictures[4])
