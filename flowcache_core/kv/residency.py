"""Which chunks live in the cache, pass by pass: the bookkeeping of a run, in ints, and the budget that it needs."""

from dataclasses import dataclass

from ..plan.chunk_plan import ChunkPlan, Pass
from .budget import KVBudget, KVShape, chunk_tokens


@dataclass(frozen=True)
class Room:
    """What a pass needs done before it runs. evicted: chunks that leave whole. folded: chunks that are compressed
    together with what was before, into `keep` tokens (0: no compression)."""

    evicted: tuple[int, ...] = ()
    folded: tuple[int, ...] = ()
    keep: int = 0


class Residency:
    """`admit(p)` says how room is made for what a pass writes.

    A chunk leaves when no later pass reads or writes it. Where room is needed, finished chunks give way that are
    neither sink nor recent: without compression the oldest ones leave, with it (`group`: tokens that stay together)
    all of them are folded into what the budget leaves.
    """

    def __init__(self, plan: ChunkPlan, budget: KVBudget, tokens_per_frame: int, limit: int | None,
                 group: int | None = None) -> None:
        self._sizes = [c.frames * tokens_per_frame for c in plan.chunks]
        self._budget, self._limit, self._group = budget, limit, group
        self._last_use = plan.last_use()
        self._last_write = {c: number for number, row in enumerate(plan.rows) for p in row for c in p.writes}
        self.resident: list[int] = []
        self.folded = 0

    @property
    def tokens(self) -> int:
        """Resident tokens per layer and stream, folded ones included."""
        return self.folded + sum(self._sizes[c] for c in self.resident)

    def expire(self, row: int) -> tuple[int, ...]:
        """Chunks that no pass from `row` on needs."""
        gone = tuple(c for c in self.resident if self._last_use.get(c, -1) < row)
        self.resident = [c for c in self.resident if c not in gone]
        return gone

    def admit(self, p: Pass, row: int) -> Room:
        """Makes room for what `p` writes. Raises ValueError where nothing may give way."""
        landing = [c for c in p.writes if c not in self.resident]
        need, room = sum(self._sizes[c] for c in landing), Room()
        if landing and self._limit is not None and self.tokens + need > self._limit:
            room = self._evict(p, row, need) if self._group is None else self._fold(p, row, need)
        self.resident = sorted([*self.resident, *landing])
        return room

    def _evict(self, p: Pass, row: int, need: int) -> Room:
        evicted: list[int] = []
        while self.tokens + need > self._limit:
            loose = self._loose(p, row)
            if not loose:
                raise self._full(row, need)
            self.resident.remove(loose[0])
            evicted.append(loose[0])
        return Room(evicted=tuple(evicted))

    def _fold(self, p: Pass, row: int, need: int) -> Room:
        loose = self._loose(p, row)
        left = self._limit - need - (self.tokens - self.folded - sum(self._sizes[c] for c in loose))
        keep = left // self._group * self._group
        if keep <= 0 or not (loose or self.folded):
            raise self._full(row, need)
        self.resident = [c for c in self.resident if c not in loose]
        self.folded = keep
        return Room(folded=tuple(loose), keep=keep)

    def _full(self, row: int, need: int) -> ValueError:
        return ValueError(f"KV budget of {self._limit} tokens: row {row} of the plan needs {self.tokens + need} "
                          "(chunks in flight, pinned chunks and the one that lands)")

    def _loose(self, p: Pass, row: int) -> list[int]:
        """Finished chunks that may leave, oldest first."""
        finished = [c for c in self.resident
                    if self._last_write.get(c, -1) < row and c not in p.chunks and c not in p.writes]
        newest = finished[len(finished) - self._budget.recent_chunks:] if self._budget.recent_chunks else []
        return [c for c in finished if c >= self._budget.sink_chunks and c not in newest]


def _peak(plan: ChunkPlan, residency: Residency) -> int:
    peak = 0
    for number, row in enumerate(plan.rows):
        residency.expire(number)
        for p in row:
            residency.admit(p, number)
            peak = max(peak, residency.tokens)
    return peak


def least_tokens(plan: ChunkPlan, budget: KVBudget, tokens_per_frame: int, group: int | None = None) -> int:
    """The least budget with which the plan can run, in tokens per layer and stream."""
    low, high = 0, _peak(plan, Residency(plan, budget, tokens_per_frame, None))
    while low < high:
        middle = (low + high) // 2
        try:
            _peak(plan, Residency(plan, budget, tokens_per_frame, middle, group))
            high = middle
        except ValueError:
            low = middle + 1
    return low


def capacity(plan: ChunkPlan, budget: KVBudget, tokens_per_frame: int, shape: KVShape,
             group: int | None = None) -> int:
    """Tokens per layer and stream that the run will hold at most. Raises ValueError for a budget the plan cannot
    keep, naming the least possible one. group: see `Residency`."""
    chunk = chunk_tokens(plan, tokens_per_frame)
    limit = budget.tokens(chunk, shape)
    least = least_tokens(plan, budget, tokens_per_frame, group) if limit is not None else 0
    if limit is not None and limit < least:
        raise ValueError(f"KV budget of {budget.amount} {budget.unit} ({limit} tokens per layer and stream): this plan "
                         f"needs at least {least} tokens ({least / chunk:.2f} chunks)")
    return _peak(plan, Residency(plan, budget, tokens_per_frame, limit, group))
