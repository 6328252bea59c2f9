"""What is trained and how: typed configurations of pretraining, and the shipped and released models' own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from chorus_core.encoder.inputs import POINT_CHANNELS
from chorus_core.encoder.model import ModelConfig
from training.augment import AugmentConfig

Contrast = Literal["none", "segment", "instance"]
Schedule = Literal["all", "last_75", "last_80", "skip"]
SCHEDULES: Mapping[str, float] = {"all": 0.0, "last_75": 0.25, "last_80": 0.2, "skip": 2.0}
"""Share of the steps after which a contrastive term counts (SceneSplat's names for it)."""

LANGUAGE_HEAD = "lang"
"""Head of the language teacher, whose features share a space with texts."""

Labels = Literal["all", "contrast", "teacher", "none"]
LABELS: Mapping[Labels, str] = {
    "all": "those of the scenes, in every term of the recipe",
    "contrast": "those of the scenes, in contrastive terms only, as in the paper",
    "teacher": "the class whose name the language teacher's features come closest to; no instances",
    "none": "nothing; features alone teach",
}
"""What tells voxels apart by class and instance."""


@dataclass(frozen=True)
class TeacherConfig:
    """One teacher's part in the objective (arXiv 2512.17817, sections on projectors and objectives).

    Attributes:
        head: name of its projector, and of the lifted features of prepared scenes.
        dim: width of its features.
        weight: lambda_t of its feature loss.
        target: "lifted" features of the scene, or "phrases": embedded texts of the labels, which needs a language bank.
        contrast: labels that group the contrastive term of prediction halves.
        contrast_weight: eta_t.
        schedule: from when on the contrastive term counts.
        text_weight: weight of a contrast against the names of all training classes (ours; 0 leaves it out).
        phi_s: standardise targets by PHI-S (Ranzinger et al. 2024); the head is not normalised then.
        normalize: whether predictions are unit vectors (not for PE in the release).
        starts_at: share of the steps after which the teacher joins.
        class_power: a class of n voxels counts as n to this power; 1 counts voxels.
    """

    head: str
    dim: int
    weight: float = 1.0
    target: Literal["lifted", "phrases"] = "lifted"
    contrast: Contrast = "none"
    contrast_weight: float = 0.02
    schedule: Schedule = "all"
    text_weight: float = 0.0
    phi_s: bool = False
    normalize: bool = True
    starts_at: float = 0.0
    class_power: float = 1.0

    def with_labels(self, labels: Labels) -> TeacherConfig:
        """The same teacher, its terms reduced to what these labels allow."""
        if labels == "all":
            return self
        if labels == "teacher":
            return replace(self, contrast="segment" if self.contrast == "segment" else "none")
        lesser = replace(self, text_weight=0.0, class_power=1.0)
        return lesser if labels == "contrast" else replace(lesser, contrast="none")

    @property
    def raw(self) -> bool:
        """Whether its projector's output stays as it is."""
        return self.phi_s or not self.normalize


@dataclass(frozen=True)
class PretrainConfig:
    """Optimisation and schedule.

    Attributes:
        teachers: who teaches.
        labels: what tells voxels apart by class and instance; the teachers' terms are those that it allows.
        steps: updates of the whole schedule.
        seconds: where not 0, the schedule follows the clock for so long and ``steps`` only bounds it; such a run cannot
            be repeated, nor gone on with exactly after a stop.
        batch_scenes: scenes of a step, over all processes.
        learning_rate, block_rate: peaks of the one-cycle schedule; blocks have their own.
        weight_decay: of matrices; norms and biases have none.
        warmup: share of the steps in which the rate rises.
        divide_first, divide_last: the peak over the first rate, and the first rate over the last.
        drop_path: stochastic depth of the last block.
        clip: norm that gradients are clipped to.
        ema: decay of the running average of the weights, which is what is written and evaluated; 0 averages nothing.
        validate_every: steps between validations.
        save_every: steps between states to go on from.
        text_encoder: whose space "lang" features share; embeds the names of classes.
        seed: of everything random; a step's draws depend on it and the step alone.
        augment: random changes of scenes.
    """

    teachers: tuple[TeacherConfig, ...]
    labels: Labels = "all"
    steps: int = 2000
    seconds: float = 0.0
    batch_scenes: int = 8
    learning_rate: float = 2e-3
    block_rate: float = 2e-4
    weight_decay: float = 0.05
    warmup: float = 0.05
    divide_first: float = 10.0
    divide_last: float = 1000.0
    drop_path: float = 0.3
    clip: float = 1.0
    ema: float = 0.999
    validate_every: int = 200
    save_every: int = 200
    text_encoder: str = "minilm"
    seed: int = 0
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        heads = [t.head for t in self.teachers]
        if not heads or len(set(heads)) != len(heads):
            raise ValueError(f"teachers have heads {heads}: expected at least one, each of its own name")
        if all(t.starts_at > 0 for t in self.teachers):
            raise ValueError(f"teachers {heads} all join later: expected at least one from the start (starts_at = 0)")
        if self.steps < 1 or self.batch_scenes < 1:
            raise ValueError(f"steps = {self.steps}, batch_scenes = {self.batch_scenes}: expected at least 1")


@dataclass(frozen=True)
class Recipe:
    """An architecture and how it is trained. ``model.heads`` are always those of the teachers."""

    name: str
    model: ModelConfig
    pretrain: PretrainConfig

    @property
    def points(self) -> bool:
        """Whether the model reads points (coordinate, colour, normal) instead of Gaussians."""
        return self.model.in_channels == POINT_CHANNELS

    def with_teachers(self, teachers: tuple[TeacherConfig, ...]) -> Recipe:
        """The same recipe with other teachers."""
        return _recipe(self.name, self.model, replace(self.pretrain, teachers=teachers))

    def with_labels(self, labels: Labels) -> Recipe:
        """The same recipe with labels from elsewhere, or used for less."""
        teachers = tuple(t.with_labels(labels) for t in self.pretrain.teachers)
        return replace(self, pretrain=replace(self.pretrain, teachers=teachers, labels=labels))

    def as_points(self) -> Recipe:
        """The point-cloud variant."""
        return replace(self, name=f"{self.name}_pts", model=replace(self.model, in_channels=POINT_CHANNELS))


def _recipe(name: str, model: ModelConfig, pretrain: PretrainConfig) -> Recipe:
    heads = {t.head: t.dim for t in pretrain.teachers}
    raw = tuple(t.head for t in pretrain.teachers if t.raw)
    return Recipe(name, replace(model, heads=heads, raw_heads=raw), pretrain)


EMBEDDED_TEACHERS = (
    TeacherConfig("lang", 384, contrast="segment", text_weight=0.5, class_power=0.5),
    TeacherConfig("gen", 64, weight=0.5, class_power=0.5),
    TeacherConfig("obj", 64, weight=0.5, class_power=0.5, contrast="instance", starts_at=0.5),
)
"""The heads of the embedded 2D teacher. The object-aware one joins for the second half, as in the paper."""

RELEASE_TEACHERS = (
    TeacherConfig("lang", 1152, contrast="segment", schedule="last_75"),
    TeacherConfig("dino", 1024),
    TeacherConfig("pe", 1024, contrast="instance", normalize=False, starts_at=0.5),
)
"""SigLIP2-SO400M, DINOv3 ViT-L and PE-Spatial-L, as the paper's three-teacher setup has them."""

RELEASE_AUGMENT = AugmentConfig(
    rotate=0.5, tilt_share=0.5, flip=0.5, max_points=192_000, noise_injection=(1e-4, 0.5), scale_blur=(1.0, 3.0, 0.3),
    grid=(1.0, 1.0), drop=0.0, jitter=0.0, brightness=0.0, contrast=0.0, channel_gain=0.0, color_noise=0.0, grey=0.0,
    attribute_drop=0.0, canonical=0.0, partial=0.0,
)  # fmt: skip
"""Section "implementation details" of the paper; nothing else."""

_MINI = ModelConfig(
    enc_channels=(32, 64, 128, 192, 256),
    enc_depths=(2, 2, 2, 2, 2),
    enc_num_head=(2, 4, 8, 12, 16),
    patch_size=512,
    head_ratio=1,
)

_BASES = (
    _recipe(
        "chorus_mini",
        _MINI,
        PretrainConfig(EMBEDDED_TEACHERS, block_rate=1e-3, drop_path=0.1),
    ),
    _recipe(
        "chorus_base",
        ModelConfig(shuffle_orders=True),
        PretrainConfig(RELEASE_TEACHERS, steps=100_000, augment=RELEASE_AUGMENT),
    ),
)
RECIPES: Mapping[str, Recipe] = {r.name: r for base in _BASES for r in (base, base.as_points())}
"""By name: ``chorus_mini`` ships, a twelfth of the release; ``chorus_base`` is the release; ``_pts`` read points."""
