"""Memory over length, with and without a KV window: what the store allocated, and what the process took beside it.

Each case runs in a process of its own: its peak is reset after loading and a short run, so that what is counted is
what sampling takes.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, Bundle, request, run_batch, save, scenes
from flowcache_core.kv import KVBudget

CASES = ((8, None), (32, None), (8, 4), (32, 4))   # chunks, budget in chunks


def status_bytes(field: str) -> int:
    """A memory field of this process, as Linux counts it."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def peak(chunks: int, window: int | None) -> dict[str, Any]:
    bundle, batch = Bundle.load(), scenes(1, seed=3, held_out=True)
    run_batch(bundle, request(1, steps=2), batch)
    Path("/proc/self/clear_refs").write_text("5")   # resets the peak
    before = status_bytes("VmRSS")
    _, trace = run_batch(bundle, request(chunks, steps=4, whole=True, budget=KVBudget(window)), batch)
    return {"chunks": chunks, "kv_budget_chunks": window, "kv_peak_bytes": trace.kv_peak_bytes,
            "kv_peak_tokens": trace.summary()["kv_peak_tokens"], "process_bytes": status_bytes("VmHWM") - before}


def in_own_process(chunks: int, window: int | None) -> dict[str, Any]:
    code = f"import json; from benchmarks.memory import peak; print(json.dumps(peak({chunks}, {window})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def run() -> dict[str, Any]:
    rows = [in_own_process(*case) for case in CASES]
    short, long = rows[2]["kv_peak_bytes"], rows[3]["kv_peak_bytes"]
    return save("memory", {"rows": rows, "window_32_over_8": round(long / short, 3)})
