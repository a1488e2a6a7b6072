"""The bookkeeping between policy and run: what is overruled, what is remembered, what is forgotten."""

import torch

from flowcache_core.lanes import Lane, Lanes
from flowcache_core.reuse import Kind
from flowcache_core.reuse.predictors import Velocity
from tests.reuse.toy import Scripted, ScriptedForChunk, step_info


def lanes_with(policy, *kept):
    lanes = Lanes(policy, Velocity())
    lanes.kept = {lane: torch.zeros(1) for lane in kept}
    return lanes


def kinds(lanes, *infos):
    return {lane: d.kind for lane, d in lanes.decide(infos, lambda lane: None).items()}


A, B, U = Lane(0, "cond#0", 0), Lane(1, "cond#0", 0), Lane(0, "uncond#0", 0)


def test_a_lane_with_nothing_kept_computes_and_says_so():
    decision = lanes_with(Scripted()).decide([step_info(3)], lambda lane: None)[A]
    assert (decision.kind, decision.reason) == (Kind.COMPUTE, "nothing to reuse yet")


def test_the_plan_overrules_the_policy():
    lanes = lanes_with(Scripted(), A)
    decision = lanes.decide([step_info(3, must_compute=True)], lambda lane: None)[A]
    assert (decision.kind, decision.reason) == (Kind.COMPUTE, "the plan must compute")
    assert kinds(lanes, step_info(4)) == {A: Kind.REUSE}


def test_chunks_of_one_pass_compute_together_in_each_row_of_the_batch():
    item = Lane(0, "cond#0", 1), Lane(1, "cond#0", 1)
    lanes = lanes_with(Scripted(), A, *item)   # chunk 1 of item 0 has nothing to reuse
    infos = [step_info(3, chunk=c, item=i) for i in (0, 1) for c in (0, 1)]
    decisions = lanes.decide(infos, lambda lane: None)
    assert {lane: d.kind for lane, d in decisions.items()} == {
        A: Kind.COMPUTE, B: Kind.COMPUTE, item[0]: Kind.REUSE, item[1]: Kind.REUSE}
    assert decisions[A].reason == "a chunk of the same pass computes"


def test_the_policy_is_told_what_was_done_not_what_it_wanted():
    lanes = lanes_with(Scripted(), A)
    lanes.decide([step_info(0, must_compute=True)], lambda lane: None)
    lanes.decide([step_info(1)], lambda lane: None)
    assert lanes._states[A] == (Kind.COMPUTE, Kind.REUSE)


def test_streams_decide_apart_or_together_as_the_policy_declares():
    for policy, values in ((Scripted(), (2.0, 0.0)), (ScriptedForChunk(), (2.0, 2.0))):
        lanes = lanes_with(policy, A, U)
        lanes._states[A] = (Kind.COMPUTE, Kind.COMPUTE)
        decisions = lanes.decide([step_info(2), step_info(2, stream="uncond#0")], lambda lane: None)
        assert (decisions[A].value, decisions[U].value) == values


def test_a_decision_for_the_chunk_is_shared_by_streams_and_not_by_items():
    other = Lane(0, "cond#0", 1)
    lanes = lanes_with(ScriptedForChunk(), A, U, other)
    lanes._states[other] = (Kind.COMPUTE,) * 5
    infos = [step_info(2), step_info(2, item=1), step_info(2, stream="uncond#0")]
    assert [d.value for d in lanes.decide(infos, lambda lane: None).values()] == [0.0, 5.0, 0.0]


def test_a_finished_chunk_is_forgotten_and_no_other():
    lanes = lanes_with(Scripted(), A, B, U)
    lanes.decide([step_info(0, chunk=c) for c in (0, 1)], lambda lane: None)
    lanes.forget(0)
    assert set(lanes.kept) == {B} and set(lanes._states) == {B}


def test_every_lane_is_shown_its_own_signal():
    seen = []

    class Looks(Scripted):
        def decide(self, state, info, signal):
            seen.append((info.chunk, info.item, signal))
            return super().decide(state, info, signal)

    lanes_with(Looks()).decide([step_info(0, chunk=c, item=i) for c in (0, 1) for i in (0, 1)],
                               lambda lane: 10 * lane.chunk + lane.item)
    assert seen == [(0, 0, 0), (0, 1, 1), (1, 0, 10), (1, 1, 11)]
