"""Builders of plans with one chunk a pass: sequential, and MAGI-1's pipelined window."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from .chunk_plan import EVERYTHING, ChunkPlan, History, Pass, Row, split_frames

Recache = Literal["joint", "causal"]


def check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"{steps} steps: expected at least 1")


def _prefix_row(prefix_chunks: int, chunks: int, history: History) -> list[Pass]:
    if not 0 <= prefix_chunks < chunks:
        raise ValueError(f"{prefix_chunks} prefix chunks of {chunks}: nothing to denoise")
    return [Pass((c,), "prefix", reads=history.before(c), writes=(c,), must_compute=True,
                 rebase=history.rebase) for c in range(prefix_chunks)]


def sequential(frames: int, chunk_frames: int, steps: int, first_steps: int | None = None, prefix_chunks: int = 0,
               history: History = EVERYTHING, commit: bool = True, switches: Sequence[int] = (),
               recache: Recache = "joint", renew_sink: bool = False) -> ChunkPlan:
    """One chunk after the other, each followed by a commit pass at context noise (the Self-Forcing family).

    first_steps: steps of chunk 0 where the model wants more for it. frames, chunk_frames: latent frames. switches:
    chunks before which the keys of the window are computed anew, with the prompt of that chunk; recache: how;
    renew_sink: the first chunks of that window become the sink, which else keeps its keys.
    """
    chunks = split_frames(frames, chunk_frames)
    for count in (steps, steps if first_steps is None else first_steps):
        check_steps(count)
    rows: list[Row] = [(p,) for p in _prefix_row(prefix_chunks, len(chunks), history)]
    plan = ChunkPlan("sequential", chunks, steps, (), prefix_chunks, first_steps)
    for c in range(prefix_chunks, len(chunks)):
        if c in switches:
            if renew_sink and history.recent is not None:
                history = replace(history, start=max(history.start, c - history.recent - 1 - history.sink))
            rows += [(p,) for p in recache_passes(c, history, recache, renew_sink)]
        reads = history.before(c)
        rows += [(Pass((c,), steps=(s,), reads=reads, writes=(c,), rebase=history.rebase),)
                 for s in range(plan.steps_of(c))]
        if commit:
            rows.append((Pass((c,), "commit", reads=reads, writes=(c,), must_compute=True, rebase=history.rebase),))
    return ChunkPlan("sequential", chunks, steps, tuple(rows), prefix_chunks, first_steps)


def recache_passes(chunk: int, history: History, how: Recache, renew_sink: bool = False) -> list[Pass]:
    """LongLive's answer to a new prompt at `chunk`: the keys of the window before it are computed anew.

    The window is one chunk longer than what `chunk` will see, as its own place counts; the sink keeps the keys of the
    old prompt, unless it is renewed with the rest. joint: one forward in which all chunks see one another, as released;
    causal: chunk by chunk, each seeing those before it.
    """
    if how not in ("joint", "causal"):
        raise ValueError(f"recache {how!r}: choose joint or causal")
    kept = range(history.start, min(history.start + (0 if renew_sink else history.sink), chunk))
    least = history.start if renew_sink or history.recent is None else chunk - history.recent - 1
    window = tuple(range(max(kept.stop, least), chunk))
    if not window:
        return []
    if how == "joint":
        return [Pass(window, "recache", reads=tuple(kept), writes=window, must_compute=True, prompt=chunk,
                     rebase=history.rebase)]
    return [Pass((c,), "recache", reads=tuple(r for r in history.before(c) if r in kept or r in window), writes=(c,),
                 must_compute=True, prompt=chunk, rebase=history.rebase) for c in window]


def pipelined(frames: int, chunk_frames: int, steps: int, window: int, prefix_chunks: int = 0,
              history: History = EVERYTHING, commit: bool = False, near_clean_from: int | None = None,
              ranges: Sequence[int] = ()) -> ChunkPlan:
    """MAGI-1's sliding window: `window` chunks in flight, a stage of `steps / window` rows apart.

    commit: re-run a chunk clean in the first row after it finished. near_clean_from: from this step on, the oldest
    chunk of the window also runs alone, its result to be blended (MAGI-1's near-clean pass). ranges: in place of a
    history, how many chunks a chunk sees in equal parts of its steps, the noisiest first and itself included; clean
    chunks then see themselves alone, as MAGI-1 was released.
    """
    check_steps(steps)
    _check_ranges(ranges, steps, history)
    if window < 1 or steps % window:
        raise ValueError(f"{steps} steps in a window of {window} chunks: the steps must be a multiple of the window")
    chunks = split_frames(frames, chunk_frames)
    count, stage_rows = len(chunks), steps // window
    rows: list[Row] = []
    clean = History(0) if ranges else history
    opening = _prefix_row(prefix_chunks, count, clean)
    for stage in range(prefix_chunks, count + window - 1):
        oldest, newest = max(prefix_chunks, stage - window + 1), min(count, stage + 1) - 1
        for k in range(stage_rows):
            row, opening = opening, []
            if commit and k == 0 and oldest > prefix_chunks:
                row.append(Pass((oldest - 1,), "commit", reads=clean.before(oldest - 1), writes=(oldest - 1,),
                                must_compute=True, rebase=history.rebase))
            for c in range(oldest, newest + 1):
                step = (stage - c) * stage_rows + k
                seen = History(ranges[step * len(ranges) // steps] - 1) if ranges else history
                row.append(Pass((c,), steps=(step,), reads=seen.before(c), writes=(c,), rebase=history.rebase))
            step = (stage - oldest) * stage_rows + k
            if near_clean_from is not None and step >= near_clean_from:
                row.append(Pass((oldest,), "near_clean", steps=(step,)))
            rows.append(tuple(row))
    return ChunkPlan("pipelined", chunks, steps, tuple(rows), prefix_chunks)


def _check_ranges(ranges: Sequence[int], steps: int, history: History) -> None:
    if not ranges:
        return
    if history != EVERYTHING:
        raise ValueError("ranges of chunks together with a history: give one of the two")
    if min(ranges) < 1 or steps % len(ranges):
        raise ValueError(f"ranges {', '.join(map(str, ranges))} with {steps} steps: expected counts of at least 1, as "
                         "many of them as divide the steps")
