"""EfficientNet-Lite0 (Tan and Le 2019; the Lite variants: no squeeze-and-excitation, ReLU6, a stem of fixed width).

Names of the parameters are those of lukemelas' EfficientNet-PyTorch, whose ImageNet weights load unchanged.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

_STAGES = (
    # expansion, channels, blocks, stride, kernel
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
_STEM, _HEAD = 32, 1280

BLOCKS = sum(blocks for _, _, blocks, _, _ in _STAGES)
"""Of all stages."""

CLASSES = 1000
"""Of ImageNet (ILSVRC 2012)."""

WIDTHS = (24, 40, 112, _HEAD)
"""Channels of the outputs at strides 4, 8, 16 and 32."""

_EPSILON = 1e-3  # of batch normalisation, as TensorFlow's models have it


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's "SAME" does: where the padding is odd, one more at the right and bottom."""

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _), (dilation, _) = self.kernel_size, self.stride, self.dilation
        reach = dilation * (kernel - 1) + 1
        (top, bottom), (left, right) = (_same(size, reach, stride) for size in x.shape[2:])
        return super().forward(functional.pad(x, (left, right, top, bottom)))


def _same(size: int, reach: int, stride: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


class InvertedBlock(nn.Module):
    """Expand, filter each channel, project; around a skip connection where the shape stays (Sandler et al. 2018)."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.skips = stride == 1 and inputs == outputs
        if expansion != 1:
            self._expand_conv = nn.Conv2d(inputs, inner, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inner, eps=_EPSILON)
        self._depthwise_conv = SameConv2d(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = nn.BatchNorm2d(inner, eps=_EPSILON)
        self._project_conv = nn.Conv2d(inner, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, eps=_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if hasattr(self, "_expand_conv"):
            y = functional.relu6(self._bn0(self._expand_conv(y)))
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.skips else y


class EfficientNetLite0(nn.Module):
    """The network, with its classifier over ImageNet's 1000 classes."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, _STEM, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(_STEM, eps=_EPSILON)
        blocks, inputs, self._taps = [], _STEM, []
        for stage, (expansion, width, count, stride, kernel) in enumerate(_STAGES):
            for k in range(count):
                blocks.append(InvertedBlock(inputs, width, expansion, kernel, stride if k == 0 else 1))
                inputs = width
            following = _STAGES[stage + 1][3] if stage + 1 < len(_STAGES) else 2
            if following == 2 and stage > 0:  # the last at its stride; the first stage's is 2
                self._taps.append(len(blocks) - 1)
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(inputs, _HEAD, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(_HEAD, eps=_EPSILON)
        self._fc = nn.Linear(_HEAD, CLASSES)

    def features(self, images: Tensor) -> list[Tensor]:
        """Outputs at strides 4, 8, 16 and 32, of :data:`WIDTHS` channels [B, C, h, w].

        Args:
            images: (RGB - 127) / 128 [B, 3, H, W].
        """
        x = functional.relu6(self._bn0(self._conv_stem(images)))
        found = []
        for k, block in enumerate(self._blocks):
            x = block(x)
            if k in self._taps:
                found.append(x)
        found[-1] = functional.relu6(self._bn1(self._conv_head(x)))
        return found

    def tuned_blocks(self, first: int) -> list[nn.Module]:
        """Blocks from ``first`` on, and the layer that follows them; none where ``first`` is :data:`BLOCKS`."""
        return [*self._blocks[first:], self._conv_head] if first < BLOCKS else []

    def class_map(self, last: Tensor) -> Tensor:
        """Logits of ImageNet's classes at every place (a class activation map, Zhou et al. 2016) [B, 1000, h, w].

        Args:
            last: the last of :meth:`features`.
        """
        return functional.conv2d(last, self._fc.weight[:, :, None, None], self._fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of whole images [B, 1000]."""
        return self.class_map(self.features(images)[-1]).mean(dim=(2, 3))
