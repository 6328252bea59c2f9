"""The image side of an open_clip model, with what its inputs must look like."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from chorus_core.teachers.hub import folder_name, loading, local_path
from chorus_core.teachers.images import mixed_precision


@dataclass(frozen=True)
class ImageTower:
    """An image encoder whose output shares a space with text.

    Attributes:
        visual: the network.
        name: identifies architecture, weights and input size.
        text: what ``load_text_encoder`` takes for the other side.
        size: height and width of its input; images are squashed to it, as SigLIP was trained.
        mean, std: per channel, of values in [0, 1].
        dim: length of an embedding.
        device: where it runs.
    """

    visual: nn.Module
    name: str
    text: str
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dim: int
    device: torch.device

    @torch.inference_mode()
    def embed(self, x: Tensor) -> Tensor:
        """Unit embeddings [B, D] of normalised images [B, 3, *size]."""
        return _embed(self.visual, x)


def load_image_tower(
    model: str,
    pretrained: str | None = None,
    device: torch.device | str = "cpu",
    size: tuple[int, int] | None = None,
) -> ImageTower:
    """The image side of an open_clip model.

    Args:
        model: an architecture (``ViT-SO400M-16-SigLIP2-512``), ``hf-hub:<repository>``, or a local folder
            (``open_clip_config.json``, weights).
        pretrained: weights for an architecture: open_clip's tag or a local weight file.
        device: where it runs.
        size: height and width of its input; None takes the model's own. Positions are interpolated.

    Raises:
        TeacherError: model or weights cannot be had; never falls back to random weights.
    """
    tag = f" with weights {pretrained!r}" if pretrained else ""
    by_path = "open_clip:<folder> or open_clip:<architecture>:<weight file>"
    with loading(f"open_clip model {model!r}{tag}", by_path, _repository(model, pretrained)):
        import open_clip

        folder = local_path(model.removeprefix("local-dir:"))
        file = local_path(pretrained) if pretrained else None
        source = f"local-dir:{folder}" if folder else model
        loaded = open_clip.create_model(
            source,
            pretrained=str(file) if file else pretrained,
            device=device,
            force_image_size=size,
            require_pretrained=True,
        )
        visual = loaded.visual.eval().requires_grad_(False)
    weights = f":{folder_name(file) if file else pretrained}" if pretrained else ""
    height, width = _pair(visual.image_size)
    device = torch.device(device)
    probe = torch.zeros(1, 3, height, width, device=device)
    return ImageTower(
        visual,
        f"open_clip:{folder_name(folder) if folder else model}{weights}@{height}x{width}",
        f"open_clip:{source}" + (f":{pretrained}" if pretrained else ""),
        (height, width),
        tuple(visual.image_mean),
        tuple(visual.image_std),
        _embed(visual, probe).shape[1],
        device,
    )


@torch.inference_mode()
def _embed(visual: nn.Module, x: Tensor) -> Tensor:
    with mixed_precision(x.device):
        found = visual(x)
    pooled = found[0] if isinstance(found, tuple) else found  # CoCa's gives its tokens as well
    return nn.functional.normalize(pooled.float(), dim=-1)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _repository(model: str, pretrained: str | None) -> str | None:
    """Where open_clip looks for the weights of a name."""
    if model.startswith("hf-hub:"):
        return model.removeprefix("hf-hub:")
    try:
        from open_clip.pretrained import get_pretrained_cfg

        return (get_pretrained_cfg(model, pretrained or "").get("hf_hub") or "").strip("/") or None
    except Exception:  # the name is explained by whoever asked for the model
        return None
