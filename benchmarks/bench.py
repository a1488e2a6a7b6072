"""Runs the benchmarks: `python3 dev.py bench [NAME ...] [--clips N] [--reduced]`. The last line is one JSON object."""

import importlib
import inspect
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

NAMES = ("world", "demo", "speed", "overhead", "memory", "compression", "merging", "salience", "sparse", "real_size",
         "host", "figures")


def main(names: list[str]) -> int:
    """`--clips N` and `--reduced` go to those that take them."""
    clips, reduced = None, "--reduced" in names
    names = [name for name in names if name != "--reduced"]
    if "--clips" in names:
        at = names.index("--clips")
        if not names[at + 1:] or not names[at + 1].isdigit() or int(names[at + 1]) < 1:
            print(f"--clips {' '.join(names[at + 1:at + 2])}: expected a whole number from 1", file=sys.stderr)
            return 2
        clips, names = int(names[at + 1]), [*names[:at], *names[at + 2:]]
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        print(f"unknown benchmark {', '.join(unknown)}: choose from {', '.join(NAMES)}", file=sys.stderr)
        return 2
    results = {}
    for name in names or [n for n in NAMES if n != "host" or "COMFYUI_PATH" in os.environ]:
        run = importlib.import_module(f"benchmarks.{name}").run
        takes, given = inspect.signature(run).parameters, {"clips": clips, "reduced": reduced or None}
        try:
            results[name] = run(**{key: value for key, value in given.items() if value and key in takes})
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
    for name, result in results.items():
        print(f"{name}:\n{json.dumps(result, indent=1)}")
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
