"""What a run will do, told before it is sampled: decisions, forwards, FLOPs and KV bytes; seconds where a rate is
known.

Decisions are told for policies that do not look at content; for others `unforeseen` says why not, and everything is
counted as computed. FLOPs are counted, seconds are estimated from them; neither is measured.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .flops import Architecture, plan_flops
from .foresight import FORESEEN_STREAM, check_foreseeable, foresee
from .kv.budget import KVShape, chunk_tokens
from .lanes import Lanes
from .plan.chunk_plan import ChunkPlan, Pass
from .plan.context import context_changes
from .reuse.contract import Decision, StepInfo
from .run_settings import RunSettings

Decisions = dict[tuple[int, int], Decision]   # by (chunk, step)


@dataclass(frozen=True)
class Forecast:
    """decisions: of every chunk step, None where they depend on content; forced: those that the plan computes whatever
    a policy says. calls, whole_calls: forwards (a row of a batch counts as one), with and without skips; flops,
    whole_flops: theirs, counted. kv_bytes: what the KV cache takes. rate: seconds a FLOP, None where nothing was
    timed."""

    plan: ChunkPlan
    policy: str
    decisions: Decisions | None
    unforeseen: str
    forced: frozenset[tuple[int, int]]
    calls: int
    whole_calls: int
    flops: float
    whole_flops: float
    kv_bytes: int
    rate: float | None = None

    def computes(self, chunk: int, step: int) -> bool:
        """Whether the network is run for a chunk step."""
        if self.decisions is None or (chunk, step) in self.forced:
            return True
        return self.decisions[chunk, step].computes

    @property
    def computed_share(self) -> float:
        """Computed chunk steps / all chunk steps."""
        moves = [move for p in self.plan.passes() if p.kind == "denoise" for move in p.moves]
        return sum(self.computes(*move) for move in moves) / max(1, len(moves))

    @property
    def seconds(self) -> float | None:
        """Estimated, of the network alone."""
        return None if self.rate is None else self.flops * self.rate

    @property
    def whole_seconds(self) -> float | None:
        """Estimated, were nothing skipped."""
        return None if self.rate is None else self.whole_flops * self.rate


def forecast(plan: ChunkPlan, settings: RunSettings, time_modulation: Callable[[Tensor], Tensor],
             architecture: Architecture, tokens_per_frame: int, shape: KVShape, kv_bytes: int,
             rate: float | None = None) -> Forecast:
    """shape: what the KV budget is counted with. Raises ValueError for a policy that does not fit the plan."""
    policy, tokens = settings.policy, chunk_tokens(plan, tokens_per_frame)
    policy.check(_video_chunks(plan, settings))
    decisions, why = None, ""
    try:
        decisions = foreseen(plan, settings, time_modulation)
    except ValueError as error:
        why = str(error)
    forced = frozenset((chunk, step) for p in plan.passes() if p.kind == "denoise" for chunk, step in p.moves
                       if p.must_compute or not settings.may_skip(step, plan.steps_of(chunk)))
    told = Forecast(plan, policy.name, decisions, why, forced, 0, 0, 0.0, 0.0, kv_bytes, rate)

    def share(p: Pass, row: int) -> float:
        return float(p.kind != "denoise" or any(told.computes(*move) for move in p.moves))

    room = settings.budget.tokens(tokens, shape)
    held = None if room is None else room // tokens
    flops = plan_flops(architecture, plan, tokens_per_frame, share,
                       None if held is None else lambda p, row: min(len(p.reads), max(0, held - len(p.chunks))))
    rows, passes = len(settings.streams) * settings.items, list(plan.passes())
    return replace(told, calls=rows * int(sum(share(p, 0) for p in passes)), whole_calls=rows * len(passes),
                   flops=rows * flops.computed, whole_flops=rows * flops.active)


def _video_chunks(plan: ChunkPlan, settings: RunSettings) -> int:
    return settings.video_chunks or len(plan.chunks) - plan.end_chunks


def foreseen(plan: ChunkPlan, settings: RunSettings, time_modulation: Callable[[Tensor], Tensor]) -> Decisions:
    """The decisions of the first stream and item, made as a run makes them. Raises ValueError for a policy that looks
    at content."""
    check_foreseeable(settings.policy)
    if settings.policy.per_row:
        rows = foresee(settings.policy, settings.table, len(plan.chunks), time_modulation, plan, settings.may_skip)
        return {(c, s): decision for c, chunk in enumerate(rows) for s, decision in enumerate(chunk)}
    lanes, made = Lanes(settings.policy, settings.predictor, settings.first_chunk), {}
    changes, chunks = context_changes(plan), _video_chunks(plan, settings)
    seen: dict[float, Tensor] = {}
    for number, row in enumerate(plan.rows):
        for p in (p for p in row if p.kind == "denoise"):
            signals, infos = {}, []
            for chunk, step in p.moves:
                table = settings.first_table if chunk == 0 and plan.first_steps is not None else settings.table
                time = table.timesteps[step]
                if settings.policy.signal == "time_modulation":
                    seen[time] = seen[time] if time in seen else time_modulation(torch.tensor([[time]]))[0]
                signals[chunk] = seen.get(time)
                outside = not settings.may_skip(step, plan.steps_of(chunk))
                infos.append(StepInfo(
                    chunk, chunks, step, plan.steps_of(chunk), FORESEEN_STREAM, 0,
                    *table.sigmas[step:step + 2], p.must_compute or outside, number in (0, len(plan.rows) - 1),
                    context_changed=(chunk, step) in changes, outside=outside))
            for lane, decision in lanes.decide(infos, lambda lane, signals=signals: signals[lane.chunk]).items():
                lanes.kept.setdefault(lane, None)
                made[lane.chunk, dict(p.moves)[lane.chunk]] = decision
    return made
