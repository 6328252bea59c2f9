"""Settings of a probe."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = ("linear", "decoder", "finetune", "scratch")
"""A linear layer or a decoder on the frozen encoder; decoder and encoder from its weights, or from random ones."""


@dataclass(frozen=True)
class ProbeConfig:
    """Network and optimisation; the defaults are Sonata's probes where a run of minutes allows them.

    Attributes:
        steps: updates.
        batch_scenes: scenes of an update (all kinds but linear).
        batch_rows: voxels of an update of the linear probe.
        max_points: Gaussians of a scene in an update; larger scenes are cropped around a random labelled one.
        copies: augmented copies of each scene whose features the linear probe learns from.
        cache_rows: voxels of all copies together at most; a random part of each copy is kept.
        learning_rate, block_rate, weight_decay: of AdamW; blocks have their own rate, a tenth.
        warmup: share of the steps.
        clip: norm of the gradient.
        lovasz: weight of the Lovasz-softmax loss beside cross-entropy; 0 leaves it out.
        drop_path: of encoder (where it learns) and decoder.
        decoder_channels, decoder_depths, decoder_heads: of the decoder's stages, finest first; as many are used as the
            encoder has stages but one.
        augment: yaw, mirror, scale and colour at random.
        seed: of weights, batches and augmentation.
    """

    steps: int = 2000
    batch_scenes: int = 4
    batch_rows: int = 16_384
    max_points: int = 102_400
    copies: int = 4
    cache_rows: int = 2_000_000
    learning_rate: float = 2e-3
    block_rate: float = 2e-4
    weight_decay: float = 0.02
    warmup: float = 0.05
    clip: float = 1.0
    lovasz: float = 1.0
    drop_path: float = 0.1
    decoder_channels: tuple[int, ...] = (64, 96, 192, 384)
    decoder_depths: tuple[int, ...] = (2, 2, 2, 2)
    decoder_heads: tuple[int, ...] = (4, 6, 12, 24)
    augment: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_scenes", "batch_rows", "max_points", "copies", "cache_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: expected at least 1")
        if not len(self.decoder_channels) == len(self.decoder_depths) == len(self.decoder_heads):
            raise ValueError("decoder_channels, decoder_depths and decoder_heads must have the same length")
        for width, heads in zip(self.decoder_channels, self.decoder_heads, strict=True):
            if width % heads:
                raise ValueError(f"decoder_heads {heads} does not divide decoder_channels {width}")
