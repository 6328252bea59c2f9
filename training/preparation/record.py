"""What a finished scene left behind: its folders, put in place whole, and a note of what they were made from."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from chorus_core.io.atomic import atomic_path
from chorus_core.io.documents import DocumentError, read_json
from training.prepared import PreparedScene, save_prepared


class Record:
    """The note on a scene.

    Args:
        path: of the note, JSON.
        folder: that holds the scene's prepared folders, and those of other scenes.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        self.path, self.folder = path, folder

    def finished(self, key: str) -> tuple[Path, ...] | None:
        """The scene's folders, where all are there and were made from what ``key`` stands for; else None."""
        note = self._read()
        outputs = tuple(self.folder / name for name in note.get("outputs", ()))
        whole = note.get("finished") and note.get("key") == key and all((o / "coord.npy").is_file() for o in outputs)
        return outputs if whole else None

    def write(self, key: str, scenes: Sequence[PreparedScene], staging: Path) -> tuple[Path, ...]:
        """Write scenes to a folder aside, then put them in the place of what an earlier run left.

        The note names the folders before they move, so that a run killed in between knows which to replace.

        Args:
            key: of what they were made from.
            scenes: with names that are unique in the folder.
            staging: on the same file system as the folder; emptied.

        Returns:
            The scenes' folders.
        """
        shutil.rmtree(staging, ignore_errors=True)
        names = [scene.info.name for scene in scenes]
        for scene in scenes:
            save_prepared(staging / scene.info.name, scene)
        self.folder.mkdir(parents=True, exist_ok=True)
        earlier = self._read().get("outputs", [])
        self._note(key, sorted({*earlier, *names}), finished=False)
        for name in {*earlier, *names}:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in names:
            os.replace(staging / name, self.folder / name)
        self._note(key, names, finished=True)
        return tuple(self.folder / name for name in names)

    def _read(self) -> dict:
        try:
            return read_json(self.path)
        except (OSError, DocumentError):
            return {}

    def _note(self, key: str, outputs: Sequence[str], finished: bool) -> None:
        with atomic_path(self.path) as temporary:
            note = {"key": key, "outputs": list(outputs), "finished": finished}
            temporary.write_text(json.dumps(note, indent=1), encoding="utf-8")
