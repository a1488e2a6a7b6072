"""From a path to its tensors, whatever the container: told by the first bytes, never by the name alone."""

from pathlib import Path

from .folder import INDEX, SHARD, folder_contents, index_contents, shard_contents
from .pickle_file import pickle_contents
from .safetensors_file import safetensors_contents
from .stored import CheckpointError, Contents

PACKED = {b"GGUF": "a GGUF file, which this version does not read; give the safetensors it was made from",
          b"\x28\xb5\x2f\xfd": "compressed with zstd; decompress it with zstd -d",
          b"\x1f\x8b": "compressed with gzip; decompress it"}


def open_contents(path: Path) -> Contents:
    """Reads names and shapes; tensors are mapped or read later. Raises CheckpointError."""
    path = Path(path)
    if path.is_dir():
        return folder_contents(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file; give the path of a checkpoint (.safetensors, .pt, .pth, or a "
                              "folder of shards)")
    if path.name.endswith(INDEX):
        return index_contents(path)
    if SHARD.fullmatch(path.name):
        return shard_contents(path)
    with path.open("rb") as file:
        start = file.read(16)
    for mark, what in PACKED.items():
        if start.startswith(mark):
            raise CheckpointError(f"{path}: {what}")
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return safetensors_contents(path)
    if not start:
        raise CheckpointError(f"{path}: empty (0 bytes); download or export it again")
    return pickle_contents(path)
