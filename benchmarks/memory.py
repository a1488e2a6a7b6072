"""KV memory over length, with and without a window: what the process really holds, and what the store says."""

import json
import resource
import subprocess
import sys
from typing import Any

from benchmarks.common import ROOT, Bundle, request, run_batch, save, scenes
from flowcache_core.kv import KVBudget

CASES = ((8, None), (32, None), (8, 4), (32, 4))   # chunks, budget in chunks


def peak(chunks: int, window: int | None) -> dict[str, Any]:
    """Run in a process of its own, since a process's peak never falls."""
    bundle, batch = Bundle.load(), scenes(1, seed=3, held_out=True)
    run_batch(bundle, request(2, steps=4), batch)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, trace = run_batch(bundle, request(chunks, steps=4, budget=KVBudget(window)), batch)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"chunks": chunks, "kv_budget_chunks": window, "kv_peak_bytes": trace.kv_peak_bytes,
            "process_growth_bytes": 1024 * (after - before)}


def run() -> dict[str, Any]:
    rows = []
    for chunks, window in CASES:
        code = f"import json; from benchmarks.memory import peak; print(json.dumps(peak({chunks}, {window})))"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    short, long = rows[2]["kv_peak_bytes"], rows[3]["kv_peak_bytes"]
    return save("memory", {"rows": rows, "window_32_over_8": round(long / short, 3)})
