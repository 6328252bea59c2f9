"""The whole program: frames become a map, the map becomes meaning, meaning answers questions.

    frame -> integrate -> (in the background) encode what changed -> label -> query

Everything can be called without threads; :meth:`Pipeline.start` runs the encoding in the one thread of this library.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch

from chorus_core.config import Config, ConfigError, changes
from chorus_core.devices import choose_device
from chorus_core.encoder import ChorusEncoder
from chorus_core.encoder.features import encode_features, encoding_grid
from chorus_core.frames import RgbdFrame
from chorus_core.gaussians import Gaussians
from chorus_core.io.map_file import ModelReference, load_map_state, save_bare_map, save_map
from chorus_core.mapping import Cursor, FrameGate, GaussianMap, IntegrateReport, KeyframeStore, MapSnapshot
from chorus_core.pipeline_status import EncodeReport, PipelineStatus
from chorus_core.region import Region, RegionScheduler
from chorus_core.semantics.labelled_map import LabelledMap
from chorus_core.semantics.objects import SceneObject
from chorus_core.semantics.query import QueryResult
from chorus_core.semantics.semantic_map import SemanticMap
from chorus_core.semantics.text_side import TextSide
from chorus_core.semantics.vocabulary import Vocabulary, load_vocabulary

logger = logging.getLogger(__name__)

__all__ = ["EncodeReport", "LabelledMap", "Pipeline", "PipelineStatus", "QueryResult"]


class Pipeline:
    """Map, encoder and semantics of one robot.

    ``integrate`` and the encoding step exclude each other only while what is to be encoded is copied and while its
    features are written; a query, only while it picks its matches. On a GPU all three share the default stream.

    Raises (at construction):
        ConfigError: ``encoder.memory_gib`` is less than the model takes.
        CheckpointError: the encoder's checkpoint is missing, damaged or unfit.
        TextSideError: the checkpoint's features are not those of its texts.
        VocabularyError: the vocabulary cannot be read.
    """

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config()
        torch.manual_seed(self.config.seed)
        self.device = choose_device(self.config.device)
        self.encoder = ChorusEncoder.from_pretrained(
            self.config.encoder.checkpoint, choose_device(self.config.encoder.device)
        )
        self._check_memory()
        text = TextSide.of(self.encoder)
        vocabulary = load_vocabulary(self.config.semantics.vocabulary)
        self.map = GaussianMap(self.config.map, self.device, text.dim)
        self._gate = FrameGate(self.config.gate)
        self.keyframes = KeyframeStore(self.config.keyframes)
        self.semantics = SemanticMap(self.map, text, vocabulary, self.config.semantics)
        self._scheduler, self._encoded = RegionScheduler(self.config.encoder), Cursor()
        self._encode_lock = threading.Lock()
        self._begin_counting()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def _check_memory(self) -> None:
        """Say at once what every encode would fail with."""
        budget = self.config.encoder.memory_gib
        try:
            if budget:
                self.encoder.plan(budget, self.config.encoder.min_gaussians, {None: None})
        except ValueError as error:
            raise ConfigError(f"encoder.memory_gib = {budget:g}: {error}") from error

    # ---- a frame's way ----------------------------------------------------------------------------------------

    def integrate(self, frame: RgbdFrame) -> IntegrateReport:
        """Fuse a frame into the map, unless the gate holds it back: the report says why then, and it is counted."""
        with self.map.lock, self._timed("integrate"):
            if cause := self._gate.judge(frame, self.map):
                return IntegrateReport(0, 0, 0, 0, 0, 0, held=cause)
            report = self.map.integrate(frame)
            self._evicted += report.evicted + report.dropped
            touched = self.map.touched() if self.keyframes.wants(frame) else None
        if touched is not None:
            with self._timed("keyframe"):
                self.keyframes.offer(frame, *touched)
        return report

    def encode_step(self, least: int | None = None) -> EncodeReport | None:
        """Encode what changed most since it was last encoded; None where there is nothing to do.

        What fails is counted, raised, and tried again by a later step.

        Args:
            least: Gaussians that the map must hold for it; ``encoder.min_gaussians`` by default.
        """
        with self._encode_lock:
            try:
                report = self._encode_next(self.config.encoder.min_gaussians if least is None else least)
            except Exception as error:
                self._failures += 1
                self._last_error = f"{type(error).__name__}: {error}"
                raise
            if report is not None:
                self._encodes += 1
                self._last_error = ""
            return report

    def _encode_next(self, least: int) -> EncodeReport | None:
        began = time.perf_counter()
        while True:
            with self.map.lock:
                total = len(self.map)
                if total < least:
                    return None
                self._note_changes()
                with self._timed("snapshot"):
                    region = self._scheduler.next(max(self._voxels(total), min(total, 1)), self._voxels_within)
                    if region is None:
                        return None
                    context, revision = self._copy(region), self.map.store.revision
            owned = region.owns(context.gaussians.means)
            if bool(owned.any()):
                break
        try:
            self._encode_region(context, region, owned)
        except Exception:
            self._scheduler.put_back(region)
            raise
        with self.map.lock:
            self.map.mark_encoded(region.owned, revision)
        with self._timed("objects"):
            self.semantics.keep_up()
        return EncodeReport(int(owned.sum()), total, time.perf_counter() - began)

    def _note_changes(self) -> None:
        """Tell the scheduler which blocks have another geometry since it was told last."""
        changes = self.map.changes_since(self._encoded, "geometry")
        emptied = self.map.store.find_blocks(changes.removed)  # by carving; those evicted are no more
        blocks = torch.cat((changes.blocks, emptied[emptied >= 0]))
        self._scheduler.add(self.map.store.block_centers(blocks), self.map.store.block_edge)
        self._encoded = changes.cursor

    def _copy(self, region: Region) -> MapSnapshot:
        """What the encoder reads for a region."""
        try:
            if region.read is None:
                return self.map.export()
            part = self.map.export_blocks(self.map.blocks_within(region.read))
            return part[region.reads(part.gaussians.means)]
        except Exception:  # for want of memory
            self._scheduler.put_back(region)
            raise

    def describe(
        self, gaussians: Gaussians, grid_size: float | None = None, asked: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Features of Gaussians as the semantic map keeps them: encoded, in the compact space, smoothed [N, d].

        Args:
            grid_size: edge of the encoder's voxels, metres; the model's own, or the map's if coarser, by default.
            asked: which of them are described, bool [N], the others being context; all by default.
        """
        return encode_features(
            self.encoder, gaussians, self.config.encoder, head=self.semantics.text.head,
            basis=self.encoder.basis.get("basis"), grid_size=grid_size or self._grid_size, wanted=asked,
        )  # fmt: skip

    def label(self, gaussians: Gaussians, grid_size: float | None = None) -> LabelledMap:
        """A scene that no robot mapped, encoded, labelled and with its objects; the map stays as it is.

        Args:
            gaussians: N of them; several may share a voxel.
            grid_size: see :meth:`describe`.
        """
        gaussians = gaussians.to(self.device)
        features = self.describe(gaussians, grid_size).to(self.device, torch.float16)
        return self.semantics.label(gaussians, features)

    @property
    def _grid_size(self) -> float:
        return encoding_grid(self.encoder, self.config.map.voxel_size, self.config.encoder)

    def _voxels(self, gaussians: int) -> int:
        """Voxels of the encoder that so many Gaussians of the map fill on a surface."""
        return round(gaussians * (self.config.map.voxel_size / self._grid_size) ** 2)

    def _voxels_within(self, corners: torch.Tensor) -> int:
        return self._voxels(self.map.count_in(self.map.blocks_within(corners)))

    def _encode_region(self, context: MapSnapshot, region: Region, owned: torch.Tensor) -> None:
        with self._timed("encode"):
            # Smoothing reads neighbours that are not owned; what is farther off is read by the encoder alone.
            asked = region.owns(context.gaussians.means, (self.config.encoder.smoothing + 1) * self._grid_size)
            features = self.describe(context.gaussians, asked=asked)
        with self._timed("label"):
            self.semantics.update(context[owned], features[owned[asked].to(features.device)])

    def encode_all(self) -> None:
        """Encode until nothing is left that changed, however small the map is."""
        while self.encode_step(least=1) is not None:
            pass
        self.semantics.follow()

    # ---- questions --------------------------------------------------------------------------------------------

    @property
    def vocabulary(self) -> Vocabulary:
        return self.semantics.vocabulary

    def set_vocabulary(self, labels: Sequence[str] | str, cancelled: threading.Event | None = None) -> None:
        """Label with other words. Frames, encodes and queries go on meanwhile, with the old ones until all is done.

        Args:
            labels: up to :data:`~chorus_core.semantics.vocabulary.MAX_LABELS` words, or the name of a shipped
                vocabulary.
            cancelled: set from another thread, it ends the call within about a second, and the old words stay.

        Raises:
            VocabularyError: unknown name, or labels that are too many, empty, repeated or unprintable.
            VocabularyCancelled: (a VocabularyError) ``cancelled`` was set in time.
        """
        vocabulary = load_vocabulary(labels) if isinstance(labels, str) else Vocabulary(tuple(labels))
        self.semantics.set_vocabulary(vocabulary, cancelled)

    def query(
        self, text: str, negatives: Sequence[str] = (), threshold: float = 0.0, max_objects: int = 0
    ) -> QueryResult:
        """Objects of the map that a text describes; see :meth:`SemanticMap.query`."""
        with self._timed("query"):
            return self.semantics.query(text, negatives, threshold, max_objects)

    def labelled_map(self) -> LabelledMap:
        """A copy of the map with its meaning."""
        return self.semantics.labelled()

    def objects(self) -> list[SceneObject]:
        """Things in the map, the largest first."""
        with self.semantics.rows() as rows:
            return rows.objects

    def status(self) -> PipelineStatus:
        times = {stage: list(taken) for stage, taken in list(self._times.items())}  # copies: other threads append
        return PipelineStatus(
            map_id=self.map.map_id,
            gaussians=len(self.map),
            objects=self.semantics.object_count,
            frames=self.map.frames,
            keyframes=len(self.keyframes),
            held=dict(self._gate.held),
            encodes=self._encodes,
            encode_failures=self._failures,
            last_error=self._last_error,
            evicted=self._evicted,
            encoded=self.semantics.encoded,
            last_encode_stamp=self.semantics.stamp,
            last_encode_seconds=times["encode"][-1] / 1e3 if times.get("encode") else 0.0,
            stage_ms={
                stage: tuple(float(p) for p in np.percentile(taken, (50, 99)))
                for stage, taken in times.items()
                if taken
            },
            ended=self.ended,
        )

    # ---- keeping, clearing, running ---------------------------------------------------------------------------

    def save(self, path: str | Path, origin: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0)) -> Path:
        """Write the map as a standard 3DGS ``.ply``, with its meaning beside it (see :mod:`chorus_core.io.map_file`).

        Before anything was encoded, the bare map is written. A map of that name stays whole until the new one is.

        Args:
            origin: world position of the map's (0, 0, 0), metres [3]; kept in the file's header if not zero.

        Returns:
            The ``.ply`` that was written, an absolute path.

        Raises:
            ValueError: the map is empty.
            OSError: the disk is full, or the like; it names the file.
        """
        with self.semantics.rows(), self.map.lock:  # both of the same moment
            labelled, state = self.semantics.labelled(), self.map.state()
        if len(labelled) == 0:
            raise ValueError("the map is empty: nothing is saved")
        if labelled.encoded == 0:
            return save_bare_map(path, labelled.gaussians.to("cpu"), origin)
        return save_map(path, labelled, self.model_reference, origin, state)

    def load(self, path: str | Path) -> None:
        """Go on with a saved map in place of this one: its Gaussians, features, objects and their numbers.

        Features of another model are made anew by the steps to come; labels are of the vocabulary in use.

        Raises:
            MapFileError: a part of the map is missing or damaged, or it was saved without what it takes to go on.
            MapStateError: it was made with another voxel size, or holds more than ``map.max_gaussians``.
            OSError: there is no such ``.ply``, or it is not readable.
        """
        labelled, made_by, state = load_map_state(path)
        with self._encode_lock:
            with self.map.lock:
                encoded = self.map.restore(state)
                self.keyframes.clear()
                self._gate = FrameGate(self.config.gate)
                self._scheduler, self._encoded = RegionScheduler(self.config.encoder), encoded
                self._begin_counting()
                wide = state.features.shape[1] == self.semantics.text.dim
                if not (wide and made_by.made_the_same(self.model_reference)):
                    logger.warning("%s was encoded by %s: it is encoded again", path, made_by.name)
                    self.map.forget_meaning()
            self.semantics.adopt(labelled, state.slots[: state.handed_out])

    @property
    def model_reference(self) -> ModelReference:
        """Which model makes the features."""
        checkpoint = Path(self.config.encoder.checkpoint)
        name = str(checkpoint.resolve()) if checkpoint.exists() else str(checkpoint)
        unit = self.semantics.text.head not in self.encoder.model.config.raw_heads
        return ModelReference(name, self.encoder.description.get("sha256", ""), unit)

    def reconfigure(self, config: Config) -> None:
        """Go on with other values of the options that are dynamic; queries and frames to come follow them.

        Raises:
            ConfigError: another option differs; nothing has changed.
        """
        fixed = [option.name for option in changes(self.config, config) if not option.dynamic]
        if fixed:
            raise ConfigError(f"{', '.join(fixed)}: expected to stay as at the start")
        with self.map.lock:
            if config.map != self.config.map:
                self.map.reconfigure(config.map)
            self.config = config
        if config.semantics != self.semantics.config:
            self.semantics.reconfigure(config.semantics)

    def reset(self) -> None:
        """Forget the map and its meaning, and count from zero; keep model, vocabulary and settings."""
        with self._encode_lock:
            with self.map.lock:
                self.map.clear()
                self.keyframes.clear()
                self._gate = FrameGate(self.config.gate)
                self._scheduler, self._encoded = RegionScheduler(self.config.encoder), Cursor()
                self._begin_counting()
            self.semantics.forget()

    def start(self) -> None:
        """Encode in the background until :meth:`stop`."""
        if self._thread is None:
            self._stopping.clear()
            self._end = "for no known reason"
            self._thread = threading.Thread(target=self._background, name="chorus-encode", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the background thread and wait for it."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    @property
    def ended(self) -> str:
        """Why the background thread ended though nobody stopped it; empty where it did not."""
        thread = self._thread
        return "" if thread is None or thread.is_alive() or self._stopping.is_set() else self._end

    def _background(self) -> None:
        try:
            self._run()
        except BaseException as error:  # a thread that dies silently leaves a map without meaning
            self._end = f"{type(error).__name__}: {error}"
            logger.exception("the encoding thread ended; nothing more is encoded")

    def _run(self) -> None:
        while not self._stopping.wait(min(self.config.encoder.period, threading.TIMEOUT_MAX)):
            try:
                self.encode_step()
            except Exception as error:
                logger.exception("encoding failed; the map is kept, the step is tried again later")
                if isinstance(error, torch.cuda.OutOfMemoryError):
                    with suppress(RuntimeError):  # of a GPU that is in a bad way
                        torch.cuda.empty_cache()

    def _begin_counting(self) -> None:
        self._times: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=512))
        self._encodes = self._failures = self._evicted = 0
        self._last_error = ""

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._times[stage].append(1e3 * (time.perf_counter() - began))
