"""Closed-set segmentation networks of torchvision and transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from chorus_core.io.architecture import check_list, check_number, check_whole
from chorus_core.io.weights import check_fit, check_tensors, read_weights
from chorus_core.teachers.base import TeacherError
from chorus_core.teachers.hub import folder_name, loading, local_path
from chorus_core.teachers.images import check_images, multiple_of, network_input

_STRIDE = 8
"""Torchvision's models bring logits back to the input's size; the networks themselves work at this stride."""

_NAMELESS = {"background", "unlabeled", "unlabelled", "void", "other", "misc"}
_SPELLED = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "television"}
"""Pascal VOC runs words together."""

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def class_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names as a network lists them, fit to be read as text: "" for background, the first of several synonyms."""
    clean = [str(name).split(";")[0].split(",")[0].replace("_", " ").strip() for name in names]
    return tuple("" if name.casefold() in _NAMELESS else _SPELLED.get(name, name) for name in clean)


class TorchvisionSegmenter:
    """A segmentation network of torchvision, as a :class:`~chorus_core.teachers.closed_set.Segmenter`.

    Args:
        model: name of one, e.g. ``deeplabv3_resnet50``.
        checkpoint: a local state dict of it; None takes torchvision's default weights from its download site.
        device: where it runs.
        size: pixels of the image's shorter side.

    Raises:
        TeacherError: there is no such model, or its weights cannot be had.
    """

    def __init__(
        self,
        model: str,
        checkpoint: str | None = None,
        device: torch.device | str = "cpu",
        size: int = 520,
    ) -> None:
        with loading(f"torchvision model {model!r}", "torchvision:<model>:<weight file>"):
            from torchvision.models import get_model, get_model_weights, list_models, segmentation

            known = list_models(module=segmentation)
            if model not in known:
                raise TeacherError(f"torchvision has no segmentation model {model!r}; it has {', '.join(known)}")
            weights = get_model_weights(model).DEFAULT
            names = weights.meta["categories"]
            if checkpoint is None:
                label, state = weights.name, weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
            else:
                file = local_path(checkpoint)
                if file is None:
                    raise TeacherError(f"torchvision model {model!r}: weight file {checkpoint!r} does not exist")
                label, state = folder_name(file), read_weights(file, TeacherError)
            auxiliary = any(key.startswith("aux_classifier.") for key in state)
            options = {} if model.startswith("lraspp") else {"aux_loss": auxiliary}
            network = get_model(model, weights=None, weights_backbone=None, num_classes=len(names), **options)
            check_fit(state, network.state_dict(), f"torchvision model {model!r}: {label}", TeacherError)
            network.load_state_dict(state)
        self.name = f"torchvision:{model}:{label}@{size}"
        network.aux_classifier = None
        self.classes = class_names(names)
        self.device = torch.device(device)
        self._network = network.eval().requires_grad_(False).to(self.device)
        self._size = size

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        height, width = check_images(images)
        scale = self._size / min(height, width)
        size = (multiple_of(height * scale, _STRIDE), multiple_of(width * scale, _STRIDE))
        x = network_input(images, size, _IMAGENET_MEAN, _IMAGENET_STD, self.device, mode="bilinear")
        p = self._network(x)["out"].softmax(dim=1)
        return nn.functional.avg_pool2d(p, _STRIDE).permute(0, 2, 3, 1)


class TransformersSegmenter:
    """A network of transformers' ``AutoModelForSemanticSegmentation`` (SegFormer, UPerNet, DPT, ...).

    Args:
        model: its name on the hub, or a local folder as ``save_pretrained`` writes one.
        device: where it runs.

    Raises:
        TeacherError: transformers is not installed, or model or weights cannot be had.
    """

    def __init__(self, model: str, device: torch.device | str = "cpu") -> None:
        with loading(f"transformers model {model!r}", "transformers:<folder>", model):
            folder = local_path(model)
            try:
                from transformers import AutoModelForSemanticSegmentation
            except ImportError as error:
                raise TeacherError(
                    f"transformers model {model!r}: needs the Python package 'transformers': pip install transformers"
                ) from error

            source = str(folder) if folder else model
            network, report = AutoModelForSemanticSegmentation.from_pretrained(
                source, use_safetensors=True, output_loading_info=True
            )
            if lacking := sorted(report["missing_keys"]):  # the library would go on with random values
                raise TeacherError(f"transformers model {model!r}: no weights {', '.join(lacking[:12])}")
            check_tensors(dict(network.named_parameters()), f"transformers model {model!r}", TeacherError)
            settings = _processor_settings(source)
            names = network.config.id2label
            classes = class_names([names[i] for i in range(len(names))])
        self.name = f"transformers:{folder_name(folder) if folder else model}"
        self.classes = classes
        self.device = torch.device(device)
        self._network = network.eval().requires_grad_(False).to(self.device)
        self._mean, self._std, self._size = settings

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        size = _input_size(self._size, *check_images(images))
        x = network_input(images, size, self._mean, self._std, self.device, mode="bilinear")
        return self._network(pixel_values=x).logits.softmax(dim=1).permute(0, 2, 3, 1)


def _processor_settings(source: str) -> tuple[Sequence[float], Sequence[float], Mapping[str, int] | int]:
    """Mean, spread and size of images as ``preprocessor_config.json`` has them, in a folder or on the hub."""
    from transformers.image_processing_base import ImageProcessingMixin

    settings, _ = ImageProcessingMixin.get_image_processor_dict(source)
    mean, std = settings.get("image_mean") or _IMAGENET_MEAN, settings.get("image_std") or _IMAGENET_STD
    for name, values, low in (("image_mean", mean, -1e3), ("image_std", std, 1e-6)):
        check_list(name, values, 3)
        if len(values) != 3:
            raise TeacherError(f"{source}: {name} = {values}: expected 3 numbers")
        for value in values:
            check_number(name, value, low, 1e3)
    size = settings.get("size") or {"shortest_edge": 512}
    sides = size if isinstance(size, Mapping) else {"shortest_edge": size}
    if not ({"height", "width"} <= set(sides) or "shortest_edge" in sides):
        raise TeacherError(f"{source}: size = {size!r:.80}: expected height and width, or shortest_edge")
    for name, value in sides.items():
        check_whole(f"size.{name}", value, 1, 1 << 14)
    return mean, std, size


def _input_size(size: Mapping[str, int] | int, height: int, width: int) -> tuple[int, int]:
    """Height and width of the network's input from the ``size`` of an image processor."""
    if isinstance(size, Mapping) and "height" in size:
        return int(size["height"]), int(size["width"])
    shorter = int(size["shortest_edge"] if isinstance(size, Mapping) else size)
    scale = shorter / min(height, width)
    return multiple_of(height * scale, 32), multiple_of(width * scale, 32)
