"""Builders of the other plans: sequential, pipelined window, dense baseline, joint rolling window."""

from .chunk_plan import EVERYTHING, ChunkPlan, History, Pass, Row, split_frames


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"{steps} steps: expected at least 1")


def _prefix_row(prefix_chunks: int, chunks: int, history: History) -> list[Pass]:
    if not 0 <= prefix_chunks < chunks:
        raise ValueError(f"{prefix_chunks} prefix chunks of {chunks}: nothing to denoise")
    return [Pass((c,), "prefix", reads=history.before(c), writes=(c,), must_compute=True) for c in range(prefix_chunks)]


def sequential(frames: int, chunk_frames: int, steps: int, first_steps: int | None = None, prefix_chunks: int = 0,
               history: History = EVERYTHING, commit: bool = True) -> ChunkPlan:
    """One chunk after the other, each followed by a commit pass at context noise (the Self-Forcing family).

    first_steps: steps of chunk 0 where the model wants more for it. frames, chunk_frames: latent frames.
    """
    chunks = split_frames(frames, chunk_frames)
    for count in (steps, steps if first_steps is None else first_steps):
        _check_steps(count)
    rows: list[Row] = [(p,) for p in _prefix_row(prefix_chunks, len(chunks), history)]
    plan = ChunkPlan("sequential", chunks, steps, (), prefix_chunks, first_steps)
    for c in range(prefix_chunks, len(chunks)):
        reads = history.before(c)
        rows += [(Pass((c,), steps=(s,), reads=reads, writes=(c,)),) for s in range(plan.steps_of(c))]
        if commit:
            rows.append((Pass((c,), "commit", reads=reads, writes=(c,), must_compute=True),))
    return ChunkPlan("sequential", chunks, steps, tuple(rows), prefix_chunks, first_steps)


def pipelined(frames: int, chunk_frames: int, steps: int, window: int, prefix_chunks: int = 0,
              history: History = EVERYTHING, commit: bool = False, near_clean_from: int | None = None) -> ChunkPlan:
    """MAGI-1's sliding window: `window` chunks in flight, a stage of `steps / window` rows apart.

    commit: re-run a chunk clean in the first row after it finished. near_clean_from: from this step on, the oldest
    chunk of the window also runs alone, its result to be blended (MAGI-1's near-clean pass).
    """
    _check_steps(steps)
    if window < 1 or steps % window:
        raise ValueError(f"{steps} steps in a window of {window} chunks: the steps must be a multiple of the window")
    chunks = split_frames(frames, chunk_frames)
    count, stage_rows = len(chunks), steps // window
    rows: list[Row] = []
    opening = _prefix_row(prefix_chunks, count, history)
    for stage in range(prefix_chunks, count + window - 1):
        oldest, newest = max(prefix_chunks, stage - window + 1), min(count, stage + 1) - 1
        for k in range(stage_rows):
            row, opening = opening, []
            if commit and k == 0 and oldest > prefix_chunks:
                row.append(Pass((oldest - 1,), "commit", reads=history.before(oldest - 1), writes=(oldest - 1,),
                                must_compute=True))
            for c in range(oldest, newest + 1):
                row.append(Pass((c,), steps=((stage - c) * stage_rows + k,), reads=history.before(c), writes=(c,)))
            step = (stage - oldest) * stage_rows + k
            if near_clean_from is not None and step >= near_clean_from:
                row.append(Pass((oldest,), "near_clean", steps=(step,)))
            rows.append(tuple(row))
    return ChunkPlan("pipelined", chunks, steps, tuple(rows), prefix_chunks)


def dense(frames: int, chunk_frames: int, steps: int) -> ChunkPlan:
    """The bidirectional baseline: all chunks in one joint pass a step, nothing cached."""
    _check_steps(steps)
    chunks = split_frames(frames, chunk_frames)
    everything = tuple(range(len(chunks)))
    rows = tuple((Pass(everything, steps=(s,) * len(chunks)),) for s in range(steps))
    return ChunkPlan("dense", chunks, steps, rows)


def rolling(frames: int, chunk_frames: int, steps: int, history: History = EVERYTHING) -> ChunkPlan:
    """Rolling-Forcing's joint window: `steps` chunks, each one step apart, denoised together and moved by one chunk.

    The oldest chunk takes its last step, then a commit pass stores its keys for the windows to come.
    """
    _check_steps(steps)
    chunks = split_frames(frames, chunk_frames)
    rows: list[Row] = []
    for newest in range(len(chunks) + steps - 1):
        window = tuple(range(max(0, newest - steps + 1), min(len(chunks), newest + 1)))
        oldest = window[0]
        row = [Pass(window, steps=tuple(newest - c for c in window), reads=history.before(oldest))]
        if newest - oldest == steps - 1:
            row.append(Pass((oldest,), "commit", reads=history.before(oldest), writes=(oldest,), must_compute=True))
        rows.append(tuple(row))
    return ChunkPlan("rolling", chunks, steps, tuple(rows))
