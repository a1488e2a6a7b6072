"""Reading the reference vectors: the folder of `--golden`, or `$FLOWCACHE_GOLDEN`, or `../shared/golden`.

Where there is none, one test per pack is skipped that says what was not checked.
"""

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

DEFAULT = Path(__file__).parents[3] / "shared" / "golden"


def folder() -> Path:
    return Path(os.environ.get("FLOWCACHE_GOLDEN") or DEFAULT)


def packs(pattern: str) -> list[str]:
    """File names in the folder that match, sorted; without one, the pattern itself, so that a test remains to skip."""
    return sorted(path.name for path in folder().glob(pattern)) or [pattern]


def pack(name: str) -> dict[str, Any]:
    """A JSON file of the vectors; skips the test loudly where it is missing."""
    path = folder() / name
    if not path.is_file():
        pytest.skip(f"CONFORMANCE NOT CHECKED: {path} is missing; give the folder with --golden or FLOWCACHE_GOLDEN")
    return json.loads(path.read_text())


def cases_of(name: str) -> list[dict[str, Any]]:
    """The cases of a pack at collection time; none where the folder is missing (`test_folder` says so)."""
    path = folder() / name
    return json.loads(path.read_text())["cases"] if path.is_file() else []


@lru_cache(maxsize=4)
def tensors_of(name: str) -> dict[str, Tensor]:
    return load_file(folder() / name)


def listed(name: str, key: str) -> list[Any]:
    """Another list of a pack than its cases, at collection time."""
    path = folder() / name
    return json.loads(path.read_text())[key] if path.is_file() else []
