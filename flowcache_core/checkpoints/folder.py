"""Checkpoints in several files: shards with or without an index, as a folder, an index or one of the shards."""

import json
import re
from pathlib import Path

from .safetensors_file import safetensors_contents
from .stored import CheckpointError, Contents, Stored

SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
INDEX = ".safetensors.index.json"


def folder_contents(path: Path) -> Contents:
    """The tensors of a folder of safetensors files. A diffusers pipeline folder stands for its `transformer` folder.
    Raises CheckpointError, naming the file that is missing or does not belong."""
    inner = path / "transformer"
    if inner.is_dir() and not list(path.glob("*.safetensors")):
        path = inner
    indices = sorted(path.glob(f"*{INDEX}"))
    if len(indices) > 1:
        raise CheckpointError(f"{path}: {len(indices)} index files ({', '.join(i.name for i in indices)}); keep the "
                              "files of one model")
    if indices:
        return index_contents(indices[0])
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{path}: {_why_empty(path)}")
    return _merged(path, _complete(path, files))


def index_contents(index: Path) -> Contents:
    """The tensors that an index file lists, from the files that it names."""
    try:
        listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(listed.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: no index of shards ({type(error).__name__}: {error}); download it "
                              "again") from error
    missing = [name for name in files if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(f"{index.parent / missing[0]}: shard missing, which {index.name} names"
                              f"{_others(missing)}; download it{_compressed(index.parent, missing[0])}")
    contents = _merged(index.parent, [index.parent / name for name in files])
    lost = sorted(set(listed) - set(contents.sets[""]))
    if lost:
        raise CheckpointError(f"{index.parent}: tensor {lost[0]} is in no shard, though {index.name} lists it"
                              f"{_others(lost)}; the shards are of another model: download them again")
    return contents


def shard_contents(shard: Path) -> Contents:
    """The whole set that one shard belongs to."""
    stem = SHARD.fullmatch(shard.name)["stem"]
    index = shard.with_name(stem + INDEX)
    if index.is_file():
        return index_contents(index)
    return _merged(shard.parent, _complete(shard.parent, sorted(shard.parent.glob(f"{stem}-*-of-*.safetensors"))))


def _complete(folder: Path, files: list[Path]) -> list[Path]:
    """The files, if they are one file or all shards of one set."""
    shards = [match for match in (SHARD.fullmatch(file.name) for file in files) if match]
    if not shards:
        if len(files) > 1:
            raise CheckpointError(f"{folder}: {len(files)} files ({', '.join(f.name for f in files[:3])}"
                                  f"{', ...' if len(files) > 3 else ''}) and no index that says which belong "
                                  "together; give one file, or the folder with its index")
        return files
    kinds = sorted({(match["stem"], match["count"]) for match in shards})
    if len(kinds) > 1 or len(shards) < len(files):
        names = [f"{stem}-*-of-{count}" for stem, count in kinds]
        names += [file.name for file in files if not SHARD.fullmatch(file.name)]
        raise CheckpointError(f"{folder}: mixed shards of several models ({', '.join(names)}); keep those of one")
    present, count = {int(match["number"]) for match in shards}, int(kinds[0][1])
    missing = [f"{kinds[0][0]}-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1) if n not in present]
    if missing:
        raise CheckpointError(f"{folder / missing[0]}: shard missing{_others(missing)}; download "
                              f"it{_compressed(folder, missing[0])}")
    return files


def _merged(folder: Path, files: list[Path]) -> Contents:
    merged: dict[str, Stored] = {}
    where: dict[str, str] = {}
    metadata: dict[str, str] = {}
    for file in files:
        contents = safetensors_contents(file)
        for name, tensor in contents.sets[""].items():
            if name in merged:
                raise CheckpointError(f"{folder}: tensor {name} is in {where[name]} and in {file.name}; mixed shards "
                                      "of several models: keep those of one")
            merged[name], where[name] = tensor, file.name
        metadata.update(contents.metadata)
    count = f"{len(files)} shards" if len(files) > 1 else "one file"
    return Contents(folder, f"folder of {count}", {"": merged}, metadata)


def _others(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _compressed(folder: Path, name: str) -> str:
    return f", or decompress {name}.zst with zstd -d" if (folder / f"{name}.zst").exists() else ""


def _why_empty(folder: Path) -> str:
    packed = sorted(folder.glob("*.safetensors.zst"))
    if packed:
        return f"only compressed shards ({packed[0].name}); decompress them with zstd -d"
    return "no .safetensors file in this folder; give the folder that holds the shards"
