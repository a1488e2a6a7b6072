"""Family data and presets: JSON with provenance, read into frozen values."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..kv import SCORERS, Compression, KVBudget
from ..reuse import POLICIES, PREDICTORS, Predictor, ReusePolicy

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Profile:
    """What a model family needs to be sampled right.

    chunk_frames: latent frames a chunk; latent: height and width of the latent; fps: of the pixels; plan: builder
    name, with its ar_step and commit; context_timestep: told to the network in commit and prefix passes.
    """

    name: str
    title: str
    chunk_frames: int
    latent: tuple[int, int]
    fps: float
    steps: int
    shift: float
    truncate_timesteps: bool
    guidance: float
    solver: str
    plan: str
    ar_step: int
    commit: bool
    noise_rule: str
    context_timestep: float
    source: str


@dataclass(frozen=True)
class Preset:
    """Tested settings for a profile. provenance: the command and figures that chose them, or their source."""

    name: str
    policy: ReusePolicy
    predictor: Predictor
    provenance: dict[str, Any]
    budget: KVBudget = KVBudget()
    compression: Compression | None = None


def _read(path: Path, what: str) -> dict[str, Any]:
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.json"))
        raise ValueError(f"unknown {what} {path.stem!r}: choose one of {', '.join(known)}")
    return json.loads(path.read_text())


def load_profile(name: str) -> Profile:
    """A profile of this folder. Raises ValueError listing the known ones."""
    data = _read(FOLDER / f"{name}.json", "profile")
    return Profile(**{f.name: tuple(data[f.name]) if isinstance(data[f.name], list) else data[f.name]
                      for f in fields(Profile)})


def preset_names(profile: str) -> list[str]:
    return list(_read(FOLDER / "presets" / f"{profile}.json", "profile")["presets"])


def load_preset(profile: str, name: str) -> Preset:
    """A preset of a profile, by name, or the one in a file `*.json` that `tune` wrote. Raises ValueError listing the
    known ones, or where the file is for another profile."""
    if name.endswith(".json"):
        return _from_file(profile, Path(name))
    data = _read(FOLDER / "presets" / f"{profile}.json", "profile")
    if name not in data["presets"]:
        raise ValueError(f"unknown preset {name!r} of profile {profile!r}: choose one of {', '.join(data['presets'])}")
    return _made(data, name)


def _made(data: dict[str, Any], name: str) -> Preset:
    entry = data["presets"][name]
    kv, budget, compression = entry.get("kv"), KVBudget(), None
    if kv is not None:
        budget = KVBudget(kv["chunks"], "chunks")
        compression = Compression(SCORERS.make(kv["scorer"], kv["settings"]), kv["granularity"])
    return Preset(name, POLICIES.make(entry["policy"], entry["settings"]), PREDICTORS.make(entry["predictor"]),
                  {**data["provenance"], **entry.get("provenance", {})}, budget, compression)


def _from_file(profile: str, path: Path) -> Preset:
    try:
        data = json.loads(path.read_text())
        family, (name,) = data["profile"], data["presets"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: no preset file ({error}); make one with tune") from error
    if family != profile:
        raise ValueError(f"{path}: a preset for {family}, this run is of {profile}: thresholds do not carry over")
    return _made(data, name)
