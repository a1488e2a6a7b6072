"""What an adaptive hybrid measures at steps that are computed whole, and what it expects of shortcuts after them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from ..saved import saved
from .contract import BlockRange, Outcome
from .signals import relative_l1

RECENT = 0.5   # weight of the newest measurement in a rate


@dataclass(frozen=True)
class Action:
    """A shortcut. parts: of step, derive, block; cost: share of a whole step with two streams; error: expected relative
    error of the guided velocity."""

    parts: tuple[str, ...]
    cost: float
    error: float
    blocks: BlockRange | None = None

    @property
    def name(self) -> str:
        return " and ".join(f"blocks {self.blocks[0]} to {self.blocks[1] - 1}" if part == "block" else part
                            for part in self.parts)


@saved
@dataclass(frozen=True)
class Rate:
    """what: "step", "derive" or a block range; growth: loss a step."""

    what: str | BlockRange
    growth: float


@saved
@dataclass(frozen=True)
class Measured:
    """A step computed whole. moved: how far the cheap signal moved there; guided: its velocity; rates: of the
    shortcuts; turn, fastest, slowest: how fast the velocity turned, now and at its extremes."""

    step: int
    moved: float
    guided: Tensor
    rates: tuple[Rate, ...] = ()
    turn: float = math.inf
    fastest: float = 0.0
    slowest: float = math.inf

    def calm(self, open_below: float, close_above: float) -> bool:
        """Whether the velocity turns slowly enough for shortcuts. False where a turn could not be measured."""
        return self.turn <= open_below * self.fastest and self.turn <= close_above * self.slowest

    def actions(self, age: int, moved: float) -> Iterator[Action]:
        """What could be done `age` steps later, where the cheap signal has moved by `moved`."""
        growth = {rate.what: rate.growth * age * (moved / self.moved if self.moved else 1.0) for rate in self.rates}
        ranges = {what: error for what, error in growth.items() if isinstance(what, tuple)}
        layers = max((b for _, b in ranges), default=0) + 1   # costs are only compared with one another
        if "step" in growth:
            yield Action(("step",), 0.0, growth["step"])
        for blocks, error in ranges.items():
            yield Action(("block",), 1 - (blocks[1] - blocks[0]) / layers, error, blocks)
        if "derive" in growth:
            yield Action(("derive",), 0.5, growth["derive"])
            for blocks, error in ranges.items():
                cost = 0.5 * (1 - (blocks[1] - blocks[0]) / layers)
                yield Action(("derive", "block"), cost, growth["derive"] + error, blocks)


def measured(before: Measured | None, step: int, moved: float, outcome: Outcome) -> Measured:
    """What a step computed whole tells, after the one `before`."""
    if before is None:
        return Measured(step, moved, outcome.guided)
    distance = step - before.step
    old = {rate.what: rate.growth for rate in before.rates}
    rates = tuple(Rate(what, _smoothed(old.get(what), loss / distance)) for what, loss in outcome.losses.items())
    turn = relative_l1(outcome.guided, before.guided) / distance
    return Measured(step, moved, outcome.guided, rates, turn, max(before.fastest, turn), min(before.slowest, turn))


def _smoothed(old: float | None, new: float) -> float:
    return new if old is None or not math.isfinite(old) else RECENT * new + (1 - RECENT) * old


def middle_ranges(layers: int, head: float, tail: float, sizes: int) -> tuple[BlockRange, ...]:
    """Ranges in the middle of `layers` blocks: all between the first and last shares, and so many sizes in all."""
    first, stop = round(head * layers), layers - round(tail * layers)
    if (first, stop) == (0, layers):
        first = 1   # leaving out all blocks would be the step itself
    ranges: list[BlockRange] = []
    for part in range(1, sizes + 1):
        length = (stop - first) // part
        begin = first + (stop - first - length) // 2
        if length > 0 and (begin, begin + length) not in ranges:
            ranges.append((begin, begin + length))
    return tuple(ranges)
