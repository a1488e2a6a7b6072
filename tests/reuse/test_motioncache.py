"""MotionCache: accumulators by hand on a chunk of 2 frames of 2 x 2 tokens, and FlowCache as its limit."""

from dataclasses import replace

import pytest
import torch

from flowcache_core.plan import diffusion_forcing, sequential
from flowcache_core.reuse import POLICIES, PREDICTORS, Kind
from flowcache_core.reuse.contract import Outcome
from flowcache_core.reuse.policies.motioncache import MotionCache, Moving, motion_weights
from tests.reference import decisions, normal, tiny_run, tiny_wan
from tests.reuse.toy import step_info

BARE = {"threshold": 1.0, "warmup_steps": 1, "last_steps": 0, "coarse_events": 0, "consistent": False, "min_share": 0.0}
WEIGHTS = torch.tensor([[0.6, 0.8, 1.0, 1.0], [0.6, 0.6, 0.6, 1.0]], dtype=torch.float64)


def signal(level):
    """A step from level a to b is a distance of (b - a) / a."""
    return torch.tensor([float(level)])


def walk(policy, levels, weights=WEIGHTS):
    state, made = replace(policy.new_state(), weights=weights), []
    for step, level in enumerate(levels):
        info = step_info(step, steps=len(levels))
        made.append(policy.decide(state, info, signal(level)))
        state = policy.observe(state, info, signal(level), made[-1])
        yield made[-1], state


def test_accumulators_by_hand():
    """Distances 1, 1/2, 1/3: every token adds its weight times that and is computed at 1."""
    (first, _), (second, sums2), (third, sums3), (fourth, sums4) = walk(MotionCache(**BARE), (1, 2, 3, 4))
    assert first.kind is Kind.COMPUTE and first.reason == "warm-up"
    assert (second.kind, second.tokens, second.value) == (Kind.PARTIAL, (2, 3, 7), 1.0)
    assert sums2.sums.flatten().tolist() == pytest.approx([0.6, 0.8, 0, 0, 0.6, 0.6, 0.6, 0])
    assert (third.kind, third.tokens, third.value) == (Kind.PARTIAL, (1,), pytest.approx(1.2))
    assert sums3.sums.flatten().tolist() == pytest.approx([0.9, 0, 0.5, 0.5, 0.9, 0.9, 0.9, 0.5])
    assert fourth.tokens == (0, 4, 5, 6)
    assert sums4.sums.flatten().tolist() == pytest.approx([0, 0.8 / 3, 0.5 + 1 / 3, 0.5 + 1 / 3, 0, 0, 0, 0.5 + 1 / 3])


def test_a_place_is_computed_in_all_frames_or_in_none():
    """By more than half: of two frames, only where both want it."""
    (_, _), (second, state) = walk(MotionCache(**{**BARE, "consistent": True}), (1, 2))
    assert second.tokens == (3, 7) and state.sums[0, 2] == 1.0   # which goes on


def test_too_few_tokens_wait_and_their_sums_go_on():
    (_, _), (second, state), (third, _) = walk(MotionCache(**{**BARE, "min_share": 0.4}), (1, 2, 2.5))
    assert (second.kind, second.reason) == (Kind.REUSE, "too few tokens are due")
    assert state.sums.max() == 1.0 and third.tokens == (1, 2, 3, 7)


def test_weights_come_in_after_the_coarse_events():
    made = list(walk(MotionCache(**{**BARE, "coarse_events": 1}), (1, 2, 4)))
    assert made[1][0].kind is Kind.COMPUTE and made[1][1].events == 1 and made[1][1].sums is None
    assert made[2][0].tokens == (2, 3, 7)


def test_weights_of_a_latent_by_hand():
    """One token a frame moves by 4 channels' mean 3, one by 1: scaled to 1 and 0 above the still weight."""
    latent = torch.zeros(2, 2, 4, 4)
    latent[:, 1, :2, :2], latent[:, 1, 2:, 2:] = 3.0, 1.5
    expected = torch.tensor([0.6 + 0.4, 0.6, 0.6, 0.6 + 0.2]).double()
    weights = motion_weights(latent, None, 2, 0.6)
    torch.testing.assert_close(weights, torch.stack([expected, expected]))   # the first frame takes the second's
    after = motion_weights(latent, torch.zeros(2, 4, 4), 2, 0.6)
    torch.testing.assert_close(after, torch.stack([torch.ones(4).double(), expected]))   # an even frame: 1
    assert torch.equal(motion_weights(latent[:, :1], None, 2, 0.6), torch.ones(1, 4).double())


def test_weights_are_learnt_from_the_outcome():
    latent, before = normal(4, 2, 4, 4), normal(4, 4, 4, seed=1)
    state = MotionCache().learn(Moving(), step_info(0), None, Outcome(latent, latent, latent, before))
    assert torch.equal(state.weights, motion_weights(latent, before, 2, 0.6))
    assert state.weights.min() == pytest.approx(0.6) and state.weights.max() == 1


@pytest.mark.parametrize("signal", ["time_modulation", "patch_embedding"])
@pytest.mark.parametrize("predictor", ["velocity", "residual"])
def test_equal_weights_are_flowcache_bit_for_bit(signal, predictor):
    settings, model = {"threshold": 0.3, "distance_signal": signal, "warmup_steps": 2}, tiny_wan()
    tokens = {**settings, "still_weight": 1.0, "coarse_events": 0}
    runs = [tiny_run(diffusion_forcing(5, 2, 10, 3), model, policy=POLICIES.make(name, words), guidance=2.0,
                     predictor=PREDICTORS.make(predictor))
            for name, words in (("flowcache", settings), ("motioncache", tokens))]
    assert torch.equal(runs[0].run(), runs[1].run())
    assert decisions(runs[0]) == decisions(runs[1]) and runs[0].trace.counts()["reuse"] > 0


@pytest.mark.parametrize("predictor", ["velocity", "residual", "taylor_residual"])
def test_a_whole_run_computes_some_tokens_and_counts_them(predictor):
    model = tiny_wan()
    model.time_projection[1].weight *= 0.1
    policy = MotionCache(**{**BARE, "threshold": 0.06, "warmup_steps": 2, "last_steps": 1})
    run = tiny_run(sequential(4, 2, 10), model, policy=policy, predictor=PREDICTORS.make(predictor))
    assert run.run().isfinite().all()
    parts = [lane for p in run.trace.passes for lane in p.lanes if lane.decision == "partial"]
    assert parts and all(0 < lane.share < 1 and (8 * lane.share).is_integer() for lane in parts)
    assert sum(p.calls for p in run.trace.passes if p.lanes) == sum(
        lane.decision in ("compute", "partial") for p in run.trace.passes for lane in p.lanes)
