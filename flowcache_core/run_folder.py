"""The folder of a run: finished chunks at once and whole, the state to go on from, and a manifest that says what it is.

    manifest.json            what was asked for, the finished chunks, the state and its bytes
    chunk-0000.safetensors   latent (items, C, f, h, w) of a finished chunk
    state-0001.safetensors   the state after so many finished chunks; the one before stays until the next is on disk
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .identity import Facts, difference
from .run_state import RunState, read_state, write_state
from .tensor_file import read_tensors, write_tensors, write_text_synced

SCHEMA = "flowcache-run/1"
MANIFEST = "manifest.json"


class RunFolder:
    """facts: what the run is (`identity.py`); words: the command that asked for it; chunks: of the whole video;
    given: those that the run does not make itself, since an earlier one did; keep_state: whether states are written.
    Nothing is read or written before a method is called."""

    def __init__(self, path: Path, facts: Facts, words: Sequence[str], chunks: int, keep_state: bool = True,
                 given: int = 0) -> None:
        self.path, self.facts, self.words, self.given = Path(path), dict(facts), list(words), given
        self.chunks, self.keep_state = chunks, keep_state
        self.saved: list[int] = []
        self.state_bytes = 0
        self.ended = False
        self.takes_over = False   # a finished run's folder, whose manifest stands until there is a state to go on from

    def start(self) -> None:
        """Clears what an earlier, finished run left here. Raises ValueError where an unfinished one would be lost."""
        old = self._old_manifest()
        if old and not old["ended"] and old["chunks"]:
            raise ValueError(f"{self.path} holds an unfinished run ({len(old['chunks'])} of {old['of']} chunks): go on "
                             f"with --resume {self.path}, or choose another folder with --out, or delete this one")
        for pattern in ("chunk-*.safetensors", "state-*.safetensors", "window-*.mp4", "*.partial", MANIFEST):
            for path in self.path.glob(pattern):
                path.unlink()
        self._write_manifest()

    def _old_manifest(self) -> dict[str, Any] | None:
        try:
            return read_manifest(self.path)
        except ValueError:
            return None

    def chunk_path(self, chunk: int) -> Path:
        return self.path / f"chunk-{chunk:04d}.safetensors"

    def save_chunk(self, chunk: int, latent: Tensor) -> None:
        write_tensors(self.chunk_path(chunk), json.dumps({"chunk": chunk}), {"latent": latent})
        self.saved = sorted({*self.saved, chunk})
        self._write_manifest()

    def save_state(self, state: RunState, last: bool = False) -> None:
        """Writes a state; when it is on disk, those before the previous one go. last: nothing is left to be done."""
        self.ended = last
        if self.keep_state:
            before = self._states()
            path = self.path / f"state-{len(self.saved):04d}.safetensors"
            self.state_bytes = write_state(path, state, {"finished": list(state.finished)})
            keep = [path] if last or self.takes_over else [path, *[p for p in before if p != path][:1]]
            for old in before:
                if old not in keep:
                    old.unlink()
        self.takes_over = False
        self._write_manifest()

    def _states(self) -> list[Path]:
        """State files, the newest first."""
        return sorted(self.path.glob("state-*.safetensors"), reverse=True)

    def _write_manifest(self) -> None:
        if self.takes_over:
            return
        states = [path.name for path in self._states()]
        text = json.dumps({"schema": SCHEMA, "words": self.words, "of": self.chunks, "ended": self.ended,
                           "given": self.given,
                           "chunks": {str(c): self.chunk_path(c).name for c in self.saved},
                           "state": states[0] if states else None, "state_bytes": self.state_bytes,
                           "torch": torch.__version__, "facts": self.facts}, indent=1)
        write_text_synced(self.path / MANIFEST, text + "\n")

    def check(self) -> None:
        """Raises ValueError, naming the differences, where the run in the folder is another one."""
        told = difference(read_manifest(self.path)["facts"], self.facts)
        if told:
            raise ValueError(f"resume of {self.path} with other settings: {told}; leave them as they were, or start a "
                             "new run with --out")

    def load_state(self, device: torch.device | str = "cpu") -> tuple[RunState | None, dict[int, Tensor], list[str]]:
        """The newest state that can be read with all its chunks, these chunks, and a sentence for every one that had to
        be passed over; None before the first chunk is finished. Raises ValueError where no state can be read."""
        faults: list[str] = []
        for path in self._states():
            try:
                state, _ = read_state(path, device)
                if any(chunk >= self.chunks for chunk in state.finished):
                    continue   # of an extension that was stopped before it took the folder over
                finished = {chunk: self.load_chunk(chunk) for chunk in (*range(self.given), *state.finished)}
            except ValueError as error:
                faults.append(str(error))
                continue
            self.saved, self.state_bytes = sorted(finished), path.stat().st_size
            notes = [f"{fault}; going on from {path.name}, which is older" for fault in faults]
            return state, finished, notes
        if faults or read_manifest(self.path)["state"]:
            raise ValueError(f"{'; '.join(faults) or f'{self.path} has no run state'}: make the keys of the finished "
                             "chunks again, in ComfyUI with Extend AR Video and this folder, on the command line with "
                             f"--resume {self.path} --state none")
        return None, {chunk: self.load_chunk(chunk) for chunk in range(self.given)}, []

    def load_chunk(self, chunk: int) -> Tensor:
        """The latent of a finished chunk. Raises ValueError for a damaged or missing file."""
        _, tensors = read_tensors(self.chunk_path(chunk))
        return tensors["latent"]

    def load_finished(self) -> tuple[dict[int, Tensor], list[str]]:
        """Chunks from the first on, up to one that is not there or not whole (with a sentence)."""
        finished: dict[int, Tensor] = {}
        for chunk in range(self.chunks):
            if not self.chunk_path(chunk).exists():
                break
            try:
                finished[chunk] = self.load_chunk(chunk)
            except ValueError as error:
                return finished, [f"{error}; made again from chunk {chunk} on"]
        self.saved = sorted(finished)
        return finished, []


def read_manifest(path: Path) -> Mapping[str, Any]:
    """What a folder says of its run. Raises ValueError where it holds none of ours."""
    try:
        data = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema']!r}, expected {SCHEMA!r}")
        return data
    except OSError as error:
        raise ValueError(f"{path} holds no run ({MANIFEST}: {error.strerror or error}): give the folder in which a "
                         "run was kept: out_folder in ComfyUI, --out on the command line") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path / MANIFEST} cannot be read ({error}): give the folder in which a run was "
                         "kept: out_folder in ComfyUI, --out on the command line") from error
