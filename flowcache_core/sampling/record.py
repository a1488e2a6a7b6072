"""One record of several windows, rows and chunks numbered through."""

from collections.abc import Sequence
from dataclasses import replace

from ..plan import ChunkPlan
from ..trace import PassRecord, Trace


def joined_trace(last: Trace, plans: Sequence[ChunkPlan], passes: Sequence[PassRecord], kv_peak_bytes: int) -> Trace:
    """last: the record of the window at hand, for its settings; passes: of all windows."""
    chunks, frame = [], 0
    for number, plan in enumerate(plans):
        for chunk in plan.chunks[plan.prefix_chunks if number else 0:]:
            chunks.append([frame, frame + chunk.frames])
            frame += chunk.frames
    whole = {**last.plan, "chunks": chunks, "rows": sum(len(plan.rows) for plan in plans)}
    return replace(last, plan=whole, kv_peak_bytes=kv_peak_bytes, passes=list(passes))
