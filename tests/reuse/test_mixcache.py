"""The adaptive hybrid: what it measures, what its boundaries forbid, what it chooses."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowcache_core.plan import diffusion_forcing, sequential
from flowcache_core.reuse import PREDICTORS, Kind
from flowcache_core.reuse.contract import Outcome
from flowcache_core.reuse.hybrid import Measured, Rate, measured, middle_ranges
from flowcache_core.reuse.policies.every_nth import EveryNth
from flowcache_core.reuse.policies.mixcache import MixCache, Mixed
from tests.reference import PROPERTY, decisions, normal, tiny_run, tiny_wan
from tests.reuse.toy import step_info

OPEN = {"open_below": 1.0, "close_above": 1000.0, "threshold": 50.0}
ONE = torch.ones(2)


def state_with(losses, full=5, moved=0.1):
    """A state after a whole step, with losses of 'step', 'derive' and 'block' a step."""
    named = {"block": (1, 3)}
    rates = tuple(Rate(named.get(what, what), loss) for what, loss in losses.items())
    return Mixed(ONE, moved, Measured(full, moved, ONE, rates, 0.1, 1.0, 0.1))


def choice(policy, state, step=6, moved=0.1, stream="uncond#0", **info):
    told = step_info(step, steps=20, stream=stream)._replace(guidance=3.0,
                   source=None if stream == "cond#0" else "cond#0", **info)
    return policy.decide(state, told, ONE * (1 + moved))


@pytest.mark.parametrize(("losses", "tau", "saving", "least"), [
    ({"step": 0.09, "derive": 0.02, "block": 0.05}, 0.1, Kind.REUSE, Kind.DERIVE),
    ({"step": 0.2, "derive": 0.02, "block": 0.05}, 0.1, Kind.DERIVE, Kind.DERIVE),   # derive and block: 0.07
    ({"step": 0.2, "derive": 0.08, "block": 0.05}, 0.1, Kind.PARTIAL, Kind.PARTIAL),
    ({"step": 0.2, "derive": 0.2, "block": 0.2}, 0.1, Kind.COMPUTE, Kind.COMPUTE)])
def test_the_cheapest_below_the_threshold_or_the_least_loss(losses, tau, saving, least):
    state = state_with(losses)
    for mode, kind in (("max_saving", saving), ("min_loss", least)):
        assert choice(MixCache(threshold=tau, mode=mode), state).kind is kind
    both = choice(MixCache(threshold=0.1), state_with({"derive": 0.02, "block": 0.05}))
    assert both.reason == "shortcut: derive and blocks 1 to 2" and both.value == pytest.approx(0.07)


def test_streams_of_one_action():
    state = state_with({"derive": 0.01, "block": 0.05})
    policy = MixCache(threshold=0.05, low_growth=1.2, high_growth=1.1)
    cond, uncond = (choice(policy, state, step=7, stream=s) for s in ("cond#0", "uncond#0"))
    assert (cond.kind, cond.records, uncond.kind) == (Kind.COMPUTE, False, Kind.DERIVE)
    assert uncond.source_stream == "cond#0" and uncond.factors == pytest.approx((1.44, 1.21))
    cond = choice(MixCache(threshold=0.1), state, stream="cond#0")
    assert (cond.kind, cond.blocks) == (Kind.PARTIAL, (1, 3))


def test_expected_errors_grow_with_age_and_with_the_signal():
    policy, state = MixCache(threshold=10.0), state_with({"derive": 0.01})
    assert choice(policy, state, step=8, moved=0.2).value == pytest.approx(0.01 * 3 * 0.2 / 0.1)


def test_measurements_by_hand():
    """Velocities 1, 2, 5 at steps 0, 1, 3: turns 1 / 1 and (3 / 2) / 2; losses a step, newest weighing half."""
    first = measured(None, 0, 0.1, Outcome(ONE, ONE, ONE))
    second = measured(first, 1, 0.2, Outcome(ONE, 2 * ONE, ONE, losses={"step": 0.4}))
    third = measured(second, 3, 0.3, Outcome(ONE, 5 * ONE, ONE, losses={"step": 0.4, (0, 1): 0.2}))
    assert first.rates == () and not first.calm(1.0, 1000.0)
    assert second.rates == (Rate("step", 0.4),) and second.turn == 1.0
    assert third.rates == (Rate("step", 0.5 * 0.2 + 0.5 * 0.4), Rate((0, 1), 0.1))
    assert (third.turn, third.fastest, third.slowest) == pytest.approx((0.75, 1.0, 0.75))
    assert third.calm(0.75, 1.0) and not third.calm(0.7, 4.0)


@pytest.mark.parametrize(("layers", "sizes", "expected"), [
    (30, 1, ((4, 26),)), (30, 3, ((4, 26), (9, 20), (11, 18))), (2, 1, ((1, 2),)), (1, 1, ()), (8, 1, ((1, 7),))])
def test_ranges_of_blocks(layers, sizes, expected):
    assert middle_ranges(layers, 0.15, 0.15, sizes) == expected


@PROPERTY
@given(losses=st.fixed_dictionaries({what: st.floats(0, 1) for what in ("step", "derive", "block")}),
       step=st.integers(0, 19), skips=st.integers(0, 5), last=st.sampled_from(["full", "step", "other"]),
       guidance=st.sampled_from([0.5, 1.0, 4.0]), changed=st.booleans(),
       mode=st.sampled_from(["max_saving", "min_loss"]))
def test_boundaries_are_never_crossed(losses, step, skips, last, guidance, changed, mode):
    policy = MixCache(mode=mode, **OPEN)
    state = replace(state_with(losses, max(0, step - skips - 1)), skips=skips, last=last)
    told = step_info(step, steps=20, stream="uncond#0")._replace(guidance=guidance, source="cond#0",
                   context_changed=changed)
    decided = policy.decide(state, told, 1.1 * ONE)
    if step < 5 or step == 19 or changed or skips >= 3:
        assert decided.kind is Kind.COMPUTE and decided.records
    if guidance <= 1 or step >= 18:
        assert decided.kind is not Kind.DERIVE
    if last == "step" and skips:
        assert decided.kind in (Kind.REUSE, Kind.COMPUTE)
    assert policy.decide(replace(state, total=100.0), told, 1.1 * ONE).kind is Kind.COMPUTE


@pytest.mark.parametrize("granularities", ["step", "derive", "block", "step, derive, block"])
@pytest.mark.parametrize("predictor", ["velocity", "residual"])
def test_only_whole_steps_write_what_stands_in(granularities, predictor):
    """Write barrier: shortcuts leave the predictor's values, the differences and the ranges' residuals as they are."""
    policy = MixCache(granularities=granularities, warmup_steps=3, **OPEN)
    run = tiny_run(sequential(2, 2, 10), policy=policy, predictor=PREDICTORS.make(predictor), guidance=3.0)
    held, kinds = [], []

    def watch(progress):
        lanes = run._lanes
        held.append({**lanes.kept, **lanes.differences, **lanes.ranges})
        kinds.append({d.kind for d in progress.decisions.values()} | {d.records for d in progress.decisions.values()})

    run.run(watch)
    shortcuts = 0
    for before, after, kind in zip(held, held[1:], kinds[1:], strict=False):
        if kind != {Kind.COMPUTE, True} and kind != set():
            shortcuts += 1
            assert before.keys() == after.keys() and all(before[place] is after[place] for place in before)
    assert shortcuts >= 3


def test_steps_alone_do_what_the_same_schedule_of_reuse_does():
    """Open throughout, three shortcuts at most: every fourth step is computed."""
    model = tiny_wan()
    mix = MixCache(granularities="step", warmup_steps=3, **OPEN)
    runs = [tiny_run(sequential(2, 2, 12), model, policy=policy, guidance=3.0)
            for policy in (mix, EveryNth(interval=4, warmup_steps=3))]
    assert torch.equal(runs[0].run(), runs[1].run()) and decisions(runs[0]) == decisions(runs[1])


def test_granularities_are_words():
    expected = MixCache(granularities="step, derive").block_ranges(30)
    assert expected == MixCache(granularities="step+derive").block_ranges(30) == ()
    assert MixCache(granularities="block step").block_ranges(30) == ((4, 26),)


def test_both_streams_know_the_same():
    run = tiny_run(diffusion_forcing(4, 2, 12, 4), policy=MixCache(warmup_steps=3, **OPEN), guidance=3.0)
    known = []

    def watch(progress):
        for chunk in progress.last.chunks:
            states = [state for lane, state in run._lanes._states.items() if lane.chunk == chunk]
            known.append(len({(s.moved, s.skips, s.last, s.total, s.full and s.full.rates) for s in states}))

    run.run(watch)
    assert set(known) == {1}


def test_without_guidance_nothing_is_derived():
    run = tiny_run(sequential(2, 2, 12), policy=MixCache(granularities="derive", warmup_steps=3, **OPEN))
    run.run()
    assert run.trace.computed_share == 1


def test_a_velocity_that_never_changes_leaves_only_what_is_forced():
    state, policy, made = MixCache().new_state(), MixCache(), []
    for step in range(20):
        told, signal = step_info(step, steps=20), normal(3, seed=step) + 5
        made.append(policy.decide(state, told, signal))
        state = policy.observe(state, told, signal, made[-1])
        whole = made[-1].kind is Kind.COMPUTE
        losses = {"step": 0.0} if whole and step else {}
        state = policy.learn(state, told, made[-1], Outcome(ONE, ONE, ONE, losses=losses, whole=whole))
    assert "".join("#" if d.computes else "-" for d in made) == "#####---#---#---#--#"
