"""Label accuracy on scenes of the validation or test subset, seen and unseen things apart."""

from __future__ import annotations

import numpy as np
import torch

from chorus_core.encoder.model import ChorusModel
from training.metrics import confusion, summarize
from training.scene_store import SceneStore, collate
from training.targets import LanguageTarget


@torch.inference_mode()
def validate(model: ChorusModel, store: SceneStore, language: LanguageTarget) -> dict[str, float]:
    """Zero-shot labels by the nearest name among all trained categories: mIoU and foreground mIoU."""
    candidates = language.trained.nonzero().squeeze(1)
    names = language.bank.name_embeddings()[candidates]
    place = torch.full((len(language.bank.categories),), -1, device=store.device)
    place[candidates] = torch.arange(candidates.numel(), device=store.device)
    labels = [language.bank.names[i] for i in candidates.tolist()]
    table = np.zeros((len(labels), len(labels) + 1), dtype=np.int64)
    for scene in store.scenes:
        batch = collate([(scene, scene.gaussians, scene.instance, scene.voxel_size)])
        with torch.autocast(store.device.type, dtype=torch.bfloat16, enabled=store.device.type == "cuda"):
            levels = model.hierarchy(batch.grid, batch.offset)
            features = model.project(model(batch.feat, levels), language.head).float()
        predicted = (features @ names.T).argmax(dim=1)
        category = batch.category[batch.instance.clamp(min=0)]
        truth = torch.where(batch.instance >= 0, place[category], -1)
        table += confusion(truth.cpu().numpy(), predicted.cpu().numpy(), len(labels))
    return {f"val.{k}": v for k, v in summarize(table, labels).items()}
