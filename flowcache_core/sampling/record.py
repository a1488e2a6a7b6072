"""One record of several windows, rows and chunks numbered through."""

from collections.abc import Sequence
from dataclasses import replace

from ..plan import ChunkPlan, Window
from ..trace import PassRecord, Trace


def joined_trace(last: Trace, windows: Sequence[Window], plans: Sequence[ChunkPlan], passes: Sequence[PassRecord],
                 kv_peak_bytes: int) -> Trace:
    """last: the record of the window at hand, for its settings; passes: of all windows."""
    chunks = []
    for number, (window, plan) in enumerate(zip(windows, plans, strict=True)):
        chunks += [[window.start + c.start, window.start + c.stop] for c in plan.chunks
                   if c.start >= (window.prefix if number else 0)]
    whole = {**last.plan, "chunks": chunks, "rows": sum(len(plan.rows) for plan in plans)}
    return replace(last, plan=whole, kv_peak_bytes=kv_peak_bytes, passes=list(passes))
