"""Image backbones of timm as teachers: DINOv3 (generalist), PE-Spatial (object-aware), or any other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from chorus_core.teachers.base import Teacher, TeacherError
from chorus_core.teachers.hub import folder_name, loading, local_path
from chorus_core.teachers.images import check_images, mixed_precision, multiple_of, network_input

_LEAST_SIDE = 448
"""DINOv3's configurations say 256 pixels: 16 patches a side, too coarse to lift; its rotary positions allow more."""


class TimmTeacher(Teacher):
    """The last layer's patch tokens of a timm model, after its final norm; class and register tokens are dropped.

    Teachers of Chorus (arXiv 2512.17817): ``vit_large_patch16_dinov3.lvd1689m`` for the head "dino" and
    ``vit_pe_spatial_large_patch14_448.fb`` for "pe". The image keeps its aspect, up to rounding to whole patches.

    Args:
        model: what ``timm.create_model`` made; ViTs with ``dynamic_img_size`` where they are to see whole images
            undistorted (without it, the model's own input size is used).
        name: identifies architecture and weights.
        head: that it teaches.
        size: pixels of the image's shorter side, rounded to whole patches; None takes the model's own, at least 448.
        device: where it runs.

    Raises:
        TeacherError: the model has no feature map to give.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        head: str,
        size: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        config = getattr(model, "pretrained_cfg", {})
        if not hasattr(model, "forward_intermediates") or not getattr(model, "feature_info", None):
            raise TeacherError(f"timm model {name!r}: gives no feature maps (no forward_intermediates)")
        last = list(model.feature_info)[-1]
        own = tuple(config.get("input_size", (3, 224, 224))[1:])
        self.device = torch.device(device)
        self.heads = {head: int(last["num_chs"])}
        self._model = model.eval().requires_grad_(False).to(self.device)
        self._head = head
        self._step = int(last["reduction"])
        self._only = own if config.get("fixed_input_size") and not getattr(model, "dynamic_img_size", False) else None
        self._side = size or max(_LEAST_SIDE, *own)
        self._mean, self._std = config.get("mean", (0.5,) * 3), config.get("std", (0.5,) * 3)
        self.name = f"{name}@{'x'.join(map(str, self._only)) if self._only else self._side}"

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width at which the network sees an image of this size."""
        if self._only:
            return self._only
        scale = self._side / min(height, width)
        return multiple_of(height * scale, self._step), multiple_of(width * scale, self._step)

    @torch.inference_mode()
    def maps(self, images: Tensor) -> dict[str, Tensor]:
        size = self.input_size(*check_images(images))
        x = network_input(images, size, self._mean, self._std, self.device)
        with mixed_precision(self.device):
            (features,) = self._model.forward_intermediates(
                x, indices=1, norm=True, intermediates_only=True, output_fmt="NCHW"
            )
        return {self._head: features.float().permute(0, 2, 3, 1)}


def load_timm(
    name: str,
    device: torch.device | str = "cpu",
    checkpoint: str | None = None,
    head: str | None = None,
    size: int | None = None,
) -> TimmTeacher:
    """A timm model with its weights.

    Args:
        name: a model of timm with a tag (``vit_large_patch16_dinov3.lvd1689m``), whose weights come from the hub;
            ``hf-hub:<repository>``; or a local folder as timm saves one (``config.json``, ``model.safetensors``).
        device: where it runs.
        checkpoint: a local weight file, with an architecture as the name.
        head: that it teaches; None: "pe" for Perception Encoders, else "dino".
        size: see :class:`TimmTeacher`.

    Raises:
        TeacherError: model or weights cannot be had; never falls back to random weights.
    """
    with loading(f"timm model {name!r}", "timm:<folder> or timm:<architecture>:<weight file>", _repository(name)):
        import timm

        folder = local_path(name)
        overlay: dict[str, Any] | None = None
        label, source = name, name
        if folder is not None:
            label, source = folder_name(folder), f"local-dir:{folder}"
        elif checkpoint is not None:
            file = local_path(checkpoint)
            if file is None:
                raise TeacherError(f"timm model {name!r}: weight file {checkpoint!r} does not exist")
            overlay = {"file": str(file)}
            label = f"{name}:{folder_name(file)}"
        model = _create(timm, source, overlay)
        architecture = model.pretrained_cfg.get("architecture") or name
    default = "pe" if "vit_pe_" in architecture else "dino"
    return TimmTeacher(model, f"timm:{label}", head or default, size, device)


def _create(timm: Any, source: str, overlay: dict[str, Any] | None) -> nn.Module:
    options = {"pretrained": True, "pretrained_cfg_overlay": overlay, "num_classes": 0}
    try:
        return timm.create_model(source, dynamic_img_size=True, **options)
    except TypeError:  # not a ViT: no such argument
        return timm.create_model(source, **options)


def _repository(name: str) -> str | None:
    """Where timm looks for the weights of a name."""
    try:
        import timm

        config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except Exception:  # the name is explained by whoever asked for the model
        return None
    return getattr(config, "hf_hub_id", None)
