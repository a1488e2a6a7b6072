"""One network of a file: which of its weights, under plain names, ready to be read tensor by tensor."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .names import plain_names
from .opening import open_contents
from .scaled import dequantised
from .stored import CheckpointError, Contents, Stored

AVERAGED = "generator_ema"
WEIGHTS = ("ema", "raw")


@dataclass(frozen=True)
class Checkpoint:
    """tensors: by the names that the networks here give them; container: in words; chosen, sets: the dict that they
    are from, and all that could have been chosen; diffusers: whether they had diffusers names; metadata: header."""

    path: Path
    container: str
    chosen: str
    sets: tuple[str, ...]
    tensors: Mapping[str, Stored]
    metadata: Mapping[str, str]
    diffusers: bool = False

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    @property
    def dtypes(self) -> list[str]:
        return sorted({tensor.dtype for tensor in self.tensors.values()})

    @property
    def parameters(self) -> int:
        return sum(tensor.numbers for tensor in self.tensors.values())

    def state_dict(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """All tensors by plain Wan2.1 or MAGI-1 names: mapped to the file where it and `dtype` allow, else read one
        by one."""
        return {name: read(tensor, dtype) for name, tensor in self.tensors.items()}


def read(tensor: Stored, dtype: torch.dtype | None = None) -> Tensor:
    """One tensor; numbers that are not floating-point keep their dtype."""
    value = tensor.read()
    return value.to(dtype) if dtype is not None and value.is_floating_point() else value


def open_checkpoint(path: Path | str, weights: str | None = None, prefer: str = "ema") -> Checkpoint:
    """Any container that this version reads.

    weights: `ema` or `raw` where a file has to have that; prefer: which of the two where it has both and `weights` is
    None. Raises CheckpointError.
    """
    contents = open_contents(Path(path))
    chosen = _choose(contents, weights, prefer)
    tensors, diffusers = plain_names(contents.sets[chosen], str(path))
    return Checkpoint(contents.path, contents.container, chosen, tuple(contents.sets),
                      dequantised(tensors, str(path)), contents.metadata, diffusers)


def _choose(contents: Contents, weights: str | None, prefer: str) -> str:
    if weights not in (None, *WEIGHTS):
        raise CheckpointError(f"weights {weights!r}: choose ema or raw")
    raw = [name for name in contents.sets if name != AVERAGED]
    wanted = [AVERAGED] if (weights or prefer) == "ema" else raw
    there = [name for name in wanted if name in contents.sets]
    if weights is not None and not there:
        raise CheckpointError(f"{contents.path}: no {weights} weights in it, only "
                              f"{', '.join(name or 'unnamed ones' for name in contents.sets)}; choose the other")
    return (there or list(contents.sets))[0]
