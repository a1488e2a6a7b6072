"""Reading the reference vectors: the folder of `--golden`, or `$FLOWCACHE_GOLDEN`, or `../shared/golden`.

Packs are found by the beginning of their names, wherever they lie in the folder. Where there is no folder, small
vectors of our own making stand in (`own.py`), and the end-to-end cases are skipped loudly. A folder of another schema
is refused.
"""

import json
import os
import tempfile
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from tests.conformance import own

DEFAULT = Path(__file__).parents[3] / "shared" / "golden"
E2E = ("name", "weights", "tensors", "model", "config", "compression_events")
LAYOUT: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {   # members of a pack and of each of its cases
    "schedule_diffusion_forcing*": (("cases", "flow_unipc_tables"), (
        "id", "num_latent_frames", "num_steps", "base_frames", "ar_step", "prefix_frames", "block", "expected")),
    "window_plan*": (("cases",), ("id", "num_frames", "base_num_frames", "overlap_history", "block", "expected")),
    "unipc_trace*": (("cases", "file"), ("id", "num_steps", "shift")),
    "reuse_time_modulation*": (("cases", "file", "coefficient_tables"), (
        "id", "kind", "coefficients_name", "coefficients", "threshold", "forced_first_steps", "cutoff", "num_steps",
        "d", "poly", "acc", "computed")),
    "reuse_embedding_distance*": (("cases", "file"), (
        "id", "kind", "num_chunks", "window", "chunk_offset", "num_steps", "threshold", "warmup_steps", "rows",
        "trace")),
    "kv_select_*": (("cases",), ("id", "file", "query", "mix_lambda", "kernel", "budget", "clean_tokens", "strategy",
                                 "tensors")),
    "magi_schedule*": (("cases",), ("id", "num_chunks", "window", "chunk_offset", "num_steps", "shortcut_mode",
                                    "schedule", "expected")),
    "sky_e2e_*": ((*E2E, "windows"), ()),
    "magi_e2e_*": ((*E2E, "steps"), ()),
}


def asked() -> Path:
    """The folder that was asked for, whether or not it exists."""
    return Path(os.environ.get("FLOWCACHE_GOLDEN") or DEFAULT)


@lru_cache(maxsize=1)
def folder() -> Path:
    """The checked folder of the vectors; one of our own making where nothing was asked for and the default is not
    there."""
    if asked().is_dir():
        return checked(asked())
    if os.environ.get("FLOWCACHE_GOLDEN"):
        raise ValueError(f"{asked()}: no such folder; give the reference vectors with --golden DIR or FLOWCACHE_GOLDEN")
    keep = tempfile.TemporaryDirectory(prefix="flowcache-own-vectors-")
    _KEPT.append(keep)
    return checked(own.write(Path(keep.name)))


_KEPT: list[tempfile.TemporaryDirectory] = []   # until the interpreter ends
NOTED: list[str] = []   # what a case was granted, for the summary


def checked(path: Path) -> Path:
    """`path`, if every pack in it is of the layout that this suite reads; else a ValueError of one sentence."""
    known = 0
    for file in sorted(path.rglob("*.json")):
        layout = next((LAYOUT[pattern] for pattern in LAYOUT if fnmatch(file.stem, pattern)), None)
        if layout is None:
            continue
        known += 1
        try:
            data = json.loads(file.read_text())
            missing = [name for name in layout[0] if name not in data]
            cases = data.get("cases", [])
            missing += [f"cases[].{name}" for name in layout[1] if any(name not in case for case in cases)]
            files = {part[name] for part in (data, *cases) for name in ("file", "weights", "tensors")
                     if isinstance(part.get(name), str)}
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{file} is no pack of reference vectors ({error}); give a folder in the layout of "
                             "../shared/golden") from error
        if missing:
            raise ValueError(f"{file} is of another schema: it has no {', '.join(missing)}; give a folder in the "
                             "layout of ../shared/golden")
        absent = sorted(name for name in files if not (file.parent / name).is_file())
        if absent:
            raise ValueError(f"{file} names {', '.join(absent)}, and there is no such file beside it; give a whole "
                             "folder in the layout of ../shared/golden")
    if not known:
        raise ValueError(f"{path} holds no pack of reference vectors: expected files such as "
                         "schedule_diffusion_forcing.json")
    return path


def stands_in() -> bool:
    """Whether the vectors are our own."""
    return bool(_KEPT) and folder() == Path(_KEPT[0].name)


def packs(pattern: str) -> list[str]:
    """Places of the packs in the folder that match; without one, the pattern itself, so that a test remains to
    skip."""
    return sorted(str(path.relative_to(folder())) for path in folder().rglob(pattern)) or [pattern]


def pack(name: str) -> dict[str, Any]:
    """A pack; skips the test loudly where it is missing."""
    path = folder() / name
    if not path.is_file():
        pytest.skip(f"CONFORMANCE NOT CHECKED: no {name} in {asked()}; give the folder of the reference vectors with "
                    "--golden DIR or FLOWCACHE_GOLDEN")
    return json.loads(path.read_text())


def listed(pattern: str, key: str) -> list[dict[str, Any]]:
    """The members of a list in all packs that match, each with the folder of its pack and the pack's tensor file."""
    found = []
    for path in sorted(folder().rglob(pattern)):
        data = json.loads(path.read_text())
        found += [{"file": data.get("file"), **member, "folder": str(path.parent)} for member in data[key]]
    return found


def cases_of(pattern: str) -> list[dict[str, Any]]:
    return listed(pattern, "cases")


@lru_cache(maxsize=8)
def read_tensors(path: Path) -> dict[str, Tensor]:
    return load_file(path)


def tensors_of(case: dict[str, Any], file: str | None = None) -> dict[str, Tensor]:
    """The tensors that belong to a case, or another file beside its pack."""
    return read_tensors(Path(case["folder"]) / (file or case["file"]))


def end_to_end(name: str) -> dict[str, Any]:
    """A pack that is one case."""
    return {**pack(name), "folder": str((folder() / name).parent)}
