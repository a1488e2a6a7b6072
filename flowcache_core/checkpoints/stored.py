"""Tensors that lie in a file and are read one by one, and the error of files that cannot be used."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

DTYPE_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
               torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.int64: "I64", torch.int32: "I32",
               torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"}
EIGHT_BITS = ("F8_E4M3", "F8_E5M2")


class CheckpointError(ValueError):
    """A file that cannot be used; the message says what it is and what to do."""


@dataclass(frozen=True)
class Stored:
    """One tensor of a file. dtype: as safetensors names it; read: maps or reads it, at every call anew."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Tensor]

    @property
    def numbers(self) -> int:
        return torch.Size(self.shape).numel()


@dataclass(frozen=True)
class Contents:
    """What a file or folder holds, before anything is known of models.

    container: in words; sets: named dicts of tensors, of which a plain file has one, ""; metadata: of its header.
    """

    path: Path
    container: str
    sets: Mapping[str, Mapping[str, Stored]]
    metadata: Mapping[str, str] = field(default_factory=dict)


def stored(tensor: Tensor) -> Stored:
    """A tensor that is there already."""
    name = DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))
    return Stored(tuple(tensor.shape), name, lambda: tensor)
