"""From a checkpoint to a network in plain torch: built without memory of its own, filled tensor by tensor."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..backbones.magi import MagiDistill, MagiTransformer
from ..backbones.magi_parts import MagiConfig
from ..backbones.wan import WanTransformer
from ..profiles import Profile
from ..profiles.schedule import SHORTCUT
from .checkpoint import Checkpoint, read
from .lora import LoraPair, merged, open_lora
from .magi_layout import stays_fp32
from .parts import known_part
from .recognition import LOADABLE, Recognition, recognise
from .stored import CheckpointError, Stored

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
ACCEPTS = {"magi-1": ("magi-1",), "skyreels-v2-df": ("skyreels-v2-df", "wan"), "wan-causal": ("wan-causal", "wan"),
           "wan": ("wan", "wan-causal", "skyreels-v2-df"), "demo": ("demo", "wan", "skyreels-v2-df")}
"""Recognised families that a profile of a family samples; plain Wan2.1 tensors may be any of its kin."""


def check_profile(checkpoint: Checkpoint, found: Recognition, profile: Profile) -> None:
    """Raises CheckpointError where the profile is for another kind of file."""
    if found.family not in LOADABLE:
        part, advice = known_part(checkpoint.shapes)
        if part:
            raise CheckpointError(f"{checkpoint.path}: {part}, {advice}")
        what = f"{found.family} ({found.variant}), which cannot be sampled here" if found.variant else \
            "the tensors are not those of a Wan2.1 model or of MAGI-1"
        raise CheckpointError(f"{checkpoint.path}: {what}; give a Wan2.1 text-to-video, SkyReels-V2 DF, "
                              "Self-Forcing or MAGI-1 checkpoint")
    if found.faults:
        raise CheckpointError(f"{checkpoint.path}: {found.faults} (against the layout of {found.variant}); give a "
                              "whole file of that layout")
    if found.family not in ACCEPTS[profile.family]:
        raise CheckpointError(f"{checkpoint.path}: recognised as {found.family}, the profile {profile.name} is for "
                              f"{profile.family}; choose another --profile, or overrule with --family {profile.family}")


def load_network(checkpoint: Checkpoint, profile: Profile, found: Recognition | None = None,
                 steps: int | None = None, dtype: torch.dtype | None = None, device: torch.device | str = "cpu",
                 lora: Path | str | None = None, lora_strength: float = 1.0) -> WanTransformer | MagiTransformer:
    """A network in evaluation mode.

    found: `recognise(checkpoint)` where it is there already; steps: of the run (distilled MAGI-1 is told them);
    dtype: None keeps that of the file (8-bit weights become BF16). At most one tensor is held besides the network,
    and with the file's dtype on the CPU the weights stay mapped to the file. Raises CheckpointError.
    """
    found = recognise(checkpoint) if found is None else found
    if not math.isfinite(lora_strength):
        raise CheckpointError(f"LoRA strength {lora_strength}: expected a number, 1 is as trained")
    check_profile(checkpoint, found, profile)
    pairs = {} if lora is None else open_lora(lora, checkpoint.shapes)
    dtype = dtype or own_dtype(checkpoint.tensors)
    magi = isinstance(found.config, MagiConfig)
    with torch.device("meta"):
        if magi:
            distill = MagiDistill(steps or profile.steps, SHORTCUT) if profile.distilled else None
            model: nn.Module = MagiTransformer(found.config, distill)
        else:
            model = WanTransformer(found.config, profile.fps)

    def target(name: str) -> torch.dtype:
        return torch.float32 if magi and stays_fp32(name) else dtype

    fill(model, {name: (part, pairs.get(name), target(name)) for name, part in checkpoint.tensors.items()}, device,
         lora_strength)
    return model.eval().requires_grad_(False)


def fill(model: nn.Module, parts: Mapping[str, tuple[Stored, LoraPair | None, torch.dtype]],
         device: torch.device | str, strength: float = 1.0) -> None:
    """Puts every tensor in its place as soon as it is read."""
    for name, (part, pair, dtype) in parts.items():
        value = merged(read(part), pair, strength).to(device=device, dtype=dtype)
        _assign(model, name, value)


def _assign(model: nn.Module, name: str, value: Tensor) -> None:
    path, _, last = name.rpartition(".")
    owner = model.get_submodule(path)
    if last in owner._buffers:
        owner._buffers[last] = value
    else:
        setattr(owner, last, nn.Parameter(value, requires_grad=False))


def own_dtype(tensors: Mapping[str, Stored]) -> torch.dtype:
    """The dtype that most numbers of a file have; BF16 where that is one of 8 bits or anything else."""
    counts: dict[str, int] = {}
    for tensor in tensors.values():
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.numbers
    return DTYPES.get(max(counts, key=counts.get), torch.bfloat16)
