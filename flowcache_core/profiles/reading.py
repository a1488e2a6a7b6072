"""Profiles from their JSON files."""

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from .profile import Profile

FOLDER = Path(__file__).parent


def profile_names() -> list[str]:
    """The built-in ones."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load_profile(name: str) -> Profile:
    """A built-in profile by its name, or the one in a file `*.json` of the same form. Raises ValueError."""
    path = Path(name) if name.endswith(".json") else FOLDER / f"{name}.json"
    if not name.endswith(".json") and name not in profile_names():
        raise ValueError(f"unknown profile {name!r}: choose one of {', '.join(profile_names())}, or give a .json file")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error
        raise ValueError(f"{path}: no profile ({reason}); copy one with: profiles NAME --out FILE") from error
    try:
        return _made(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def profile_data(profile: Profile) -> dict[str, Any]:
    """The object that a file of this profile holds."""
    values = {f.name: getattr(profile, f.name) for f in fields(Profile)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _made(data: Any) -> Profile:
    if not isinstance(data, dict):
        raise ValueError("expected one JSON object with the fields of a profile")
    known = {f.name: f for f in fields(Profile)}
    unknown, missing = sorted(set(data) - set(known)), [n for n, f in known.items() if f.default is MISSING
                                                        and n not in data]
    if unknown:
        raise ValueError(f"unknown field {', '.join(unknown)}: a profile has {', '.join(known)}")
    if missing:
        raise ValueError(f"no {', '.join(missing)}: a profile needs them")
    strays = sorted(set(data["sources"]) - set(known)) if isinstance(data.get("sources"), dict) else []
    if strays:
        raise ValueError(f"sources of {', '.join(strays)}: no such field")
    return Profile(**{name: tuple(value) if isinstance(value, list) else value for name, value in data.items()})
