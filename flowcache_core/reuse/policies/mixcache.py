"""An adaptive hybrid after MixCache (arXiv 2508.12691): the whole step, the other stream or a range of blocks is left
out, whichever its measured loss allows. The paper names the parts; metric, thresholds and trigger are our own."""

import math
import re
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from ...per_chunk import PerChunk
from ...registry import knob
from ...saved import saved
from ..contract import NOT_FINITE, POLICIES, BlockRange, Decision, Kind, Outcome, SignalKind, StepInfo
from ..hybrid import Action, Measured, measured, middle_ranges
from ..signals import relative_l1
from ..thresholds import ThresholdPolicy, threshold_knob

SIGNALS = ("patch_embedding", "time_modulation", "latent")
MODES = ("max_saving", "min_loss")
GRANULARITIES = ("step", "derive", "block")


@saved
@dataclass(frozen=True)
class Mixed:
    """before: the signal of the last step; moved: how far it moved there; full: the last step computed whole, with its
    measurements; skips: steps since; last: what was done last; total: expected error since `full`."""

    before: Tensor | None = None
    moved: float = 0.0
    full: Measured | None = None
    skips: int = 0
    last: str = "full"
    total: float = 0.0


@POLICIES.register("mixcache")
@dataclass(frozen=True)
class MixCache(ThresholdPolicy):
    """At every step computed whole it measures what each shortcut would have cost: reusing the step, deriving the other
    streams from the first, leaving out a range of blocks. Later steps take the cheapest shortcut (or the one with the
    least loss) whose expected error, added up, stays below the threshold."""

    DISABLED: ClassVar[dict[str, Any]] = {"threshold": 0.0}
    derives: ClassVar[bool] = True
    learns: ClassVar[bool] = True
    measures: ClassVar[bool] = True

    threshold: PerChunk | float | str = threshold_knob(0.1, "expected relative error of the guided velocity to let "
                                                       "pass before a step is computed whole")
    mode: str = knob("max_saving", None, None, "of the shortcuts that stay below the threshold: the cheapest "
                     "(max_saving) or the one with the least loss (min_loss)")
    granularities: str = knob("step, derive, block", None, None, "which shortcuts are taken: step, derive, block")
    distance_signal: SignalKind = knob("patch_embedding", None, None, "the cheap signal by which an error measured "
                                       "before is carried on: patch_embedding, time_modulation or latent")
    warmup_steps: int = knob(5, 1, 1000, "first steps of every chunk that are always computed whole")
    last_steps: int = knob(1, 0, 1000, "last steps of every chunk that are always computed whole")
    max_consecutive_skips: int = knob(3, 1, 1000, "compute whole after this many shortcuts in a row")
    open_below: float = knob(0.5, 0, 1, "shortcuts begin when the velocity turns at this share of its fastest turn")
    close_above: float = knob(4.0, 1, 1000, "and pause when it turns this many times faster than at its slowest")
    head_share: float = knob(0.15, 0, 1, "share of the blocks, from the first, that are never left out")
    tail_share: float = knob(0.15, 0, 1, "share of the blocks, up to the last, that are never left out")
    block_sizes: int = knob(1, 1, 3, "how many ranges of blocks are tried: the whole middle, its half, its third")
    low_growth: float = knob(1.0, 0, 10, "a derived difference's low frequencies grow by this factor a step")
    high_growth: float = knob(1.0, 0, 10, "and its high frequencies by this one (FasterCache: 1.1 for one of them)")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, known in (("mode", [self.mode], MODES), ("distance_signal", [self.distance_signal], SIGNALS),
                                   ("granularities", self._wanted, GRANULARITIES)):
            unknown = [v for v in value if v not in known]
            if unknown or not value:
                raise ValueError(f"{name} {', '.join(unknown)!r}: choose from {', '.join(known)}")
        if self.head_share + self.tail_share > 1:
            raise ValueError(f"head_share {self.head_share} and tail_share {self.tail_share}: together at most 1")

    @property
    def _wanted(self) -> list[str]:
        return [word for word in re.split(r"[,+\s]+", self.granularities) if word]

    @property
    def signal(self) -> SignalKind:
        return self.distance_signal

    def block_ranges(self, layers: int) -> tuple[BlockRange, ...]:
        if "block" not in self._wanted:
            return ()
        return middle_ranges(layers, self.head_share, self.tail_share, self.block_sizes)

    def state_bytes(self, signal: int, latent: int) -> int:
        return signal + latent

    def new_state(self) -> Mixed:
        return Mixed()

    def _forced(self, state: Mixed, info: StepInfo) -> str | None:
        if info.step < self.warmup_steps or state.before is None or state.full is None or not state.full.rates:
            return "warm-up"
        if info.step >= info.steps - self.last_steps:
            return "last steps"
        if self.limit(info) == 0:
            return "off"
        if info.context_changed:
            return "a chunk that is seen entered or finished"
        if state.skips >= self.max_consecutive_skips:
            return "longest run of skips"
        return None if state.full.calm(self.open_below, self.close_above) else "the velocity turns fast"

    def _actions(self, state: Mixed, info: StepInfo, moved: float) -> list[Action]:
        """The shortcuts that the boundaries allow, with their expected errors."""
        age = info.step - state.full.step
        found = [a for a in state.full.actions(age, moved) if set(a.parts) <= set(self._wanted)]
        if info.guidance <= 1 or info.step >= info.steps - 2:
            found = [a for a in found if "derive" not in a.parts]   # the keys that later chunks see must be fresh
        if state.last == "step" and age > 1:
            found = [a for a in found if a.parts == ("step",)]   # fresh and old values would be mixed
        return found

    def _choice(self, state: Mixed, info: StepInfo, moved: float) -> Action | None:
        allowed = [a for a in self._actions(state, info, moved) if state.total + a.error < self.limit(info)]
        if self.mode == "min_loss":
            return min(allowed, key=lambda a: (a.error, a.cost), default=None)
        return min(allowed, key=lambda a: (a.cost, a.error), default=None)

    def decide(self, state: Mixed, info: StepInfo, signal: Tensor | None) -> Decision:
        forced = self._forced(state, info)
        if forced:
            return Decision(Kind.COMPUTE, forced, limit=self.limit(info))
        moved = relative_l1(signal, state.before)
        if not math.isfinite(moved):
            return Decision(Kind.COMPUTE, NOT_FINITE, state.total, self.limit(info), moved)
        action = self._choice(state, info, moved)
        if action is None:
            possible = bool(self._actions(state, info, moved))
            reason = "threshold reached" if possible else "no shortcut is allowed here"
            return Decision(Kind.COMPUTE, reason, state.total, self.limit(info), moved)
        told = {"value": state.total + action.error, "limit": self.limit(info), "distance": moved}
        reason = f"shortcut: {action.name}"
        if action.parts == ("step",):
            return Decision(Kind.REUSE, reason, **told)
        if "derive" in action.parts and info.source is not None:
            age = info.step - state.full.step
            return Decision(Kind.DERIVE, reason, **told, source_stream=info.source,
                            factors=(self.low_growth**age, self.high_growth**age))
        if action.blocks is not None:
            return Decision(Kind.PARTIAL, reason, **told, blocks=action.blocks)
        return Decision(Kind.COMPUTE, reason, **told, records=False)

    def observe(self, state: Mixed, info: StepInfo, signal: Tensor | None, decision: Decision) -> Mixed:
        moved = 0.0 if state.before is None else relative_l1(signal, state.before)
        last = "step" if decision.kind is Kind.REUSE else "other"
        total = state.total if decision.value is None else decision.value
        return replace(state, before=signal, moved=moved, skips=state.skips + 1, last=last, total=total)

    def learn(self, state: Mixed, info: StepInfo, decision: Decision, outcome: Outcome) -> Mixed:
        if not outcome.whole:
            return state
        full = measured(state.full, info.step, state.moved, outcome)
        return replace(state, full=full, skips=0, last="full", total=0.0)
