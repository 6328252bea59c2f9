"""Small networks with random weights, saved as the real ones are, and images to show them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

TEXT = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}


def clip_config(vision: dict[str, Any], dim: int = 12) -> dict[str, Any]:
    """An open_clip configuration with a tiny text side."""
    return {"embed_dim": dim, "vision_cfg": vision, "text_cfg": dict(TEXT)}


def vit_config(image: int = 64, patch: int = 16, **more: Any) -> dict[str, Any]:
    return clip_config({"image_size": image, "patch_size": patch, "width": 64, "layers": 2, **more})


def save_open_clip(folder: Path, config: dict[str, Any], timm_options: dict[str, Any] | None = None) -> Path:
    """An open_clip folder with random weights: ``open_clip_config.json`` and ``open_clip_model.safetensors``."""
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "squash"}
    written = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(written))
    torch.manual_seed(0)
    kind = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    model = kind(**{key: value for key, value in config.items() if key != "custom_text"})
    shake(model)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def shake(model: nn.Module, seed: int = 0) -> None:
    """Random values for parameters that start at zero or one, so that each of them matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2 or float(parameter.std()) == 0:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def save_timm(folder: Path, architecture: str, **options: Any) -> nn.Module:
    """A timm folder with random weights: ``config.json`` and ``model.safetensors``."""
    import timm
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = timm.create_model(architecture, num_classes=0, **options)
    shake(model)
    plain = {key: value for key, value in model.pretrained_cfg.items() if isinstance(value, (int, float, str, list))}
    plain |= {"input_size": [3, 64, 64], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "num_classes": 0}
    written = {"architecture": architecture, "num_classes": 0, "pretrained_cfg": plain, "model_args": options}
    (folder / "config.json").write_text(json.dumps(written))
    save_file(model.state_dict(), folder / "model.safetensors")
    return model.eval()


def images(count: int = 1, height: int = 48, width: int = 80, seed: int = 0) -> Tensor:
    """Smooth random pictures, uint8 [B, H, W, 3]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 8, generator=generator)
    fine = nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    return (fine * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def changed_cells(before: Tensor, after: Tensor, least: float = 1e-3) -> Tensor:
    """Which cells of two maps [h, w, D] differ, relative to the largest difference of all."""
    difference = (before - after).norm(dim=-1)
    return difference > least * difference.max()


def paint_quarter(picture: Tensor, row: int, column: int) -> Tensor:
    """Images [B, H, W, 3] with one quarter red."""
    height, width = picture.shape[1:3]
    painted = picture.clone()
    rows = slice(row * height // 2, (row + 1) * height // 2)
    columns = slice(column * width // 2, (column + 1) * width // 2)
    painted[:, rows, columns] = torch.tensor([220, 20, 20], dtype=torch.uint8)
    return painted
