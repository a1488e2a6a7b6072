from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ...registry import knob
from ..contract import POLICIES, Decision, Kind, ReusePolicy, StepInfo


@POLICIES.register("every_nth")
@dataclass(frozen=True)
class EveryNth(ReusePolicy):
    """Computes every n-th step of every chunk, whatever happens: the plain schedule that a policy has to beat."""

    DISABLED: ClassVar[dict[str, Any]] = {"interval": 1}

    interval: int = knob(2, 1, 100, "compute one of this many steps; 1 computes all")
    warmup_steps: int = knob(2, 1, 1000, "first steps of every chunk that are always computed")
    last_steps: int = knob(1, 0, 1000, "last steps of every chunk that are always computed")

    def decide(self, state: Any, info: StepInfo, signal: Tensor | None) -> Decision:
        if info.step < self.warmup_steps:
            return Decision(Kind.COMPUTE, "warm-up")
        if info.step >= info.steps - self.last_steps:
            return Decision(Kind.COMPUTE, "last steps")
        due = (info.step - self.warmup_steps) % self.interval == self.interval - 1 or self.interval == 1
        return Decision(Kind.COMPUTE if due else Kind.REUSE, "interval")
