"""Policies with a threshold that may differ by chunk."""

from typing import Any

from ..per_chunk import parse_per_chunk
from ..registry import knob
from .contract import ReusePolicy, StepInfo

HIGHEST = 100


def threshold_knob(default: float, doc: str) -> Any:
    """The field `threshold` of such a policy; type it `PerChunk | float | str`."""
    return knob(default, 0, HIGHEST, f"{doc}; a number, or per chunk as in '0:0.05, 1+:0.1' or '0.05->0.15'; 0 is off")


class ThresholdPolicy(ReusePolicy):
    """Parses and checks the subclass's field `threshold`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        threshold = parse_per_chunk(self.threshold)
        low, high = threshold.bounds()
        if not self._any_threshold and not 0 <= low <= high <= HIGHEST:
            raise ValueError(f"threshold {threshold}: expected values from 0 (off) to {HIGHEST}")
        object.__setattr__(self, "threshold", threshold)

    @property
    def _any_threshold(self) -> bool:
        """Whether values outside of the range are taken."""
        return False

    def check(self, chunks: int) -> None:
        self.threshold.values(chunks)

    def limit(self, info: StepInfo) -> float:
        """The threshold of the step's chunk."""
        return self.threshold.at(info.chunk, info.chunks)
