from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..contract import POLICIES, Decision, Kind, ReusePolicy, StepInfo


@POLICIES.register("off")
@dataclass(frozen=True)
class Off(ReusePolicy):
    """Computes every step."""

    def decide(self, state: Any, info: StepInfo, signal: Tensor | None) -> Decision:
        return Decision(Kind.COMPUTE, "off")
