"""The Chorus encoder: a Point Transformer V3 over Gaussians, compatible with the released checkpoints."""

from chorus_core.encoder.checkpoint import CheckpointError, read_model, write_model
from chorus_core.encoder.encoder import ChorusEncoder, EncodeOptions
from chorus_core.encoder.model import ChorusModel, ModelConfig

__all__ = [
    "CheckpointError",
    "ChorusEncoder",
    "ChorusModel",
    "EncodeOptions",
    "ModelConfig",
    "read_model",
    "write_model",
]
