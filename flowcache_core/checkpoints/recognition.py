"""What family of models a checkpoint belongs to, as far as tensors, container, metadata and name can tell."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from ..backbones.magi_parts import MagiConfig
from ..backbones.wan import WanConfig
from ..profiles import load_profile, profile_names
from .checkpoint import Checkpoint
from .magi_layout import looks_like_magi, magi_config_of, magi_expected
from .stored import CheckpointError
from .wan_layout import SIZES, compared, config_of, expected_shapes, faults, looks_like_wan, unsupported

FAMILIES = ("skyreels-v2-df", "wan-causal", "wan", "wan-unsupported", "magi-1", "demo", "unknown")
LOADABLE = ("skyreels-v2-df", "wan-causal", "wan", "magi-1", "demo")
CAUSAL_SETS = ("generator", "generator_ema")   # what the Self-Forcing kin are published in


@dataclass(frozen=True)
class Recognition:
    """family: one of FAMILIES; variant: in words; config: sizes, where the layout is known; profile: the one that
    fits, "" where none or several do; certain: whether tensors or metadata say so, not a container or a name;
    missing, unexpected, wrong: tensor names against the layout."""

    family: str
    variant: str = ""
    config: WanConfig | MagiConfig | None = None
    profile: str = ""
    certain: bool = True
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()

    @property
    def faults(self) -> str:
        """What does not fit the layout, in words; "" where all does."""
        return faults(list(self.missing), list(self.unexpected), list(self.wrong))


def recognise(checkpoint: Checkpoint, family: str | None = None) -> Recognition:
    """family: the user's word where it is given. Raises CheckpointError where that cannot be."""
    if family is not None and family not in LOADABLE:
        raise CheckpointError(f"family {family!r}: choose one of {', '.join(LOADABLE)}")
    magi, wan = looks_like_magi(checkpoint.shapes), looks_like_wan(checkpoint.shapes)
    if family is not None and not (magi if family == "magi-1" else wan):
        layout = "MAGI-1" if magi else "Wan2.1" if wan else "neither Wan2.1 nor MAGI-1"
        raise CheckpointError(f"{checkpoint.path}: family {family} for a file whose layout is {layout}; leave the "
                              "family out, or give another file")
    if magi:
        return _magi(checkpoint)
    return _wan(checkpoint, family) if wan else Recognition("unknown")


def _magi(checkpoint: Checkpoint) -> Recognition:
    config = magi_config_of(checkpoint.shapes)
    differing = compared(checkpoint.shapes, magi_expected(config))
    name = "24B" if config.half_channel else "4.5B"
    size = f"{name} layout, width {config.hidden}, {config.layers} layers"
    distilled = any("distill" in part.lower() for part in checkpoint.path.parts[-4:])
    hinted = hinted_profile(checkpoint.path, "magi-1")
    return Recognition("magi-1", size + (", distilled by its name" if distilled else ""), config, hinted, True,
                       *map(tuple, differing))


def _wan(checkpoint: Checkpoint, family: str | None) -> Recognition:
    relative = unsupported(checkpoint.shapes)
    if relative:
        return Recognition("wan-unsupported", relative)
    config = config_of(checkpoint.shapes)
    differing = tuple(map(tuple, compared(checkpoint.shapes, expected_shapes(config))))
    size = SIZES.get((config.dim, config.layers))
    words = [f"{size + ', ' if size else ''}width {config.dim}, {config.layers} layers"]
    guessed, profile, certain = _wan_family(checkpoint, config)
    if guessed == "wan-causal" and profile:
        words.append(f"{profile} by its name")
    if checkpoint.chosen:
        words.append(checkpoint.chosen)
    if family is not None and family != guessed:
        profile, certain = hinted_profile(checkpoint.path, family), False
    return Recognition(family or guessed, "; ".join(words), config, profile, certain, *differing)


def _wan_family(checkpoint: Checkpoint, config: WanConfig) -> tuple[str, str, bool]:
    """Family, profile by the name, and whether the file itself says so."""
    if checkpoint.metadata.get("family") == "demo":
        return "demo", "demo", True
    if config.fps:
        return "skyreels-v2-df", hinted_profile(checkpoint.path, "skyreels-v2-df") or "skyreels-v2-df", True
    hinted = hinted_profile(checkpoint.path, "wan-causal")
    if causal_metadata(checkpoint.metadata):
        return "wan-causal", hinted, True
    if set(checkpoint.sets) & set(CAUSAL_SETS) or hinted:
        return "wan-causal", hinted, False
    skyreels = hinted_profile(checkpoint.path, "skyreels-v2-df")
    return ("skyreels-v2-df", skyreels, False) if skyreels else ("wan", "", True)


def causal_metadata(metadata: dict[str, str]) -> bool:
    """Whether a header says `{"transformer": {"causal_ar": true}}` under `config`, as ComfyUI reads it."""
    try:
        return json.loads(metadata.get("config", "{}"))["transformer"]["causal_ar"] is True
    except (ValueError, KeyError, TypeError):
        return False


def hinted_profile(path: Path, family: str) -> str:
    """The profile of a family whose file names fit best; "" where none does. A name with a slash is looked for in the
    last folders too."""
    name, folders = _plain(path.name), _plain("/".join(path.parts[-4:]) + "/")
    found = [(len(part), profile.name) for profile in map(load_profile, profile_names()) if profile.family == family
             for part in map(_plain, profile.files) if part in (folders if "/" in part else name)]
    return max(found)[1] if found else ""


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]+", "-", name.lower())
