"""What a run needs to go on after its last whole row, and the file that holds it.

There is no generator position in it: noise is a function of seed, chunk and step (`solvers/noise.py`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .saved import pack, saved, unpack
from .tensor_file import read_tensors, write_tensors
from .trace import PassRecord

SCHEMA = "flowcache-state/1"
ON_THE_CPU = ("cache", "passes")   # the cache copies its tensors itself


@saved
@dataclass(frozen=True)
class RunState:
    """row: the next one; finished: chunks that are done, whose latents the caller keeps; video: latents in flight and
    solver states; lanes: policy states and predictor values; cache: keys, values and their bookkeeping; passes: the
    trace so far."""

    row: int
    finished: tuple[int, ...]
    video: dict[str, Any]
    lanes: dict[str, Any]
    cache: dict[str, Any]
    passes: tuple[PassRecord, ...]


class _Moved(Sequence[Tensor]):
    """Copies of tensors on a device, each made once and when it is asked for."""

    def __init__(self, tensors: Sequence[Tensor], device: torch.device | str) -> None:
        self._tensors, self._device = tensors, device
        self._made: dict[int, Tensor] = {}

    def __getitem__(self, index: int) -> Tensor:
        if index not in self._made:
            self._made[index] = self._tensors[index].to(self._device, copy=True)
        return self._made[index]

    def __len__(self) -> int:
        return len(self._tensors)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[n] for n in range(len(self)))


def write_state(path: Path, state: RunState, about: Mapping[str, Any]) -> int:
    """Writes a state file, synced before it stands under its name; returns its bytes. about: JSON for its reader."""
    tensors: list[Tensor] = []
    tree = {f.name: pack(getattr(state, f.name), tensors) for f in fields(state)}
    return write_tensors(path, json.dumps({"schema": SCHEMA, "about": dict(about), "state": tree}),
                         {str(n): tensor for n, tensor in enumerate(tensors)})


def read_state(path: Path, device: torch.device | str = "cpu") -> tuple[RunState, dict[str, Any]]:
    """A state, its tensors on `device` (those of the KV cache on the CPU), and what was said `about` it.

    Raises ValueError for a file that is missing, cut off, changed, or of another version.
    """
    text, named = read_tensors(path)
    try:
        tensors, data = [named[str(n)] for n in range(len(named))], json.loads(text)
        if data["schema"] != SCHEMA:
            raise ValueError(f"it has the schema {data['schema']!r}, expected {SCHEMA!r}")
        moved = _Moved(tensors, device)
        parts = {name: unpack(tree, tensors if name in ON_THE_CPU else moved) for name, tree in data["state"].items()}
        return RunState(**parts), data["about"]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{path}: no run state that this version can read ({error})") from error
