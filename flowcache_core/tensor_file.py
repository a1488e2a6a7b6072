"""Safetensors files that are whole or not there, written tensor by tensor, with a text and a checksum in the header.

Written here and not by the library, which would want every tensor on the CPU at once and does not sync.
"""

import json
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

NAMES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16",
         torch.float8_e4m3fn: "F8_E4M3", torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
         torch.uint8: "U8", torch.bool: "BOOL"}
NO_SUM, BLOCK = "00000000", 2**24


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder lasting, where the system can."""
    if os.name != "nt":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text_synced(path: Path, text: str) -> None:
    """Writes a text whole or not at all, on disk when this returns."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    replace_synced(partial, path)


def replace_synced(partial: Path, path: Path) -> None:
    """Gives a synced file its name; what stood there is gone only when the new one is on disk."""
    partial.replace(path)
    sync_folder(path.parent)


def _header(text: str, tensors: Mapping[str, Tensor], order: Sequence[str], checksum: str) -> bytes:
    entries, begin = {"__metadata__": {"text": text, "crc32": checksum}}, 0
    for name in order:
        tensor = tensors[name]
        end = begin + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    data = json.dumps(entries, separators=(",", ":")).encode()
    data += b" " * (-len(data) % 8)
    return struct.pack("<Q", len(data)) + data


def write_tensors(path: Path, text: str, tensors: Mapping[str, Tensor]) -> int:
    """Writes `tensors` under their names and `text`; returns the bytes of the file.

    The data is synced before the file gets its name. Tensors may lie anywhere and be views; one at a time is copied.
    """
    order = sorted(tensors, key=lambda name: -tensors[name].element_size())   # keeps every one aligned
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            file.write(_header(text, tensors, order, NO_SUM))
            checksum = zlib.crc32(text.encode())
            for name in order:
                data = tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
                checksum = zlib.crc32(data, checksum)
                file.write(data)
            file.seek(0)
            file.write(_header(text, tensors, order, f"{checksum:08x}"))
            file.flush()
            os.fsync(file.fileno())
            size = file.seek(0, os.SEEK_END)
        replace_synced(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(f"cannot write {str(path)!r} ({error.strerror or error}): make room, or choose another "
                      "folder") from error
    return size


def read_tensors(path: Path) -> tuple[str, dict[str, Tensor]]:
    """The text and the tensors of a file of `write_tensors`, mapped from it. Raises ValueError for a damaged one."""
    try:
        with open(path, "rb") as file:
            text, checksum = _checked_header(path, file)
            found = zlib.crc32(text.encode())
            while block := file.read(BLOCK):
                found = zlib.crc32(block, found)
        if f"{found:08x}" != checksum:
            raise ValueError(f"{path}: its checksum is {found:08x}, {checksum} was written: the file is damaged")
        with safe_open(path, "pt") as tensors:
            return text, {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 (no dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error


def _checked_header(path: Path, file: BinaryIO) -> tuple[str, str]:
    try:
        (length,) = struct.unpack("<Q", file.read(8))
        entries = json.loads(file.read(min(length, path.stat().st_size)))
        metadata = entries.pop("__metadata__")
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        if path.stat().st_size != 8 + length + end:
            raise ValueError("it is cut off")
        return metadata["text"], metadata["crc32"]
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a whole file ({error})") from error
