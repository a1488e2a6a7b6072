"""The command line: `python -m flowcache_core VERB`. The last line on stdout is one JSON object.

Exit codes: 0 done, 2 bad input (one sentence on stderr), 130 interrupted.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

VERBS = ("demo", "generate", "plan", "tune", "calibrate", "learn", "inspect", "profiles", "train", "train-salience")


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    from . import calibrate, demo, generate, inspect, learn, plan, profiles, train, train_salience, tune

    parser = Parser(prog="flowcache_core", description="Autoregressive video diffusion with FlowCache")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for module in (demo, generate, plan, tune, calibrate, learn, inspect, profiles, train, train_salience):
        module.add_parser(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    args = build_parser().parse_args(words)
    args.words = words[1:]
    try:
        result: dict[str, Any] = args.run(args)
    except (ValueError, OSError) as error:
        print(f"flowcache_core {args.verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"\nflowcache_core {args.verb}: interrupted; {stop or 'nothing was kept'}", file=sys.stderr)
        return 130
    print(json.dumps(result))
    return 0
