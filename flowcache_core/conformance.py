"""The authors' FlowCache release where its rules differ from ours, for runs that are compared with it.

What differs, and why ours does otherwise, is told in docs/flowcache.md.
"""

from dataclasses import dataclass, replace

from torch import Tensor

from .plan.chunk_plan import ChunkPlan, Pass, Row
from .plan.windows import Window
from .solvers.base import SOLVERS
from .solvers.sigmas import SigmaTable
from .solvers.unipc import UniPC, UniPCState


@SOLVERS.register("unipc_released")
@dataclass(frozen=True)
class ReleasedUniPC(UniPC):
    """The release writes every new sample into the tensor it took the old one from, and its solver still holds that
    tensor after the first step: the first correction sets out from the sample it should correct."""

    def step(self, state: UniPCState, x: Tensor, velocity: Tensor, index: int, table: SigmaTable,
             noise: Tensor | None = None) -> tuple[Tensor, UniPCState]:
        following, state = super().step(state, x, velocity, index, table, noise)
        return following, replace(state, start=following) if index == 0 else state


def released_plan(plan: ChunkPlan, recent_finished: int | None = None, gathered: bool = False,
                  prefix_every_row: bool = False) -> ChunkPlan:
    """A diffusion-forcing plan as the release carries it out.

    recent_finished: chunks see only the last so many finished chunks besides those in flight (`kvrange`).
    gathered: keys are gathered from finished chunks and those in flight (with `kvrange` or compression), where a
    prefix counts as finished from the second row on and so is not seen in the first. prefix_every_row: the prefix is
    run again in every row (reuse off, or all chunks in step).
    """
    rows, finished = [], []
    for number, row in enumerate(plan.rows):
        opening = tuple(Pass((c,), "prefix", reads=tuple(range(c)), writes=(c,), must_compute=True)
                        for c in range(plan.prefix_chunks)) if prefix_every_row and number else ()
        passes: list[Pass] = []
        for p in row:
            if p.kind == "denoise" and (gathered or recent_finished is not None):
                p = replace(p, reads=_scope(plan, p, number, finished, recent_finished))
            passes.append(p)
            if p.kind == "denoise" and p.steps[0] == plan.steps_of(p.chunks[0]) - 1:
                finished.append(p.chunks[0])
        if number == 0:
            finished = [*range(plan.prefix_chunks), *finished]
        rows.append((*opening, *passes))
    return replace(plan, rows=_in_order(rows))


def _in_order(rows: list[Row]) -> tuple[Row, ...]:
    return tuple(tuple(row) for row in rows)


def _scope(plan: ChunkPlan, p: Pass, row: int, finished: list[int], recent: int | None) -> tuple[int, ...]:
    hidden = range(plan.prefix_chunks) if row == 0 else ()
    kept = finished if recent is None else finished[len(finished) - recent:] if recent else []
    return tuple(c for c in p.reads if c not in hidden and (c not in finished or c in kept))


def released_windows(frames: int, base_frames: int, overlap_frames: int, chunk_frames: int) -> tuple[Window, ...]:
    """The outer windows of the release, latent frames throughout. Raises ValueError for lengths that it cannot do.

    The windows advance by the whole overlap although only whole chunks of it become the prefix.
    """
    if frames <= base_frames:
        raise ValueError(f"{frames} latent frames in a window of {base_frames}: the release cannot make a short video")
    advance = base_frames - overlap_frames
    count = (frames - base_frames - 1) // advance + 2
    windows = [Window(0, base_frames, 0)]
    for number in range(1, count):
        start = number * advance
        windows.append(Window(start, min(frames - start, base_frames), overlap_frames // chunk_frames * chunk_frames))
    whole = base_frames // chunk_frames
    if any(window.frames // chunk_frames != whole for window in windows):
        raise ValueError(f"{frames} latent frames in windows of {base_frames}: the release needs {whole} whole chunks "
                         "in every window")
    return tuple(windows)


def released_magi_plan(plan: ChunkPlan) -> ChunkPlan:
    """A pipelined plan as FlowCache's code carries it out: the near-clean pass is told the place behind the window."""
    rows = []
    for row in plan.rows:
        behind = 1 + max(c for p in row if p.kind == "denoise" for c in p.chunks)
        rows.append(tuple(replace(p, place=behind) if p.kind == "near_clean" else p for p in row))
    return replace(plan, rows=tuple(rows))
