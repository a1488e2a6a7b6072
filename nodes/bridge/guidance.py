"""Whose velocity counts: in a host, the guider decides. It combines the streams, with every node a user has put there.

A call of the guider gives the clean estimate of a chunk, from which the solver steps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.samplers
from torch import Tensor

from ...flowcache_core.guidance import COND, UNCOND, Guidance

ROLES = {"positive": "cond", "negative": "uncond"}
Conds = Mapping[str, Sequence[dict[str, Any]]]


def role(kind: str, number: int) -> str:
    return f"{ROLES.get(kind, kind)}#{number}"


def in_order(conds: Conds) -> Conds:
    """Positive first, then negative, then whatever else a guider has."""
    first = [kind for kind in ROLES if kind in conds]
    return {kind: conds[kind] or [] for kind in [*first, *(kind for kind in conds if kind not in ROLES)]}


def roles(conds: Conds) -> dict[Any, str]:
    """The stream of every conditioning, by the host's id; `cond#0` comes first."""
    return {cond["uuid"]: role(kind, n) for kind, group in in_order(conds).items() for n, cond in enumerate(group)}


def needs_negative(guider: Any, options: dict[str, Any]) -> bool:
    """Whether the guider runs the negative conditioning: a plain one leaves it out where its scale is 1."""
    plain = type(guider).predict_noise is comfy.samplers.CFGGuider.predict_noise
    return not (plain and math.isclose(guider.cfg, 1.0) and not options.get("disable_cfg1_optimization", False))


@dataclass(frozen=True)
class HostGuidance(Guidance):
    """names: the streams that the guider runs, cond first; scale: its guidance. What it really makes of them comes with
    every call; `combine` is plain classifier-free guidance, for policies that weigh errors."""

    names: tuple[str, ...]
    scale: float = 1.0

    @property
    def streams(self) -> tuple[str, ...]:
        return self.names

    @property
    def strength(self) -> float:
        return self.scale

    def combine(self, velocities: Mapping[str, Tensor], timestep: float) -> Tensor:
        cond = velocities[COND]
        return velocities[UNCOND] + self.scale * (cond - velocities[UNCOND]) if UNCOND in velocities else cond
