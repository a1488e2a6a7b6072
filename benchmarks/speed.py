"""Measured time of the presets beside the uncached run."""

from typing import Any

from benchmarks.common import Bundle, median, request, run_batch, save, scenes
from benchmarks.demo import CHUNKS, PRESETS

RUNS = 3


def speed_rows(bundle: Bundle) -> list[dict[str, Any]]:
    """Single videos, as a user makes them; settings take turns so that a slow spell hits all of them."""
    names, clip = ("off", *PRESETS), scenes(1, seed=31, held_out=True)
    run_batch(bundle, request(1), clip)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    share = {}
    for _ in range(RUNS):
        for name in names:
            _, trace = run_batch(bundle, request(CHUNKS, preset=name), clip)
            seconds[name].append(trace.seconds)
            share[name] = trace.computed_share
    base = median(seconds["off"])
    return [{"setting": name, "seconds": round(median(seconds[name]), 2), "computed_share": round(share[name], 4),
             "speedup": round(base / median(seconds[name]), 2), "bound": round(1 / share[name], 2),
             "of_bound": round(base / median(seconds[name]) * share[name], 3)} for name in names]


def run() -> dict[str, Any]:
    return save("speed", {"chunks": CHUNKS, "runs": RUNS, "speed": speed_rows(Bundle.load())})
