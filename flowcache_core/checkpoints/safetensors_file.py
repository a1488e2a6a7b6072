"""Reading safetensors files: header first, tensors mapped on demand, every fault in one sentence."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .stored import CheckpointError, Contents, Stored


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


def safetensors_contents(path: Path) -> Contents:
    """Shapes now, tensors later: they stay mapped to the file. Raises CheckpointError."""
    file = _open(path)   # kept open by the readers below, for as long as they live
    slices = {name: file.get_slice(name) for name in file.keys()}
    found = {name: Stored(tuple(part.get_shape()), part.get_dtype(), lambda name=name: file.get_tensor(name))
             for name, part in slices.items()}
    return Contents(path, "safetensors", {"": found}, file.metadata() or {})


def read_header(path: Path) -> Header:
    """Reads shapes without loading tensors. Raises CheckpointError."""
    contents = safetensors_contents(path)
    found = contents.sets[""]
    return Header(path, {name: part.shape for name, part in found.items()},
                  frozenset(part.dtype for part in found.values()), dict(contents.metadata))


def read_tensors(path: Path, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """All tensors, converted to `dtype` one by one. Raises CheckpointError."""
    with _open(path) as file:
        return {name: file.get_tensor(name).to(dtype) if dtype else file.get_tensor(name) for name in file.keys()}
