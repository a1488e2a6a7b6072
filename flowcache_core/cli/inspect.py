"""`inspect FILE`: says what a checkpoint is."""

import argparse
from pathlib import Path
from typing import Any

from ..checkpoints.recognition import LOADABLE


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("inspect", help="say what a checkpoint file is and what to do with it")
    parser.add_argument("file", type=Path, help="a file, a folder of shards, or an index")
    parser.add_argument("--family", help=f"in place of the recognised one: one of {', '.join(LOADABLE)}")
    parser.add_argument("--weights", choices=("ema", "raw"), help="which weights, where a file has both")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from ..checkpoints import inspect_file

    found = inspect_file(args.file, args.family, args.weights)
    print(f"{found.file} ({found.container}): {found.family}{', ' + found.variant if found.variant else ''}; "
          f"{found.parameters:,} parameters in {found.tensors} tensors ({found.dtype})\n{found.advice}")
    return found.to_json()
