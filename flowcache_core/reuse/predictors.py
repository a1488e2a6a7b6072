"""What stands in for the network when a step is not computed.

A predictor says what to keep of a computed step and how to make the value of a skipped one. `velocity` answers before
the network is called; `residual` lets embedding and head run with the current time and skips only the blocks.
Values are per lane (chunk, stream, item) without a batch dimension.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor

from ..registry import Registry

Stage = Literal["velocity", "hidden"]


class Span(NamedTuple):
    """Noise before and after a step."""

    sigma: float
    sigma_next: float


@dataclass(frozen=True)
class Predictor(ABC):
    """stage: where it acts. "velocity": on the output, without any forward; "hidden": on the tokens between the
    first and the last block."""

    stage: ClassVar[Stage]

    @abstractmethod
    def keep(self, value_in: Tensor | None, value_out: Tensor, span: Span) -> Tensor:
        """What a computed step leaves behind. hidden: tokens `(N, D)` before and after the blocks; velocity: None
        and `(C, F, h, w)`."""

    @abstractmethod
    def predict(self, kept: Tensor, value_in: Tensor | None, span: Span) -> Tensor:
        """The value of a skipped step."""


PREDICTORS: Registry[Predictor] = Registry("predictor")


@PREDICTORS.register("velocity")
@dataclass(frozen=True)
class Velocity(Predictor):
    """Repeats the velocity of the last computed step; the solver integrates it over the true step."""

    stage: ClassVar[Stage] = "velocity"

    def keep(self, value_in: Tensor | None, value_out: Tensor, span: Span) -> Tensor:
        return value_out

    def predict(self, kept: Tensor, value_in: Tensor | None, span: Span) -> Tensor:
        return kept


@PREDICTORS.register("residual")
@dataclass(frozen=True)
class Residual(Predictor):
    """Adds what the block stack added at the last computed step (FlowCache on SkyReels-V2; TeaCache)."""

    stage: ClassVar[Stage] = "hidden"

    def keep(self, value_in: Tensor | None, value_out: Tensor, span: Span) -> Tensor:
        return value_out - value_in

    def predict(self, kept: Tensor, value_in: Tensor | None, span: Span) -> Tensor:
        return value_in + kept


@PREDICTORS.register("increment")
@dataclass(frozen=True)
class Increment(Predictor):
    """Moves the latent as far as the last computed step did, whatever the length of this one (FlowCache's release on
    MAGI-1): as steps grow, the chunk falls behind its time. For comparison; `velocity` does not."""

    stage: ClassVar[Stage] = "velocity"

    def keep(self, value_in: Tensor | None, value_out: Tensor, span: Span) -> Tensor:
        return value_out * (span.sigma_next - span.sigma)

    def predict(self, kept: Tensor, value_in: Tensor | None, span: Span) -> Tensor:
        return kept / (span.sigma_next - span.sigma)
