"""MotionCache (arXiv 2605.01725): FlowCache with an accumulator for every token, weighted by how much moves there."""

import math
from dataclasses import dataclass, replace
from math import isqrt
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...registry import knob
from ...saved import saved
from ..contract import NOT_FINITE, POLICIES, Decision, Kind, Outcome, StepInfo
from ..signals import relative_l1
from .flowcache import FlowCache


@saved
@dataclass(frozen=True)
class Moving:
    """before: the signal of the last step; sums: weighted distance since each token was computed; weights: of each
    token; both `(f, n)`, fp64, on the CPU; events: steps after the warm-up in which something was computed; skips:
    since the last."""

    before: Tensor | None = None
    sums: Tensor | None = None
    weights: Tensor | None = None
    events: int = 0
    skips: int = 0


@POLICIES.register("motioncache")
@dataclass(frozen=True)
class MotionCache(FlowCache):
    """Every token adds up how far its chunk's signal moved, weighted by how far its latent differs from the frame
    before, and is computed when its sum reaches the threshold; the network then runs on these tokens alone. With
    `still_weight` 1 it is FlowCache."""

    learns: ClassVar[bool] = True

    still_weight: float = knob(0.6, 0, 1, "weight of the stillest token; the fastest has 1, and 1 for all is FlowCache")
    coarse_events: int = knob(6, 0, 1000, "weights are 1 until so many steps after the warm-up were computed")
    consistent: bool = knob(True, None, None, "compute a place in all frames of the chunk or in none, by majority")
    min_share: float = knob(0.4, 0, 1, "compute nothing until at least this share of the tokens is due")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.conformance:
            raise ValueError("conformance of motioncache: only flowcache reproduces its authors' release; leave it off")

    def state_bytes(self, signal: int, latent: int) -> int:
        return signal + latent   # two fp64 numbers a token, of at least 4 fp32 numbers of the latent

    def new_state(self) -> Moving:
        return Moving()

    def _sums(self, state: Moving, change: float) -> Tensor:
        weights = state.weights.cpu()   # a resumed run has its states on the model's device
        weights = weights if state.events >= self.coarse_events else torch.ones_like(weights)
        return change * weights if state.sums is None else state.sums.cpu() + change * weights

    def _due(self, sums: Tensor, limit: float) -> Tensor:
        """Which tokens are computed, `(f, n)`."""
        due = sums >= limit
        if self.consistent:
            due = (due.double().mean(0) > 0.5).expand_as(due)
        return due if due.double().mean() >= self.min_share else torch.zeros_like(due)

    def decide(self, state: Moving, info: StepInfo, signal: Tensor | None) -> Decision:
        limit = self.limit(info)
        forced = self._forced(state, info) or ("warm-up" if state.weights is None else None)
        if forced or signal is None:
            return Decision(Kind.COMPUTE, forced or "nothing to look at", limit=limit)
        distance = self._distance(state, signal)
        if not math.isfinite(distance):
            return Decision(Kind.COMPUTE, NOT_FINITE, distance, limit, distance)
        sums = self._sums(state, self._change(distance))
        due, most = self._due(sums, limit), float(sums.max())
        if bool(due.all()):
            return Decision(Kind.COMPUTE, "threshold reached", most, limit, distance)
        if bool(due.any()):
            tokens = tuple(due.flatten().nonzero().flatten().tolist())
            return Decision(Kind.PARTIAL, "threshold reached by some tokens", most, limit, distance, tokens)
        if self.max_consecutive_skips and state.skips >= self.max_consecutive_skips:
            return Decision(Kind.COMPUTE, "longest run of skips", most, limit, distance)
        reason = "below threshold" if most < limit else "too few tokens are due"
        return Decision(Kind.REUSE, reason, most, limit, distance)

    def _distance(self, state: Moving, signal: Tensor) -> float:
        return relative_l1(signal, state.before, 1e-8 if self.distance_signal == "patch_embedding" else 0.0)

    def observe(self, state: Moving, info: StepInfo, signal: Tensor | None, decision: Decision) -> Moving:
        warm = info.step >= self.warmup_steps and state.weights is not None
        if decision.computes:
            return replace(state, before=signal, sums=None, events=state.events + warm, skips=0)
        sums = self._sums(state, self._change(self._distance(state, signal)))
        if decision.kind is Kind.PARTIAL:
            sums = sums.flatten().index_fill(0, torch.tensor(decision.tokens), 0.0).view_as(sums)
            return replace(state, before=signal, sums=sums, events=state.events + 1, skips=0)
        return replace(state, before=signal, sums=sums, skips=state.skips + 1)

    def learn(self, state: Moving, info: StepInfo, decision: Decision, outcome: Outcome) -> Moving:
        patch = isqrt(outcome.latent[0].numel() // info.tokens)
        return replace(state, weights=motion_weights(outcome.latent, outcome.before, patch, self.still_weight))


def motion_weights(latent: Tensor, before: Tensor | None, patch: int, still: float) -> Tensor:
    """`(f, n)` in `still .. 1`, fp64, on the CPU: how far each token of `latent (C, f, h, w)` is from the frame before.

    Scaled from the least to the most of each frame; 1 where a frame moves evenly. before: the frame `(C, h, w)` in
    front of the chunk; without one the first frame takes the weights of the second, or 1 where it is alone.
    """
    frames = latent if before is None else torch.cat([before[:, None], latent], dim=1)
    moved = (frames[:, 1:] - frames[:, :-1]).float().abs().mean(0)
    if before is None:
        moved = torch.cat([moved[:1], moved]) if len(moved) else torch.zeros_like(latent[0])
    places = F.avg_pool2d(moved[:, None], patch).flatten(1).cpu().double()
    low, high = places.amin(1, keepdim=True), places.amax(1, keepdim=True)
    scaled = torch.where(high > low, (places - low) / (high - low).clamp_min(torch.finfo(torch.float64).tiny), 1.0)
    return still + (1 - still) * scaled
