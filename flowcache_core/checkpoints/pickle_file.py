"""Reading `.pt`, `.pth`, `.bin` and `.ckpt` files: tensors and plain containers only, never anything that runs code."""

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .stored import CheckpointError, Contents, Stored, stored

SETS = ("generator_ema", "generator", "model", "state_dict", "module", "model_state", "generator_lora", "lora")
"""Entries that hold a network, best first; what else lies beside them (critic, optimizer, counters) is left."""


def pickle_contents(path: Path) -> Contents:
    """The named dicts of tensors of a file; one with tensors at the top is the set "". Raises CheckpointError."""
    data = _load(path)
    if not isinstance(data, Mapping):
        raise CheckpointError(f"{path}: holds a {type(data).__name__}, not a dict of tensors; export the weights as "
                              "safetensors")
    top = _tensors(data)
    sets = {"": top} if top else {}
    sets.update({name: _tensors(data[name]) for name in SETS if isinstance(data.get(name), Mapping)})
    nested = {name: _tensors(inner) for name, inner in data.items()
              if name not in sets and isinstance(inner, Mapping)} if not sets else {}
    sets = {name: found for name, found in {**sets, **nested}.items() if found}
    if not sets:
        raise CheckpointError(f"{path}: no tensors in it (entries: {', '.join(map(str, list(data)[:5])) or 'none'}); "
                              "give a file of weights")
    beside = sorted(str(name) for name, inner in data.items() if name not in sets and not isinstance(inner, Tensor))
    held = ", ".join(name or "tensors at the top" for name in sets)
    return Contents(path, f"torch file with {held}" + (f" (beside: {', '.join(beside)})" if beside else ""), sets)


def _tensors(data: Mapping[Any, Any]) -> dict[str, Stored]:
    return {str(name): stored(value.detach()) for name, value in data.items() if isinstance(value, Tensor)}


def _load(path: Path) -> Any:
    zipped = zipfile.is_zipfile(path)
    with path.open("rb") as file:
        if file.read(4) == b"PK\x03\x04" and not zipped:
            raise CheckpointError(f"{path}: not a whole torch file ({path.stat().st_size} bytes, its end is missing); "
                                  "download or export it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")   # of old formats; what matters is raised
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped or None)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refused(path, str(error))) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError, AttributeError, UnicodeError,
            ImportError, TypeError, AssertionError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: not a whole torch file ({path.stat().st_size} bytes; "
                              f"{str(error).splitlines()[0] if str(error) else type(error).__name__}); download or "
                              "export it again") from error


def _refused(path: Path, fault: str) -> str:
    for mark in ("GLOBAL ", "Unsupported global: "):
        if mark in fault:
            name = fault.split(mark, 1)[1].split()[0]
            return (f"{path}: refused, because it holds more than tensors ({name}) and reading that could run code; "
                    "nothing of it was run. Export the weights as safetensors")
    with path.open("rb") as file:
        pickled = file.read(2)[:1] == b"\x80" or zipfile.is_zipfile(path)
    if pickled:
        return (f"{path}: refused, because it holds more than tensors and reading that could run code; nothing of it "
                "was run. Export the weights as safetensors")
    return f"{path}: neither a safetensors nor a torch file ({path.stat().st_size} bytes); give a file of weights"
