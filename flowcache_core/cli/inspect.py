"""`inspect FILE`: says what a checkpoint is."""

import argparse
from pathlib import Path
from typing import Any


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("inspect", help="say what a checkpoint file is and what to do with it")
    parser.add_argument("file", type=Path)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from ..checkpoints import inspect_file

    found = inspect_file(args.file)
    print(f"{found.file}: {found.family}{', ' + found.variant if found.variant else ''}; {found.parameters:,} "
          f"parameters in {found.tensors} tensors ({found.dtype})\n{found.advice}")
    return found.to_json()
