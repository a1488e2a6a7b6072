"""What is this file, and what can be done with it? The `inspect` command."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..profiles import load_profile, profile_names
from .checkpoint import AVERAGED, Checkpoint, open_checkpoint
from .lora import looks_like_lora, lora_summary
from .parts import known_part
from .recognition import Recognition, recognise


@dataclass(frozen=True)
class Inspection:
    """family: one of `recognition.FAMILIES`. missing, unexpected: tensor names against the layout of the family;
    container: how the tensors are kept; profile: the one that fits, or ""."""

    file: str
    container: str
    profile: str
    family: str
    variant: str
    parameters: int
    tensors: int
    dtype: str
    missing: list[str]
    unexpected: list[str]
    advice: str

    def to_json(self) -> dict[str, Any]:
        """The fields of the command's last line."""
        return {name: getattr(self, name) for name in ("family", "variant", "parameters", "tensors", "dtype", "missing",
                                                       "unexpected", "advice")}


def inspect_file(path: Path, family: str | None = None, weights: str | None = None) -> Inspection:
    """Reads names and shapes alone. family: in place of the recognised one. Raises CheckpointError for what is no
    readable file."""
    checkpoint = open_checkpoint(path, weights)
    if looks_like_lora(checkpoint.shapes):
        summary = lora_summary(checkpoint)
        found, advice = Recognition(summary.family, summary.text), known_part(checkpoint.shapes)[1]
    else:
        found = recognise(checkpoint, family)
        advice = advice_for(checkpoint, found)
        if found.family == "unknown":
            found = Recognition("unknown", known_part(checkpoint.shapes)[0])
    return Inspection(str(path), checkpoint.container, found.profile, found.family, found.variant,
                      checkpoint.parameters, len(checkpoint.tensors), ", ".join(checkpoint.dtypes) or "none",
                      list(found.missing), list(found.unexpected), advice)


def advice_for(checkpoint: Checkpoint, found: Recognition) -> str:
    """What to do with the file, in one sentence."""
    if found.family == "unknown":
        return known_part(checkpoint.shapes)[1] or ("not a layout that this version reads: give a Wan2.1 text-to-video "
                                                    "or a MAGI-1 transformer")
    if found.family == "wan-unsupported":
        return (f"a relative of Wan2.1 text-to-video ({found.variant}) that no profile here samples; give a plain "
                "text-to-video or causal checkpoint")
    if found.missing or found.wrong:
        return f"damaged or another variant: {found.faults.split(';')[0]}; give a whole file"
    if found.unexpected:
        return f"tensors that the layout does not know ({found.unexpected[0]}); give the plain transformer"
    return _how_to_sample(checkpoint, found) + _choice(checkpoint)


def _how_to_sample(checkpoint: Checkpoint, found: Recognition) -> str:
    if found.family == "demo":
        return "the bundled model: generate uses it when no --model is given"
    if found.family == "wan":
        return ("layout known, causality not: tensors cannot tell a causal model from plain Wan2.1; choose a variant "
                f"with --profile ({', '.join(_profiles('wan-causal'))}, or a skyreels-v2-df one)")
    if found.profile:
        return f"sample it with --profile {found.profile}" + (
            "" if found.certain else ", unless its name misleads")
    if found.family == "magi-1":
        return ("tensors do not tell distilled from base: choose --profile "
                f"{' or '.join(_profiles('magi-1', '24b' if found.config.half_channel else ''))}")
    return f"causal, but which variant cannot be seen: choose --profile {', '.join(_profiles(found.family))}"


def _profiles(family: str, part: str | None = None) -> list[str]:
    names = [name for name in profile_names() if load_profile(name).family == family]
    return names if part is None else [name for name in names if ("24b" in name) == bool(part)]


def _choice(checkpoint: Checkpoint) -> str:
    others = [name for name in checkpoint.sets if name != checkpoint.chosen]
    if not others:
        return ""
    other = "raw" if checkpoint.chosen == AVERAGED else "ema"
    return f"; {checkpoint.chosen} is read, --weights {other} takes {others[0]}"
