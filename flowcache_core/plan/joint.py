"""Builders of plans that run several chunks in one forward: the dense baseline, and a joint rolling window."""

from .builders import check_steps
from .chunk_plan import EVERYTHING, ChunkPlan, History, Pass, Row, split_frames
from .diffusion_forcing import step_table


def dense(frames: int, chunk_frames: int, steps: int, ar_step: int = 0, prefix_chunks: int = 0) -> ChunkPlan:
    """The bidirectional baseline: all chunks in one joint pass a row, nothing cached, all seeing all.

    ar_step: with more than 0 the chunks start one after the other, as in `diffusion_forcing`, and those that wait or
    are finished are in every pass all the same; SkyReels-V2's own asynchronous way.
    """
    check_steps(steps)
    chunks = split_frames(frames, chunk_frames)
    everything = tuple(range(len(chunks)))
    table = step_table(len(chunks), steps, ar_step, prefix_chunks)
    rows = tuple((Pass(everything, steps=tuple(s - 1 for s in state),
                       still=tuple(c for c in everything if not updated[c])),)
                 for state, updated in zip(table.state, table.updated, strict=True))
    return ChunkPlan("dense", chunks, steps, rows, prefix_chunks)


def rolling(frames: int, chunk_frames: int, steps: int, history: History = EVERYTHING, most: int | None = None,
            commit_history: History | None = None) -> ChunkPlan:
    """Rolling-Forcing's joint window: `steps` chunks, each one step apart, denoised together and moved by one chunk.

    The oldest chunk takes its last step, then a commit pass stores its keys for the windows to come. most: chunks that
    a window sees, itself and the sink included; it then sees as many recent chunks as that leaves. commit_history:
    what commit passes see (default: `history`).
    """
    check_steps(steps)
    chunks = split_frames(frames, chunk_frames)
    own = min(steps, len(chunks))
    if most is not None and most < own + history.sink:
        raise ValueError(f"a rolling window of {own} chunks and a sink of {history.sink} that may see {most}: expected "
                         f"at least {own + history.sink}")
    rows: list[Row] = []
    for newest in range(len(chunks) + steps - 1):
        window = tuple(range(max(0, newest - steps + 1), min(len(chunks), newest + 1)))
        oldest = window[0]
        seen = history if most is None else History(most - len(window) - history.sink, history.sink, history.rebase)
        row = [Pass(window, steps=tuple(newest - c for c in window), reads=seen.before(oldest), rebase=seen.rebase)]
        if newest - oldest == steps - 1:
            kept = commit_history or history
            row.append(Pass((oldest,), "commit", reads=kept.before(oldest), writes=(oldest,), must_compute=True,
                            rebase=kept.rebase))
        rows.append(tuple(row))
    return ChunkPlan("rolling", chunks, steps, tuple(rows))
