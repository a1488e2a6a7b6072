"""A signal that is NaN or infinite: the step is computed, counted, and named in reports and on the command line."""

import math

import pytest
import torch

from flowcache_core.cli.generate import cost_words
from flowcache_core.plan import diffusion_forcing
from flowcache_core.report import trace_picture
from flowcache_core.report.tables import not_finite_words
from flowcache_core.reuse import POLICIES
from flowcache_core.reuse.contract import NOT_FINITE, Outcome
from flowcache_core.reuse.policies.flowcache import FlowCache
from flowcache_core.trace import load_trace
from tests.reference import tiny_run, tiny_wan
from tests.reuse.toy import step_info

BAD_STEP = 3


class Broken:
    """A network whose time modulation is not finite at one timestep."""

    def __init__(self, timestep: float, value: float) -> None:
        self.inner, self.timestep, self.value = tiny_wan(), timestep, value

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __call__(self, *arguments):
        return self.inner(*arguments)

    def time_modulation(self, timestep):
        found = self.inner.time_modulation(timestep)
        return torch.where((timestep == self.timestep)[..., None, None], torch.full_like(found, self.value), found)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_it_is_computed_counted_and_named(value, tmp_path):
    plan = diffusion_forcing(4, 2, 8, 4)
    policy = FlowCache(threshold=50.0, warmup_steps=1)
    timestep = tiny_run(plan, policy=policy).settings.table.timesteps[BAD_STEP]
    run = tiny_run(plan, Broken(timestep, value), policy=policy)
    latents = run.run()
    assert latents.isfinite().all()
    found = run.trace.not_finite()
    # The broken step, and the one after, whose distance is from it.
    assert {(lane.chunk, lane.step) for lane in found} == {(c, s) for c in (0, 1) for s in (BAD_STEP, BAD_STEP + 1)}
    assert all(lane.decision == "compute" for lane in found)
    assert run.trace.summary()["not_finite"] == len(found)
    words = not_finite_words(run.trace, most=2)
    assert words == f"chunk 0 step {BAD_STEP}, chunk 0 step {BAD_STEP + 1} and 2 more (computed)"
    assert "not finite at chunk 0 step 3" in cost_words(run.trace)
    run.trace.save(tmp_path / "trace.json")
    assert len(load_trace(tmp_path / "trace.json").not_finite()) == len(found)
    assert trace_picture(run.trace).shape[1] == 1280


def walked(policy, signals):
    """Decisions over ten steps of one lane whose velocity follows its signal."""
    state, found = policy.new_state(), []
    for step, signal in enumerate(signals):
        info = step_info(step, len(signals))._replace(tokens=1)
        seen = {0: signal} if policy.per_row else signal
        found.append(policy.decide(state, info, seen))
        state = policy.observe(state, info, seen, found[-1])
        if policy.learns:
            velocity = torch.full((1, 1, 2, 2), 2.0 + 0.001 * step)
            state = policy.learn(state, info, found[-1], Outcome(
                velocity, velocity, velocity, None, {"step": 0.001}, None, found[-1].computes))
    return found


@pytest.mark.parametrize(("name", "settings"), [
    ("flowcache", {"warmup_steps": 1}), ("teacache", {"warmup_rows": 1}), ("motioncache", {"warmup_steps": 1}),
    ("easycache", {"warmup_share": 0.2}),
    ("mixcache", {"warmup_steps": 2, "open_below": 1.0, "close_above": 1000.0, "max_consecutive_skips": 100})])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_every_policy_that_looks_at_a_signal_computes_counts_and_goes_on(name, settings, value):
    policy = POLICIES.make(name, {"threshold": 50.0, **settings})
    signals = [torch.full((1, 1, 2, 2), 1 + 0.001 * step) for step in range(16)]
    sound = [d.computes for d in walked(policy, signals)]
    signals[8] = signals[8] * value
    found = walked(policy, signals)
    assert not sound[8] and not sound[9] and not sound[14]
    assert found[8].computes and found[8].reason == NOT_FINITE
    assert not found[14].computes, [d.reason for d in found]


def test_a_sound_run_says_nothing_of_it():
    run = tiny_run(diffusion_forcing(4, 2, 8, 4), policy=FlowCache(threshold=0.3))
    run.run()
    assert not run.trace.not_finite() and not not_finite_words(run.trace)
    assert "finite" not in cost_words(run.trace)
