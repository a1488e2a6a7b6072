"""The asynchronous schedule of diffusion forcing: a pyramid in which chunk i starts `ar_step` rows after chunk i - 1.

Rule and names after the SkyReels-V2 release. `ar_step` 0 denoises all chunks in step; `ar_step` = steps denoises them
one after the other.
"""

from dataclasses import dataclass

from .chunk_plan import EVERYTHING, ChunkPlan, History, Pass, Row, split_frames


@dataclass(frozen=True)
class StepTable:
    """One entry a row and chunk. state: 0 waiting, 1..S the step just taken (1-based), S + 1 finished.

    updated: whether the chunk takes a step in this row. valid: the chunks `[start, stop)` inside the base window.
    """

    state: tuple[tuple[int, ...], ...]
    updated: tuple[tuple[bool, ...], ...]
    valid: tuple[tuple[int, int], ...]


def step_table(chunks: int, steps: int, ar_step: int, prefix_chunks: int = 0,
               base_chunks: int | None = None) -> StepTable:
    """The rows of the schedule. Raises ValueError where nothing is to be denoised or the base window is outrun."""
    base = chunks if base_chunks is None else base_chunks
    if steps < 1 or ar_step < 0:
        raise ValueError(f"{steps} steps with ar_step {ar_step}: expected at least 1 step and an ar_step of 0 or more")
    if not 0 <= prefix_chunks < chunks:
        raise ValueError(f"{prefix_chunks} prefix chunks of {chunks}: nothing to denoise")
    if base < 1:
        raise ValueError(f"base window of {base} chunks: expected at least 1 (is it smaller than a chunk?)")
    if base < chunks and ar_step < steps / base:
        raise ValueError(f"ar_step {ar_step}: a base window of {base} chunks and {steps} steps needs at least "
                         f"{-(-steps // base)}, or chunks would leave the window unfinished")
    done = steps + 1
    previous = [done] * prefix_chunks + [0] * (chunks - prefix_chunks)
    state, updated, valid, stop = [], [], [], base
    while not all(value >= steps for value in previous):
        new: list[int] = []
        for i, value in enumerate(previous):
            ready = i == 0 or previous[i - 1] >= steps
            new.append(min(done, max(0, value + 1 if ready else new[i - 1] - ar_step)))
        moved = tuple(a != b and a != done for a, b in zip(new, previous, strict=True))
        stop += stop < chunks and moved[stop]
        state.append(tuple(new))
        updated.append(moved)
        valid.append((max(stop - base, 0), stop))
        previous = new
    return StepTable(tuple(state), tuple(updated), tuple(valid))


def diffusion_forcing(frames: int, chunk_frames: int, steps: int, ar_step: int, prefix_chunks: int = 0,
                      base_chunks: int | None = None, history: History = EVERYTHING, commit: bool = False) -> ChunkPlan:
    """Chunk-causal pyramid: the chunks of a row run one after the other, each seeing the keys of those before it.

    frames, chunk_frames: latent frames. base_chunks: most chunks inside the window (default all). commit: re-run a
    finished chunk at zero noise, so that later chunks see clean keys.
    """
    chunks = split_frames(frames, chunk_frames)
    table = step_table(len(chunks), steps, ar_step, prefix_chunks, base_chunks)
    rows: list[Row] = []
    for number, (state, updated, (first, _)) in enumerate(zip(table.state, table.updated, table.valid, strict=True)):
        row: list[Pass] = []
        if number == 0:
            row += [Pass((c,), "prefix", reads=history.before(c), writes=(c,), must_compute=True,
                         rebase=history.rebase) for c in range(prefix_chunks)]
        for c in (c for c, moves in enumerate(updated) if moves):
            reads = tuple(r for r in history.before(c) if r >= first or r < history.sink)
            row.append(Pass((c,), steps=(state[c] - 1,), reads=reads, writes=(c,), rebase=history.rebase))
            if commit and state[c] == steps:
                row.append(Pass((c,), "commit", reads=reads, writes=(c,), must_compute=True, rebase=history.rebase))
        if row:
            rows.append(tuple(row))
    return ChunkPlan("diffusion_forcing", chunks, steps, tuple(rows), prefix_chunks)
