"""The hooks of one pass: reuse decisions and the KV store, carried out inside the network's forward.

Rows of the call are (stream, item) pairs. Rows with different decisions run apart: only what is computed is handed to
the blocks, and only that writes keys, so a skipped chunk (or token, or block) leaves its keys as they were.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .attention import AttentionRun
from .backbones.hooks import Attend, BlockInput, Call, Run
from .flops import FlopCounter
from .kv import KVStore
from .lanes import Lane, Lanes
from .pass_attention import PassAttention
from .plan.chunk_plan import ChunkPlan, Pass
from .reuse.contract import BlockRange, Decision
from .reuse.predictors import Span
from .row_work import Group, RowWork
from .run_settings import RunSettings
from .stand_ins import RowKey, StandIns


class Stopwatch:
    """Seconds spent in hooks, those in the network's own code inside them not counted."""

    def __init__(self) -> None:
        self.hooks = 0.0

    def inner(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def timed(*args: Any, **kwargs: Any) -> Tensor:
            begin = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.hooks -= time.perf_counter() - begin
        return timed

    def __enter__(self) -> None:
        self.hooks -= time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.hooks += time.perf_counter()


@dataclass
class PassHooks:
    """Hooks of pass `p` for the call rows `rows`; made for one call and dropped after it.

    spans: noise before and after the step of every chunk. queries: where given, each layer's and stream's queries are
    left here. attending: the run's attention. shift_keys: turns cached keys to later frames, for passes
    that tell their sink another place. clean: left here by a network whose host guides, the guided estimate
    `(items, C, f, h, w)` of the clean chunks.
    """

    plan: ChunkPlan
    p: Pass
    rows: Sequence[RowKey]
    decisions: dict[Lane, Decision]
    lanes: Lanes
    store: KVStore | None
    layers: int
    settings: RunSettings
    spans: dict[int, Span]
    queries: dict[tuple[int, str], Tensor] | None = None
    attending: AttentionRun = field(default_factory=AttentionRun)
    shift_keys: Callable[[Tensor, int], Tensor] | None = None
    flops: FlopCounter | None = None

    def __post_init__(self) -> None:
        self.watch, self.kv_watch = Stopwatch(), Stopwatch()
        self._stand_ins = StandIns(self.plan, self.p, self.rows, self.lanes, self.spans)
        self._velocity_stage = self.lanes.predictor.stage == "velocity"
        self._denoises, policy = self.p.kind == "denoise", self.lanes.policy
        self._ranges = policy.block_ranges(self.layers) if self._denoises else ()
        self._measures_blocks = self._denoises and policy.measures and bool(self._ranges)
        self._range_in: dict[BlockRange, Tensor] = {}
        self._hidden_in: Tensor | None = None
        self._running, self._answered = Group(()), False
        self._work: RowWork | None = None
        self._part_rows = 0
        self.clean: Tensor | None = None
        self._attention = PassAttention(self.plan, self.p, self.rows, self.store, self.layers, self.settings,
                                        self.queries, self.attending, self.shift_keys)

    @property
    def computed_rows(self) -> int:
        """Rows of the call for which the network ran, wholly or in part."""
        return self._part_rows + (self._work.running if self._work else 0)

    def part(self, rows: Sequence[RowKey], again: bool = False) -> "PassHooks":
        """Hooks of a call that forwards some of the rows, for networks whose host splits a pass. again: rows that were
        forwarded before; they are computed, see the past, and leave nothing behind."""
        if not again:
            return replace(self, rows=rows)
        return replace(self, rows=rows, decisions={}, p=replace(self.p, kind="commit", writes=()), queries=None)

    def add_costs(self, part: "PassHooks") -> None:
        """Counts what a part cost as this call's."""
        self.watch.hooks += part.watch.hooks
        self.kv_watch.hooks += part.kv_watch.hooks
        self._attention.add_costs(part._attention)
        self._part_rows += part.computed_rows

    def begin(self, call: Call) -> Tensor | None:
        with self.watch:
            self._stand_ins.open(call)
            self._latent = call.latent
            first = self.p.moves[0][0] if self.p.still else self.p.chunks[0]
            self._work = RowWork([self.decisions.get(Lane(first, *row)) for row in self.rows],
                                 call.latent.device)
            if self._work.running or (self._work.skipped and not self._velocity_stage):
                self._attention.open(self._stand_ins.frames, call.tokens_per_frame)
                return None
            self._answered = True
            replaced = len(self._work.skipped) == len(self.rows)
            return self._completed(call.latent if replaced else torch.zeros_like(call.latent))

    def block(self, index: int, x: BlockInput, run: Run) -> Tensor:
        with self.watch:
            if index == 0:
                self._hidden_in = x.hidden
            self._range_in.update({blocks: x.hidden for blocks in self._ranges if blocks[0] == index})
            hidden = self._run_groups(index, x, self.watch.inner(run))
            if not self._velocity_stage and index == 0:
                hidden = self._fill(x, hidden)
            for blocks in self._ranges:
                if blocks[1] == index + 1:
                    for n in self._work.recorded:
                        self._stand_ins.keep_range(n, blocks, self._range_in[blocks][n], hidden[n])
            self._attention.after_block(index, hidden, self._work.whole)
            if index == self.layers - 1:
                self._end_blocks(hidden)
            return hidden

    def _run_groups(self, index: int, x: BlockInput, run: Run) -> Tensor:
        hidden = x.hidden
        for group in self._work.groups(index):
            self._running = group
            if len(group.rows) == len(self.rows) and group.tokens is None:
                return run(x)
            rows = self._work.index(group.rows)
            if group.tokens is None:
                hidden = hidden.index_copy(0, rows, run(x.take(rows)))
            else:
                hidden = hidden.index_put((rows[:, None], group.tokens), run(x.take(rows, group.tokens)))
        for n, blocks in self._work.gaps.items():
            if index == blocks[0]:
                hidden = hidden.clone() if hidden is x.hidden else hidden
                hidden[n] += self._stand_ins.range_residual(n, blocks)
        return hidden

    def _fill(self, x: BlockInput, hidden: Tensor) -> Tensor:
        """After the first block: rows and tokens that are not computed get what stands in for all blocks."""
        if not (self._work.skipped or self._work.tokens):
            return hidden
        hidden = hidden.clone() if hidden is x.hidden else hidden
        for n in self._work.skipped:
            hidden[n] = self._stand_ins.predicted(n, x.hidden[n])
        for n, tokens in self._work.tokens.items():
            guess = self._stand_ins.predicted(n, x.hidden[n])
            hidden[n] = torch.where(self._stand_ins.mask(tokens, guess), hidden[n], guess)
        return hidden

    def _end_blocks(self, hidden: Tensor) -> None:
        if not self._denoises:
            return
        if self._measures_blocks:
            for n in self._work.recorded:
                self._stand_ins.note_blocks(n, self._hidden_in[n], hidden[n])
        if not self._velocity_stage:
            self._keep(self._hidden_in, hidden)
        if self.lanes.policy.signal == "hidden":
            for n in range(len(self.rows)):
                self._stand_ins.note_last(n, hidden[n])

    def _keep(self, before: Tensor, after: Tensor) -> None:
        for n in self._work.recorded:
            self._stand_ins.keep(n, before[n], after[n])
        for n, tokens in self._work.tokens.items():
            self._stand_ins.keep(n, before[n], after[n], tokens)

    def attention(self, index: int, kind: str, q: Tensor, k: Tensor, v: Tensor, attend: Attend) -> Tensor:
        if self.flops is not None:
            attend = self.flops.watch(kind, q, k, attend)
        if not self._attention.steers(kind):
            return attend(q, k, v)
        before = self.attending.pairs
        with self.watch, self.kv_watch:
            out = self._attention.attend(kind, index, self._running, q, k, v,
                                         self.watch.inner(self.kv_watch.inner(attend)))
        if self.flops is not None:
            self.flops.add_pairs(self.attending.pairs - before, q.shape[-1])
        return out

    @property
    def compress_seconds(self) -> float:
        return self._attention.compress_seconds

    @property
    def keys_seen(self) -> int:
        return self._attention.keys_seen

    def output(self, velocity: Tensor) -> Tensor:
        with self.watch:
            return velocity if self._answered or not self._denoises else self._completed(velocity)

    def _completed(self, velocity: Tensor) -> Tensor:
        """With what stands in for rows and tokens that the network did not compute."""
        if self._velocity_stage:
            velocity = self._stand_in_velocity(velocity)
            self._keep(self._latent, velocity)
        return self._derive(velocity) if self.lanes.policy.derives else velocity

    def _stand_in_velocity(self, velocity: Tensor) -> Tensor:
        if not (self._work.skipped or self._work.tokens):
            return velocity
        if len(self._work.skipped) == len(self.rows):
            return torch.stack([self._stand_ins.predicted(n, self._latent[n]) for n in self._work.skipped])
        velocity = velocity.clone()
        for n in self._work.skipped:
            velocity[n] = self._stand_ins.predicted(n, self._latent[n])
        for n, tokens in self._work.tokens.items():
            guess = self._stand_ins.predicted(n, self._latent[n])
            velocity[n] = torch.where(self._stand_ins.mask(tokens, guess), velocity[n], guess)
        return velocity

    def _derive(self, velocity: Tensor) -> Tensor:
        for n in (n for n in range(len(self.rows)) if n not in self._work.derived):
            self._stand_ins.note_velocity(n, velocity[n], n in self._work.recorded)
        if self._work.derived:
            velocity = velocity.clone()
        for n in self._work.derived:
            velocity[n] = self._stand_ins.derived(n, velocity[n], self.decisions)
        return velocity
