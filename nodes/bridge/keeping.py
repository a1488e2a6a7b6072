"""A run in a folder: chunks and state go to disk as they are finished, and a stopped run goes on from there."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...flowcache_core.fingerprint import fingerprint
from ...flowcache_core.identity import Facts, difference, run_facts, said
from ...flowcache_core.run_folder import RunFolder, read_manifest
from ...flowcache_core.run_state import RunState
from ...flowcache_core.trace import Trace
from .listening import Collector, Frames

if TYPE_CHECKING:
    from .run import ChunkedRun

logger = logging.getLogger(__name__)
TRACE = "trace.json"   # in the folder of a run


def inside(root: str, name: str) -> Path:
    """The folder `name` in the host's output folder. Raises ValueError for one that is elsewhere."""
    path = Path(root, name).resolve()
    if not path.is_relative_to(Path(root).resolve()) or path == Path(root).resolve():
        raise ValueError(f"folder {name!r}: expected a name inside ComfyUI's output folder, as in 'videos/first'")
    return path


def facts_of_run(run: "ChunkedRun") -> Facts:
    """What decides every bit of the run, as far as it can be read off without going through all weights."""
    guider, backbone = run.backbone.guider, run.backbone
    patches = {key: [entry[0] for entry in entries] for key, entries in guider.model_patcher.patches.items()}
    model = said([f"{number:.5g}" for number in fingerprint(backbone)]) + said(patches)
    told = [{kind: [cond["cross_attn"] for cond in group or []] for kind, group in {**guider.conds, **prompt}.items()}
            for prompt in backbone.prompts]
    return run_facts(run.plan, run.settings, [said(prompt) for prompt in told], model)


def refuse_unfinished(folder: Path, name: str) -> None:
    """Raises ValueError for a folder in which an unfinished run would be lost."""
    try:
        old = read_manifest(folder)
    except ValueError:
        return
    if not old["ended"] and old["chunks"]:
        raise ValueError(f"folder {name!r} holds an unfinished run ({len(old['chunks'])} of {old['of']} chunks): set "
                         "resume_from to it to go on, or name another out_folder")


class Keeper(Collector):
    """folder: of the run; resume: whether it goes on with what is there; name: what the user calls it."""

    keeps_state = True

    def __init__(self, folder: Path, name: str, resume: bool, frames: Frames | None = None,
                 words: Callable[[str], None] | None = None) -> None:
        super().__init__(frames, words)
        self._folder, self._name, self._resume = folder, name, resume
        self._home: RunFolder | None = None
        self._rows = 0
        self._undecoded: list[tuple[int, Tensor]] = []   # decoding can be interrupted, which must not cost the state

    def begin(self, run: "ChunkedRun") -> None:
        """Raises ValueError for a folder of another run, or one where an unfinished run would be lost."""
        self._rows = len(run.plan.rows)
        home = RunFolder(self._folder, facts_of_run(run), ("ComfyUI",), len(run.plan.chunks),
                         given=run.plan.prefix_chunks)
        if self._resume:
            self._go_on(home, run)
        else:
            self._start(home)
        self._home = home
        if not self._resume:
            super().begin(run)

    def _start(self, home: RunFolder) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        refuse_unfinished(self._folder, self._name)
        home.start()

    def _go_on(self, home: RunFolder, run: "ChunkedRun") -> None:
        told = difference(read_manifest(self._folder)["facts"], home.facts)
        if told:
            raise ValueError(f"resume_from {self._name!r} is another run: {told}; set these as they were, or empty "
                             "resume_from")
        state, finished, notes = home.load_state(run.backbone.device)
        run.generation.trace.notes += notes
        if state is not None:
            run.generation.restore(state, finished)
            for chunk in sorted(finished) if self.frames is not None else ():
                self.frames.chunk(finished[chunk].to(run.backbone.device))

    def chunk(self, chunk: int, latent: Tensor) -> None:
        self._home.save_chunk(chunk, latent)
        self._undecoded.append((chunk, latent))

    def state(self, state: RunState) -> None:
        self._home.save_state(state, state.row == self._rows)
        finished, self._undecoded = self._undecoded, []
        for chunk, latent in finished:
            super().chunk(chunk, latent)

    def end(self, trace: Trace) -> None:
        super().end(trace)
        self._undecoded.clear()
        if self._home is None:
            return
        trace.save(self._folder / TRACE)
        if not self._home.ended:
            logger.warning("FlowCache: stopped with %d of %d chunks kept in %s; to go on, queue the same graph with "
                           "resume_from set to %s", len(self._home.saved), self._home.chunks, self._folder, self._name)


@dataclass(frozen=True)
class Place:
    """Where a run is kept: its folder, what the user calls it, whether what is there goes on."""

    path: Path
    name: str
    resume: bool


def place_of(root: str, out_folder: str, resume_from: str) -> Place | None:
    """None where no folder is named. Raises ValueError for two different ones."""
    out, old = out_folder.strip(), resume_from.strip()
    if out and old and out != old:
        raise ValueError(f"out_folder {out!r} with resume_from {old!r}: a run goes on in its own folder; "
                         "empty one of them")
    name = old or out
    return Place(inside(root, name), name, bool(old)) if name else None


def collector(place: Place | None, frames: Frames | None, words: Callable[[str], None] | None) -> Any:
    """A listener that keeps a run where it has a place."""
    return Keeper(place.path, place.name, place.resume, frames, words) if place else Collector(frames, words)
