"""KV memory over length, with and without a window: what the store allocated."""

from typing import Any

from benchmarks.common import Bundle, request, run_batch, save, scenes
from flowcache_core.kv import KVBudget

CASES = ((8, None), (32, None), (8, 4), (32, 4))   # chunks, budget in chunks


def peak(chunks: int, window: int | None) -> dict[str, Any]:
    bundle, batch = Bundle.load(), scenes(1, seed=3, held_out=True)
    _, trace = run_batch(bundle, request(chunks, steps=4, budget=KVBudget(window)), batch)
    return {"chunks": chunks, "kv_budget_chunks": window, "kv_peak_bytes": trace.kv_peak_bytes,
            "kv_peak_tokens": trace.summary()["kv_peak_tokens"]}


def run() -> dict[str, Any]:
    rows = [peak(chunks, window) for chunks, window in CASES]
    short, long = rows[2]["kv_peak_bytes"], rows[3]["kv_peak_bytes"]
    return save("memory", {"rows": rows, "window_32_over_8": round(long / short, 3)})
