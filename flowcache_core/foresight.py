"""What a policy will decide, walked through without a network: ahead of sampling, or for other settings afterwards.

Exact where decisions do not depend on content (FlowCache's time modulation; any policy without a signal). With
recorded distances of a content signal it is an estimate: skipped steps change the content that later ones are judged
by.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .plan.chunk_plan import ChunkPlan
from .reuse.contract import OUTSIDE, Decision, Kind, ReusePolicy, StepInfo
from .solvers.sigmas import SigmaTable

CONTENT_FREE = ("none", "time_modulation")
FORESEEN_STREAM = "cond#0"


def check_foreseeable(policy: ReusePolicy) -> None:
    """Raises ValueError for a policy whose decisions depend on the video."""
    if policy.learns:
        raise ValueError(f"policy {policy.name} learns from what its steps give: its decisions cannot be shown before "
                         "the video is made")
    if policy.signal not in CONTENT_FREE:
        raise ValueError(f"policy {policy.name} looks at {policy.signal}: its decisions depend on the video and cannot "
                         "be shown before it is made")


def walk(policy: ReusePolicy, table: SigmaTable, chunk: int, chunks: int,
         signal: Callable[[int], Tensor | None]) -> tuple[Decision, ...]:
    """The decisions of one chunk; signal(step) is what the policy looks at."""
    state, decisions = policy.new_state(), []
    for step in range(table.steps):
        info = StepInfo(chunk, chunks, step, table.steps, FORESEEN_STREAM, 0, *table.sigmas[step:step + 2])
        decisions.append(policy.decide(state, info, signal(step)))
        state = policy.observe(state, info, signal(step), decisions[-1])
    return tuple(decisions)


def foresee(policy: ReusePolicy, table: SigmaTable, chunks: int, time_modulation: Callable[[Tensor], Tensor],
            plan: ChunkPlan | None = None, may_skip: Callable[[int, int], bool] = lambda step, steps: True
            ) -> list[tuple[Decision, ...]]:
    """The decisions of every chunk, ahead of sampling. plan, and may_skip(step, steps): for policies that decide by
    row. Raises ValueError for a policy that looks at content."""
    check_foreseeable(policy)
    signals: list[Tensor | None] = [None] * table.steps
    if policy.signal == "time_modulation":
        signals = list(time_modulation(torch.tensor([table.timesteps]))[0].split(1))
    if policy.per_row:
        if plan is None:
            raise ValueError(f"policy {policy.name} decides for all chunks of a row: show it together with a plan")
        return _walk_rows(policy, table, plan, signals.__getitem__, may_skip)
    return [walk(policy, table, chunk, chunks, signals.__getitem__) for chunk in range(chunks)]


def _walk_rows(policy: ReusePolicy, table: SigmaTable, plan: ChunkPlan, signal: Callable[[int], Tensor | None],
               may_skip: Callable[[int, int], bool]) -> list[tuple[Decision, ...]]:
    """The decisions of every chunk where one holds for a whole row; a row in which a chunk starts is computed."""
    rows = [[move for p in row if p.kind == "denoise" for move in p.moves] for row in plan.rows]
    rows, state = [moves for moves in rows if moves], policy.new_state()
    made: dict[int, list[Decision]] = {c: [] for c in range(len(plan.chunks))}
    for number, moves in enumerate(rows):
        chunk, step = max(moves, key=lambda move: move[1])
        info = StepInfo(chunk, len(plan.chunks), number, len(rows), FORESEEN_STREAM, 0, *table.sigmas[step:step + 2])
        seen = {c: signal(s) for c, s in moves}
        decision = policy.decide(state, info, seen)
        if any(not made[c] for c, _ in moves) and not decision.computes:
            decision = Decision(Kind.COMPUTE, "a chunk has nothing to reuse yet")
        if not decision.computes and not all(may_skip(s, plan.steps_of(c)) for c, s in moves):
            decision = Decision(Kind.COMPUTE, OUTSIDE)
        state = policy.observe(state, info, seen, decision)
        for c, _ in moves:
            made[c].append(decision)
    return [tuple(decisions) for decisions in made.values()]


def signals_of(distances: Sequence[float | None]) -> list[Tensor | None]:
    """Signals of one number whose relative distances from step to step are `distances`. None: there is no signal where
    neither the distance to it nor from it is known. A distance that is no number is to or from such a signal."""
    signals: list[Tensor | None] = []
    last, broken = torch.ones(1), False
    for distance, following in zip(distances, (*distances[1:], None), strict=True):
        broken = distance is not None and not math.isfinite(distance) and not broken
        if distance is not None and math.isfinite(distance):
            last = last * (1 + distance)
        known = distance is not None or following is not None
        signals.append((last * math.nan if broken else last) if known else None)
    return signals
