"""ENet (Paszke et al. 2016): a small segmentation network, here its encoder with a 1x1 classifier, 41 NYU40 classes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from chorus_core.io.weights import check_fit, read_weights
from chorus_core.teachers.base import TeacherError
from chorus_core.teachers.hub import folder_name, loading, local_path
from chorus_core.teachers.images import network_input

NYU40 = (
    *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture"),
    *("counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes"),
    *("ceiling", "books", "refrigerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard"),
    *("person", "night stand", "toilet", "sink", "lamp", "bathtub", "bag"),
    *("other structure", "other furniture", "other prop"),
)
"""The 40 classes of NYUv2 (Gupta et al. 2013) in the order of their ids, 1 to 40; id 0 is unlabelled."""

_CATCH_ALL = {"other structure", "other furniture", "other prop"}
_SIZE = (256, 328)
_MEAN, _STD = (0.496342, 0.466664, 0.440796), (0.277856, 0.286230, 0.291129)
_EPS = 1e-3


class _Scale(nn.Module):
    """What dropout of rate p does in evaluation where training did not rescale: a product with 1 - p."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.keep = 1 - rate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.keep


class _Both(nn.Sequential):
    """Runs two branches on the same input; their results are joined by what follows."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self
        return first(x), second(x)


class _Concatenate(nn.Module):
    def forward(self, branches: tuple[Tensor, Tensor]) -> Tensor:
        return torch.cat(branches, dim=1)


class _AddPadded(nn.Module):
    """Sum of two branches; the second has zeros for the channels that it lacks."""

    def forward(self, branches: tuple[Tensor, Tensor]) -> Tensor:
        main, shortcut = branches
        return main + nn.functional.pad(shortcut, (0, 0, 0, 0, 0, main.shape[1] - shortcut.shape[1]))


def _bottleneck(inputs: int, outputs: int, rate: float, dilation: int = 1, asymmetric: bool = False) -> nn.Sequential:
    """A bottleneck module (figure 2b of the paper); it halves the resolution where it widens."""
    down = inputs != outputs
    inner, step = outputs // 4, 2 if down else 1
    if asymmetric:
        middle = [
            nn.Conv2d(inner, inner, (1, 5), padding=(0, 2), bias=False),
            nn.Conv2d(inner, inner, (5, 1), padding=(2, 0)),
        ]
    else:
        middle = [nn.Conv2d(inner, inner, 3, padding=dilation, dilation=dilation)]
    main = nn.Sequential(
        nn.Conv2d(inputs, inner, step, step, bias=False),
        nn.BatchNorm2d(inner, _EPS),
        nn.PReLU(inner),
        *middle,
        nn.BatchNorm2d(inner, _EPS),
        nn.PReLU(inner),
        nn.Conv2d(inner, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs, _EPS),
        _Scale(rate),
    )
    shortcut = nn.MaxPool2d(2, 2) if down else nn.Identity()
    return nn.Sequential(_Both(main, shortcut), _AddPadded(), nn.PReLU(outputs))


class ENet(nn.Sequential):
    """The network, layer by layer under the checkpoint's names. For evaluation: dropout is a fixed scale.

    Input: normalised colour [B, 3, H, W], H and W multiples of 8. Output: logits [B, classes, H/8, W/8].
    """

    def __init__(self, classes: int = 41) -> None:
        context = [{}, {"dilation": 2}, {"asymmetric": True}, {"dilation": 4}]
        context += [{}, {"dilation": 8}, {"asymmetric": True}, {"dilation": 16}]
        super().__init__(
            _Both(nn.Conv2d(3, 13, 3, 2, 1), nn.MaxPool2d(2, 2)),
            _Concatenate(),
            nn.BatchNorm2d(16, _EPS),
            nn.PReLU(16),
            _bottleneck(16, 64, 0.01),
            *(_bottleneck(64, 64, 0.01) for _ in range(4)),
            _bottleneck(64, 128, 0.1),
            *(_bottleneck(128, 128, 0.1, **options) for options in context * 2),
            nn.Sequential(nn.Conv2d(128, classes, 1, bias=False)),
        )


class ENetSegmenter:
    """ENet trained on ScanNet, as a :class:`~chorus_core.teachers.closed_set.Segmenter`.

    The logit of the unlabelled class is left out; catch-all classes ("other furniture") name no thing.

    Args:
        path: the weights, a state dict of :class:`ENet`.
        device: where it runs.

    Raises:
        TeacherError: the file is missing, or is not of this network.
    """

    def __init__(self, path: str | Path, device: torch.device | str = "cpu") -> None:
        form = "enet:<weight file>, for instance scannetv2_enet.pth of daveredrum/Pointnet2.ScanNet"
        with loading(f"ENet weights {str(path)!r}", form):
            file = local_path(str(path))
            if file is None or not file.is_file():
                raise TeacherError(f"ENet weights {str(path)!r}: no such file; expected {form}")
            network = ENet(len(NYU40) + 1)
            state = read_weights(file, TeacherError)
            check_fit(state, network.state_dict(), f"ENet weights {str(path)!r}", TeacherError)
            network.load_state_dict(state)
            self.name = f"enet:{folder_name(file)}"
        self.classes = tuple("" if name in _CATCH_ALL else name for name in NYU40)
        self.device = torch.device(device)
        self._network = network.eval().requires_grad_(False).to(self.device)

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities [B, 32, 41, 40] of images uint8 [B, H, W, 3]."""
        x = network_input(images, _SIZE, _MEAN, _STD, self.device, mode="bilinear")
        return self._network(x)[:, 1:].softmax(dim=1).permute(0, 2, 3, 1)
