"""The nodes in ComfyUI against the core alone: what the bridge costs, and whether a preset gains as much there.

`COMFYUI_PATH=<checkout> python3 dev.py bench host [--reduced] [--clips N]`. The checkout's own Python (its `.venv` or
`venv`) does the host's part, `host_side.py`; the core's part is measured here, on the same video with the same preset.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, Bundle, median, request, run_batch, save, scenes

CHUNKS, PRESET = 8, "fast"   # those of the workflow 2_uncached_and_accelerated
SMALL = {"dim": 256, "layers": 2, "ffn": 512, "height": 16, "width": 24}
REAL = {"dim": 1536, "layers": 4, "ffn": 8960, "height": 52, "width": 120}


def python_of(checkout: Path) -> Path:
    """The Python in which ComfyUI runs; this one where the checkout has none of its own."""
    found = (checkout / folder / name for folder in (".venv", "venv") for name in ("bin/python", "Scripts/python.exe"))
    return next((path for path in found if path.is_file()), Path(sys.executable))


def in_the_host(checkout: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    """What `host_side.py` measures. Raises ValueError where it fails."""
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    done = subprocess.run([str(python_of(checkout)), str(ROOT / "benchmarks" / "host_side.py"), *words],
                          env={**os.environ, "COMFYUI_PATH": str(checkout)}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise ValueError(f"benchmarks/host_side.py ended with exit code {done.returncode} in {checkout}: its message "
                         "is above; COMFYUI_PATH must name a checkout whose Python has ComfyUI's requirements")
    return json.loads(done.stdout.splitlines()[-1])


def in_the_core(clips: int, steps: int | None) -> dict[str, Any]:
    """Seconds of the same videos on the command line's engine, uncached and accelerated taking turns."""
    bundle, clip = Bundle.load(), scenes(1, seed=31, held_out=True)
    run_batch(bundle, request(1, 2), clip)
    seconds: dict[str, list[float]] = {"off": [], PRESET: []}
    share = 1.0
    for seed in range(clips):
        for name in seconds:
            _, trace = run_batch(bundle, request(CHUNKS, steps, seed, name), clip)
            seconds[name].append(trace.seconds)
            share = trace.computed_share
    return row("command line", seconds["off"], seconds[PRESET], share)


def row(where: str, uncached: list[float], accelerated: list[float], share: float) -> dict[str, Any]:
    return {"where": where, "uncached_seconds": round(median(uncached), 3),
            "accelerated_seconds": round(median(accelerated), 3), "computed_share": round(share, 4),
            "speedup": round(median([a / b for a, b in zip(uncached, accelerated, strict=True)]), 3)}


def run(clips: int = 3, reduced: bool = False) -> dict[str, Any]:
    """clips: how many videos; reduced: small networks and few steps, to see that it runs. Nothing is written then."""
    checkout = os.environ.get("COMFYUI_PATH", "").split(os.pathsep)[0]
    if not checkout:
        raise ValueError("COMFYUI_PATH names no ComfyUI checkout: set it to one, or leave host out of the benchmarks")
    steps = 12 if reduced else None
    told = in_the_host(Path(checkout), {**(SMALL if reduced else REAL), "clips": clips, "video-steps": steps or 0})
    rows = [in_the_core(clips, steps), row("ComfyUI", told["uncached"], told["accelerated"], told["share"])]
    command = f"COMFYUI_PATH=<checkout> python3 dev.py bench host{' --reduced' * reduced}"
    result = {"comfyui": told["comfyui"], "bridge": told["bridge"], "speed": rows, "preset": PRESET, "chunks": CHUNKS,
              "of_command_line": round(rows[1]["speedup"] / rows[0]["speedup"], 3)}
    return {"command": command, **result} if reduced else save("host", result, command)
