"""Reading safetensors files: header first, tensors on demand, every fault in one sentence."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor


class CheckpointError(ValueError):
    """A file that cannot be used; the message says what it is and what to do."""


@dataclass(frozen=True)
class Header:
    """Names, shapes and dtypes of a file's tensors, and its metadata."""

    path: Path
    shapes: dict[str, tuple[int, ...]]
    dtypes: frozenset[str]
    metadata: dict[str, str]

    @property
    def parameters(self) -> int:
        return sum(int(torch.Size(shape).numel()) for shape in self.shapes.values())


def _open(path: Path):  # noqa: ANN202  (safe_open has no public type)
    if not path.is_file():
        raise CheckpointError(f"{path}: " + ("a folder" if path.is_dir() else "no such file")
                              + "; give the path of a .safetensors file")
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size
        raise CheckpointError(f"{path}: not a whole safetensors file ({size} bytes; {error}); download or export it "
                              "again") from error


def read_header(path: Path) -> Header:
    """Reads shapes without loading tensors. Raises CheckpointError."""
    with _open(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}
        shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
        return Header(path, shapes, frozenset(part.get_dtype() for part in slices.values()), file.metadata() or {})


def read_tensors(path: Path, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """All tensors, converted to `dtype` one by one. Raises CheckpointError."""
    with _open(path) as file:
        return {name: file.get_tensor(name).to(dtype) if dtype else file.get_tensor(name) for name in file.keys()}
