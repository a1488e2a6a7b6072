"""One record of several windows, rows and chunks numbered through."""

from collections.abc import Sequence
from dataclasses import replace

from ..plan import ChunkPlan, Window
from ..trace import PassRecord, Trace


class VideoRecord:
    """plans: of the windows so far; passes, notes, kv_peak_bytes: of those that have ended."""

    def __init__(self, windows: Sequence[Window], plans: Sequence[ChunkPlan] = ()) -> None:
        self.windows, self.plans = windows, list(plans)
        self.passes: list[PassRecord] = []
        self.notes: list[str] = []
        self.kv_peak_bytes = 0

    def so_far(self, number: int, passes: Sequence[PassRecord]) -> list[PassRecord]:
        """All passes, with those of window `number`, which is at work."""
        before = sum(len(plan.rows) for plan in self.plans[:number])
        return [*self.passes, *(replace(p, row=p.row + before) for p in passes)]

    def end(self, number: int, trace: Trace) -> None:
        """Takes what a window has left."""
        self.passes = self.so_far(number, trace.passes)
        self.notes += trace.notes
        self.kv_peak_bytes = max(self.kv_peak_bytes, trace.kv_peak_bytes)

    def whole(self, number: int, trace: Trace) -> Trace:
        """The record of the video. trace: of window `number`, which has not been taken, and for its settings."""
        chunks = []
        for n, (window, plan) in enumerate(zip(self.windows, self.plans, strict=True)):
            chunks += [[window.start + c.start, window.start + c.stop] for c in plan.chunks
                       if c.start >= (window.prefix if n else 0)]
        plan = {**trace.plan, "chunks": chunks, "rows": sum(len(plan.rows) for plan in self.plans)}
        return replace(trace, plan=plan, kv_peak_bytes=max(self.kv_peak_bytes, trace.kv_peak_bytes),
                       passes=self.so_far(number, trace.passes), notes=list(dict.fromkeys([*self.notes, *trace.notes])))
