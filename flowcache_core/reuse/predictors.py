"""What stands in for the network when a step is not computed.

A predictor says what to keep of a computed step and how to make the value of a skipped one. `velocity` answers before
the network is called; `residual` lets embedding and head run with the current time and skips only the blocks.
Values are per lane (chunk, stream, item) without a batch dimension. First-order ones are in `taylor.py`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from ..registry import Registry

Stage = Literal["velocity", "hidden"]


class Span(NamedTuple):
    """Noise before and after a step; sigma_before: before the step in front of it, None for the first step, and where
    nobody can move the latent."""

    sigma: float
    sigma_next: float
    sigma_before: float | None = None


@dataclass(frozen=True)
class Predictor(ABC):
    """stage: where it acts. "velocity": on the output, without any forward; "hidden": on the tokens between the
    first and the last block. extrapolates: whether a skipped step is more than a repetition. corrects: whether a
    computed step shows how far the skipped ones before it went astray."""

    stage: ClassVar[Stage]
    extrapolates: ClassVar[bool] = False
    corrects: ClassVar[bool] = False

    @abstractmethod
    def keep(self, value_in: Tensor | None, value_out: Tensor, span: Span) -> Any:
        """What a computed step leaves behind. hidden: tokens `(N, D)` before and after the blocks; velocity: the latent
        and the velocity, `(C, F, h, w)`. A tensor, or a frozen dataclass of tensors and numbers."""

    def renew(self, kept: Any, value_in: Tensor | None, value_out: Tensor, span: Span) -> Any:
        """What another computed step leaves behind, after `kept`."""
        return self.keep(value_in, value_out, span)

    def correct(self, kept: Any, value_in: Tensor | None, value_out: Tensor, span: Span) -> Any:
        """`kept`, where the computed step's value turns out to be another than it was kept with."""
        return self.keep(value_in, value_out, span)

    def missed(self, old: Any, new: Any, span: Span) -> Tensor | None:
        """By how much the latent is to be moved before a computed step is taken, `(C, F, h, w)`; None for not at all.
        old, new: what was kept before this step, and is now."""
        return None

    def merge(self, mask: Tensor, new: Any, old: Any) -> Any:
        """`new` where `mask` is true, `old` elsewhere; mask: `(N, 1)` or `(1, F, h, w)`."""
        return torch.where(mask, new, old)

    def owned(self, kept: Any) -> Any:
        """`kept` in memory of its own: a view would keep the whole batch of a step alive."""
        return kept.clone()

    def kept_bytes(self, value: int, places: int) -> int:
        """The most bytes that `keep` holds for a lane: value: bytes of the value; places: its tokens or pixels."""
        return value

    @abstractmethod
    def predict(self, kept: Any, value_in: Tensor | None, span: Span) -> Tensor:
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


@PREDICTORS.register("offset")
@dataclass(frozen=True)
class Offset(Residual):
    """Adds to the latent how far the velocity was from it at the last computed step (EasyCache, as released)."""

    stage: ClassVar[Stage] = "velocity"


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
