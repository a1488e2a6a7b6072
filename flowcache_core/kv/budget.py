"""How many tokens may live in the KV cache, checked against a plan before anything is sampled.

A budget counts every resident token of one layer and stream: pinned (sink, recent), in flight, and the chunk that
lands. MB and GB count keys and values over all layers, streams and batch items, and are rounded down to tokens.
"""

import math
from dataclasses import dataclass
from typing import Literal

from ..plan.chunk_plan import ChunkPlan, Pass

Unit = Literal["tokens", "chunks", "MB", "GB"]
UNIT_BYTES = {"MB": 10**6, "GB": 10**9}


@dataclass(frozen=True)
class KVShape:
    """What a token costs: keys and values of `heads * head_dim` numbers in `layers` layers of `streams` streams."""

    layers: int
    streams: int
    items: int
    heads: int
    head_dim: int
    bytes_per_number: int

    @property
    def bytes_per_token(self) -> int:
        return 2 * self.layers * self.streams * self.items * self.heads * self.head_dim * self.bytes_per_number


@dataclass(frozen=True)
class KVBudget:
    """At most `amount` (None: no limit). Finished chunks give way oldest first, but for the first `sink_chunks` and
    the last `recent_chunks`."""

    amount: float | None = None
    unit: Unit = "chunks"
    sink_chunks: int = 0
    recent_chunks: int = 0

    def __post_init__(self) -> None:
        if self.unit not in ("tokens", "chunks", *UNIT_BYTES):
            raise ValueError(f"budget unit {self.unit!r}: choose tokens, chunks, MB or GB")
        if self.amount is not None and not 0 < self.amount < math.inf:
            raise ValueError(f"KV budget of {self.amount} {self.unit}: expected more than 0, or none for no limit")
        if self.sink_chunks < 0 or self.recent_chunks < 0:
            raise ValueError(f"{self.sink_chunks} sink and {self.recent_chunks} recent chunks: expected 0 or more")

    def tokens(self, chunk_tokens: int, shape: KVShape) -> int | None:
        """The limit in tokens per layer and stream."""
        if self.amount is None:
            return None
        if self.unit == "tokens":
            return int(self.amount)
        if self.unit == "chunks":
            return int(self.amount * chunk_tokens)
        return int(self.amount * UNIT_BYTES[self.unit] // shape.bytes_per_token)


class Residency:
    """Which chunks live in the cache, pass by pass: the bookkeeping of a run, in ints.

    `admit(p)` says what a pass evicts. A chunk leaves when no later pass reads or writes it, or when room is needed:
    then the oldest finished chunk goes that is neither sink nor recent.
    """

    def __init__(self, plan: ChunkPlan, budget: KVBudget, tokens_per_frame: int, limit: int | None) -> None:
        self._sizes = [c.frames * tokens_per_frame for c in plan.chunks]
        self._budget, self._limit = budget, limit
        self._last_use = plan.last_use()
        self._last_write = {c: number for number, row in enumerate(plan.rows) for p in row for c in p.writes}
        self.resident: list[int] = []

    @property
    def tokens(self) -> int:
        return sum(self._sizes[c] for c in self.resident)

    def expire(self, row: int) -> tuple[int, ...]:
        """Chunks that no pass from `row` on needs."""
        gone = tuple(c for c in self.resident if self._last_use[c] < row)
        self.resident = [c for c in self.resident if c not in gone]
        return gone

    def admit(self, p: Pass, row: int) -> tuple[int, ...]:
        """Makes room for what `p` writes; returns the chunks that leave. Raises ValueError where nothing may."""
        landing = [c for c in p.writes if c not in self.resident]
        evicted: list[int] = []
        need = sum(self._sizes[c] for c in landing)
        while self._limit is not None and self.tokens + need > self._limit:
            loose = self._loose(p, row)
            if not loose:
                raise ValueError(f"KV budget of {self._limit} tokens: row {row} of the plan needs "
                                 f"{self.tokens + need} (chunks in flight, pinned chunks and the one that lands)")
            self.resident.remove(loose[0])
            evicted.append(loose[0])
        self.resident = sorted([*self.resident, *landing])
        return tuple(evicted)

    def _loose(self, p: Pass, row: int) -> list[int]:
        """Finished chunks that may leave, oldest first."""
        finished = [c for c in self.resident if self._last_write[c] < row and c not in p.chunks and c not in p.writes]
        newest = finished[len(finished) - self._budget.recent_chunks:] if self._budget.recent_chunks else []
        return [c for c in finished if c >= self._budget.sink_chunks and c not in newest]


def _peak(plan: ChunkPlan, budget: KVBudget, tokens_per_frame: int, limit: int | None) -> int:
    residency, peak = Residency(plan, budget, tokens_per_frame, limit), 0
    for number, row in enumerate(plan.rows):
        residency.expire(number)
        for p in row:
            residency.admit(p, number)
            peak = max(peak, residency.tokens)
    return peak


def least_tokens(plan: ChunkPlan, budget: KVBudget, tokens_per_frame: int) -> int:
    """The least budget with which the plan can run, in tokens per layer and stream."""
    low, high = 0, _peak(plan, budget, tokens_per_frame, None)
    while low < high:
        middle = (low + high) // 2
        try:
            _peak(plan, budget, tokens_per_frame, middle)
            high = middle
        except ValueError:
            low = middle + 1
    return low


def capacity(plan: ChunkPlan, budget: KVBudget, tokens_per_frame: int, shape: KVShape) -> int:
    """Tokens per layer and stream that the run will hold at most. Raises ValueError for a budget the plan cannot
    keep, naming the least possible one."""
    chunk_tokens = max(c.frames for c in plan.chunks) * tokens_per_frame
    limit = budget.tokens(chunk_tokens, shape)
    least = least_tokens(plan, budget, tokens_per_frame) if limit is not None else 0
    if limit is not None and limit < least:
        raise ValueError(f"KV budget of {budget.amount} {budget.unit} ({limit} tokens per layer and stream): this plan "
                         f"needs at least {least} tokens ({least / chunk_tokens:.2f} chunks)")
    return _peak(plan, budget, tokens_per_frame, limit)
