"""One run in a table of chunks, and as JSON that is short enough to be sent around."""

from collections import Counter
from typing import Any

from ..trace import SCHEMA, LaneRecord, Trace
from .header import byte_words, seconds_words
from .tables import comparison_table


def chunk_rows(trace: Trace) -> list[dict[str, Any]]:
    """For every chunk: steps of all streams and items by decision, seconds, and the most bytes in the KV cache.

    Seconds of a pass with several chunks are shared out evenly.
    """
    lanes: dict[int, list[LaneRecord]] = {}
    seconds: Counter = Counter()
    held: dict[int, int] = {}
    for p in trace.passes:
        for lane in p.lanes:
            lanes.setdefault(lane.chunk, []).append(lane)
        for chunk in p.chunks:
            seconds[chunk] += p.seconds / len(p.chunks)
            held[chunk] = max(held.get(chunk, 0), p.kv_bytes)
    rows = []
    for chunk in range(len(trace.plan["chunks"])):
        own = lanes.get(chunk, [])
        counts = Counter(lane.decision for lane in own)
        rows.append({"chunk": chunk, "steps": len(own), "computed": counts["compute"],
                     "skipped": counts["reuse"] + counts["predict"] + counts["derive"], "in part": counts["partial"],
                     "seconds": round(float(seconds[chunk]), 3), "KV MB": round(held.get(chunk, 0) / 1e6, 2)})
    return rows


def run_text(trace: Trace) -> str:
    """The run in a sentence, a table of its chunks, and its notes."""
    s = trace.summary()
    head = (f"{trace.settings.get('policy', 'a run')} on {trace.plan['name']}: computed {s['computed']:,} of "
            f"{s['chunk_steps']:,} chunk steps, {s['model_calls']:,} model calls, {seconds_words(trace.seconds)} "
            f"measured, KV cache {byte_words(trace.kv_peak_bytes)}")
    return "\n".join([head, "", comparison_table(chunk_rows(trace)), *(f"note: {note}" for note in trace.notes)])


def run_json(trace: Trace) -> dict[str, Any]:
    """The trace without its passes, with a row for every chunk in their place."""
    whole = trace.to_json()
    kept = {key: whole[key] for key in ("settings", "plan", "summary")}
    return {"schema": SCHEMA, **kept, "chunks": chunk_rows(trace)}
