"""TeaCache, EasyCache, MagCache: decisions by hand on small numbers."""

import json
from dataclasses import replace

import pytest
import torch

from flowcache_core.fingerprint import fingerprint
from flowcache_core.plan import diffusion_forcing, sequential
from flowcache_core.reuse import POLICIES, PREDICTORS
from flowcache_core.reuse.contract import Outcome
from flowcache_core.reuse.magnitudes import Magnitudes, load_magnitudes
from flowcache_core.reuse.policies.easycache import EasyCache
from flowcache_core.reuse.policies.magcache import MagCache
from flowcache_core.reuse.policies.teacache import TeaCache
from flowcache_core.solvers import flow_table
from tests.reference import decisions, tiny_run, tiny_wan
from tests.reuse.toy import step_info


def marks(decided) -> str:
    return "".join("#" if d.computes else "-" for d in decided)


# TeaCache

def rows(policy, signals):
    """Its decisions over rows with the signals `{chunk: number}`."""
    state, made = policy.new_state(), []
    for number, signal in enumerate(signals):
        info = step_info(number, len(signals))
        tensors = {chunk: torch.tensor([value, value]) for chunk, value in signal.items()}
        made.append(policy.decide(state, info, tensors))
        state = policy.observe(state, info, tensors, made[-1])
    return made


def test_teacache_adds_up_the_change_of_all_chunks_together():
    """Chunk 0 stands at 3, chunk 1 goes 1, 2, 3 ...: |1| / (3 + 1), then 1 / (3 + 2), 1 / (3 + 3)."""
    made = rows(TeaCache(threshold=0.5, warmup_rows=1, last_rows=0), [{0: 3.0, 1: 1.0 + n} for n in range(5)])
    assert [d.distance for d in made[1:4]] == pytest.approx([1 / 4, 1 / 5, 1 / 6])
    assert [d.value for d in made[1:]] == pytest.approx([0.25, 0.45, 0.45 + 1 / 6, 1 / 7])
    assert marks(made) == "#--#-"


def test_teacache_compares_the_chunks_that_two_rows_share():
    made = rows(TeaCache(threshold=0.5, warmup_rows=1, last_rows=0),
                [{0: 1.0, 1: 2.0}, {1: 3.0, 2: 9.0}, {3: 1.0}, {3: 1.0}])
    assert made[1].distance == pytest.approx(0.5) and made[1].reason == "threshold reached"
    assert made[2].reason == "no chunk of the last row goes on" and made[3].value == 0


def test_teacache_decides_for_all_chunks_of_a_row_and_computes_where_one_begins():
    plan = diffusion_forcing(6, 2, 10, 3)
    run = tiny_run(plan, policy=TeaCache(threshold=0.3, warmup_rows=1), guidance=2.0)
    run.run()
    for number, row in enumerate(plan.rows):
        lanes = [lane for p in run.trace.passes if p.row == number for lane in p.lanes]
        assert len({lane.decision for lane in lanes}) == 1
        if any(step == 0 for p in row for step in p.steps):
            assert lanes[0].decision == "compute"
    assert run.trace.counts()["reuse"] > 0


# EasyCache

def test_easycache_by_hand():
    """x goes 10, 9, 8, ... and v is 2 x when computed: rate 2. Each step adds 2 * 1 / |v of the last computed|."""
    policy, state, made = EasyCache(threshold=0.3, warmup_share=0.2, last_steps=1), EasyCache().new_state(), []
    for step in range(10):
        x, info = torch.full((1, 1, 2, 2), 10.0 - step), step_info(step)
        made.append(policy.decide(state, info, x))
        state = policy.observe(state, info, x, made[-1])
        v = 2 * x if made[-1].computes else torch.full_like(x, -99)
        state = policy.learn(state, info, made[-1], Outcome(v, v, x))
    assert marks(made) == "##--#-#-##"
    assert [d.value for d in made[2:5]] == pytest.approx([2 / 18, 4 / 18, 6 / 18])
    assert [d.value for d in made[5:9]] == pytest.approx([2 / 12, 4 / 12, 2 / 8, 4 / 8])


def test_easycache_takes_the_median_of_rates():
    state = replace(EasyCache().new_state(), latent=torch.ones(2), velocity=torch.ones(2), rates=(1.0, 50.0, 2.0))
    decided = EasyCache(threshold=9, rates=3).decide(state, step_info(5), 2 * torch.ones(2))
    assert decided.value == pytest.approx(2.0)


# MagCache

@pytest.fixture
def calibration(tmp_path):
    def write(network=None, steps=10, predictor="velocity", ratio=0.9, **changes):
        table = flow_table(steps, 3.0)
        ratios = (1.0, *(ratio,) * (steps - 1))
        path = tmp_path / "magnitudes.json"
        Magnitudes(table.sigmas[:-1], {"cond#0": ratios, "uncond#0": ratios}, predictor,
                   fingerprint(network or tiny_wan())).save(path, {})
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        return str(path)
    return write


def test_magcache_by_hand(calibration):
    """Sizes fall by a tenth a step: skips err by 0.1, 0.1 + 0.19, 0.29 + 0.271, ..."""
    policy, table = MagCache(calibration(), threshold=0.3, warmup_share=0.2), flow_table(10, 3.0)
    state, made = policy.new_state(), []
    for step in range(10):
        info = step_info(step)._replace(sigma=table.sigmas[step], sigma_next=table.sigmas[step + 1])
        made.append(policy.decide(state, info, None))
        state = policy.observe(state, info, None, made[-1])
    assert [d.value for d in made[2:5]] == pytest.approx([0.1, 0.29, 0.561])
    assert marks(made) == "##--#--#-#"


def test_ratios_are_interpolated_over_the_noise():
    known = Magnitudes((1.0, 0.5, 0.25), {"s": (1.0, 0.5, 0.5)}, "velocity", ())
    assert known.ratio("s", 1.0, 0.25) == pytest.approx(0.25)
    assert known.size("s", 0.75) == pytest.approx(0.5**0.5) and known.size("s", 0.1) == pytest.approx(0.25)
    many = [known.ratio("s", a, b) for a, b in ((1.0, 0.9), (0.9, 0.6), (0.6, 0.5))]
    assert many[0] * many[1] * many[2] == pytest.approx(0.5)


@pytest.mark.parametrize(("changes", "run", "message"), [
    ({"steps": 8}, {}, "is of 8 steps and this run takes 10"),
    ({"network": tiny_wan(seed=1)}, {}, "of another network"),
    ({"predictor": "residual"}, {}, "of the predictor residual and this run uses velocity"),
    ({"ratios": {"cond#0": [1.0] * 10}}, {"guidance": 2.0}, "has no stream uncond#0")])
def test_a_calibration_of_something_else_is_refused(calibration, changes, run, message):
    policy = MagCache(calibration(**changes))
    with pytest.raises(ValueError, match=message) as error:
        tiny_run(sequential(2, 2, 10), policy=policy, **run)
    assert "\n" not in str(error.value) and "calibrate again" in str(error.value)


def test_another_step_count_is_taken_where_asked_for(calibration):
    run = tiny_run(sequential(2, 2, 10), policy=MagCache(calibration(steps=20), other_steps=True, threshold=0.9))
    run.run()
    assert run.trace.counts()["reuse"] > 0


@pytest.mark.parametrize(("text", "message"), [
    ("", "none of ours"), ("[]", "none of ours"), ('{"schema": "other/1"}', "other/1"), (None, "cannot be read"),
    ('{"schema": "flowcache-magnitudes/1", "sigmas": [1, 2], "ratios": {"a": [1, 1]}, "predictor": "velocity", '
     '"fingerprint": []}', "damaged"),
    ('{"schema": "flowcache-magnitudes/1", "sigmas": [2, 1], "ratios": {"a": [1, -1]}, "predictor": "velocity", '
     '"fingerprint": []}', "damaged"),
    ('{"schema": "flowcache-magnitudes/1", "sigmas": [2, NaN], "ratios": {}, "predictor": "velocity", '
     '"fingerprint": []}', "not finite")])
def test_a_file_that_is_no_calibration_is_refused(tmp_path, text, message):
    path = tmp_path / "file.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load_magnitudes(str(path))
    assert "calibrate" in str(error.value)


# What FlowCache can look at besides.

@pytest.mark.parametrize("signal", ["latent", "history", "guided_velocity", "hidden"])
def test_flowcache_on_other_signals(signal):
    policy = POLICIES.make("flowcache", {"threshold": 5.0, "distance_signal": signal, "warmup_steps": 1})
    run = tiny_run(diffusion_forcing(4, 2, 8, 4), policy=policy, predictor=PREDICTORS.make("residual"))
    run.run()
    skipped = {(c, s) for (c, s, *_), d in decisions(run).items() if d == "reuse"}
    assert skipped == ({(1, s) for s in (1, 2, 3)} if signal == "history" else
                       {(c, s) for c in (0, 1) for s in range(2 - (signal == "latent"), 7)})


@pytest.mark.parametrize("signal", ["guided_velocity", "hidden"])
def test_signals_that_stand_still_are_refused(signal):
    with pytest.raises(ValueError, match=f"{signal} with the predictor velocity: it does not move"):
        tiny_run(sequential(2, 2, 4), policy=POLICIES.make("flowcache", {"distance_signal": signal}))


@pytest.mark.parametrize(("name", "settings", "message"), [
    ("teacache", {"distance_signal": "latent"}, "'latent': choose one of time_modulation"),
    ("teacache", {"calibration": "1.3B_noret"}, "fitted on another signal"),
    ("teacache", {"calibration": "1.3B_ret", "distance_signal": "patch_embedding"}, "fitted for time_modulation"),
    ("mixcache", {"mode": "fast"}, "mode 'fast': choose from max_saving, min_loss"),
    ("mixcache", {"granularities": "step, layer"}, "'layer': choose from step, derive, block"),
    ("mixcache", {"granularities": ""}, "choose from step, derive, block"),
    ("mixcache", {"head_share": 0.7, "tail_share": 0.7}, "together at most 1"),
    ("motioncache", {"conformance": True}, "only flowcache reproduces"),
    ("magcache", {}, "cannot be read")])
def test_bad_settings(name, settings, message):
    with pytest.raises(ValueError, match=message) as error:
        POLICIES.make(name, settings)
    assert "\n" not in str(error.value)

