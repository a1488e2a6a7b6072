"""Runs the benchmarks: `python3 dev.py bench [NAME ...]`. The last line is one JSON object."""

import importlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

NAMES = ("world", "sweep", "demo", "overhead", "memory", "compression", "merging", "salience", "sparse", "real_size")


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        print(f"unknown benchmark {', '.join(unknown)}: choose from {', '.join(NAMES)}", file=sys.stderr)
        return 2
    results = {name: importlib.import_module(f"benchmarks.{name}").run() for name in names or NAMES}
    for name, result in results.items():
        print(f"{name}:\n{json.dumps(result, indent=1)}")
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
