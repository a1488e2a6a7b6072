"""Tested settings of policy and budget for a profile: `off`, `quality`, `balanced`, `fast`, and what papers used."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..kv import MERGERS, SCORERS, Compression, KVBudget
from ..reuse import POLICIES, PREDICTORS, Predictor, ReusePolicy
from .profile import Profile
from .reading import FOLDER, load_profile


@dataclass(frozen=True)
class Preset:
    """Settings for a profile. provenance: the command and figures that chose them, or their source; note: what a user
    should know of them, "" where there is nothing; released: whether plan and solver are to be carried out as the
    authors' release does, faults included."""

    name: str
    policy: ReusePolicy
    predictor: Predictor
    provenance: dict[str, Any]
    budget: KVBudget = KVBudget()
    compression: Compression | None = None
    note: str = ""
    released: bool = False


def _data(profile: Profile) -> dict[str, Any]:
    path = FOLDER / "presets" / f"{profile.presets}.json"
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.json"))
        raise ValueError(f"profile {profile.name!r}: presets {profile.presets!r}: choose one of {', '.join(known)}")
    return json.loads(path.read_text(encoding="utf-8"))


def _profile(profile: Profile | str) -> Profile:
    return load_profile(profile) if isinstance(profile, str) else profile


def preset_names(profile: Profile | str) -> list[str]:
    return list(_data(_profile(profile))["presets"])


def load_preset(profile: Profile | str, name: str) -> Preset:
    """A preset of a profile, by name, or the one in a file `*.json` that `tune` wrote. Raises ValueError listing the
    known ones, or where the file is for another profile."""
    profile = _profile(profile)
    if name.endswith(".json"):
        return _from_file(profile, Path(name))
    data = _data(profile)
    if name not in data["presets"]:
        raise ValueError(f"unknown preset {name!r} of profile {profile.name!r}: choose one of "
                         f"{', '.join(data['presets'])}")
    return _made(data, name, profile)


def _made(data: dict[str, Any], name: str, profile: Profile) -> Preset:
    entry = data["presets"][name]
    budget, compression = _memory(entry.get("kv"), profile)
    return Preset(name, POLICIES.make(entry["policy"], entry["settings"]),
                  PREDICTORS.make(entry["predictor"], entry.get("predictor_settings")),
                  {**data["provenance"], **entry.get("provenance", {})}, budget, compression,
                  entry.get("note", data.get("note", "")), entry.get("released", False))


def _memory(kv: dict[str, Any] | None, profile: Profile) -> tuple[KVBudget, Compression | None]:
    """`{"chunks" or "frames", "sink_frames", "scorer", "settings", "granularity"}`, and for merging `"merger"` and
    `"merger_settings"`; frames count in whole chunks. `{"released": {"finished_chunks" or "cached_chunks"}, "scorer",
    "settings", "granularity"}` is folded when the authors' release folds, not by a budget."""
    if kv is None:
        return KVBudget(), None
    if "released" in kv:
        return KVBudget(), Compression(SCORERS.make(kv["scorer"], kv["settings"]), kv["granularity"],
                                       released_order=True, **kv["released"])
    chunks = kv["chunks"] if "chunks" in kv else max(2, -(-kv["frames"] // profile.chunk_frames))
    sink = -(-kv.get("sink_frames", 0) // profile.chunk_frames)
    scorer = kv.get("scorer")
    merger = MERGERS.make(kv["merger"], kv.get("merger_settings")) if "merger" in kv else None
    if scorer is None:
        return KVBudget(chunks, "chunks", sink), None
    compression = Compression(SCORERS.make(scorer, kv["settings"]), kv["granularity"], merger=merger)
    return KVBudget(chunks, "chunks", sink), compression


def _from_file(profile: Profile, path: Path) -> Preset:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        family, (name,) = data["profile"], data["presets"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: no preset file ({error}); make one with tune") from error
    if family != profile.name:
        raise ValueError(f"{path}: a preset for {family}, this run is of {profile.name}: thresholds do not carry over")
    return _made(data, name, profile)
