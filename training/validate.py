"""Label accuracy of a model on prepared scenes while it trains; ``training.evaluate`` measures it in full."""

from __future__ import annotations

import numpy as np
import torch

from chorus_core.encoder.model import ChorusModel
from training.metrics import confusion, summarize
from training.objectives import ClassTexts
from training.scene_store import SceneStore, whole_scene, with_levels


@torch.inference_mode()
def validate(model: ChorusModel, store: SceneStore, texts: ClassTexts, points: bool, head: str) -> dict[str, float]:
    """Zero-shot labels by the nearest name among the trained classes; means over classes present.

    Args:
        head: whose space the texts share.
    """
    names = [name for name, kept in zip(store.classes, texts.trained.tolist(), strict=True) if kept]
    device = texts.embeddings.device
    table = np.zeros((len(names), len(names) + 1), dtype=np.int64)
    for index in range(len(store)):
        batch = with_levels(whole_scene(store[index], model.config.grid_size, points), model.config).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            features = model.project(model(batch.feat, batch.levels), head)
        predicted = (features.float() @ texts.candidates.T).argmax(dim=1)
        truth = torch.where(batch.segment >= 0, texts.place[batch.segment.clamp(min=0)], -1)
        table += confusion(truth.cpu().numpy(), predicted.cpu().numpy(), len(names))
    return {f"val.{name}": value for name, value in summarize(table, names).items()}
