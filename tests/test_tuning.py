"""The search for thresholds, on a run whose times and quality follow from a formula."""

import pytest

from flowcache_core.foresight import foresee, signals_of
from flowcache_core.plan import diffusion_forcing
from flowcache_core.reuse import PREDICTORS
from flowcache_core.reuse.policies.every_nth import EveryNth
from flowcache_core.reuse.policies.flowcache import FlowCache
from flowcache_core.reuse.signals import relative_l1
from flowcache_core.solvers import flow_table
from flowcache_core.tuning import Prediction, Probe, Tuner
from tests.reference import decisions, tiny_run, tiny_wan

PLAN, TABLE = diffusion_forcing(8, 2, 40, 10), flow_table(40, 3.0)


@pytest.fixture(scope="module")
def model():
    return tiny_wan()


@pytest.fixture(scope="module")
def probe(model):
    """A run with recorded distances in which every computed step takes 10 ms."""
    run = tiny_run(PLAN, model, policy=Probe(of=FlowCache()))
    run.run()
    return timed(run.trace)


def timed(trace):
    from dataclasses import replace

    trace.passes[:] = [replace(p, seconds=0.01 if p.calls else 0.0002) for p in trace.passes]
    return trace


def tuner(probe, model):
    def verify(policy):
        run = tiny_run(PLAN, model, policy=policy)
        run.run()
        return timed(run.trace), 20 + 40 * run.trace.computed_share

    return Tuner(probe, probe, TABLE, FlowCache(), verify)


@pytest.mark.parametrize("wanted", [1.3, 2.0, 3.0])
def test_a_wanted_speedup_is_met(wanted, probe, model):
    found = tuner(probe, model).for_speedup(wanted)
    assert found.speedup == pytest.approx(wanted, rel=0.1)


@pytest.mark.parametrize("wanted", [30.0, 40.0, 55.0])
def test_a_wanted_psnr_is_met(wanted, probe, model):
    assert tuner(probe, model).for_psnr(wanted).psnr_db == pytest.approx(wanted, abs=1.0)


def ramped_tuner(probe, model, spared):
    """Of a model in which computed steps of one chunk alone are worth something."""
    def verify(policy):
        run = tiny_run(PLAN, model, policy=policy)
        run.run()
        kinds = [kind for (chunk, *_), kind in decisions(run).items() if chunk == spared]
        return timed(run.trace), 20 + 40 * kinds.count("compute") / len(kinds)

    return Tuner(probe, probe, TABLE, FlowCache(), verify)


@pytest.mark.parametrize(("spared", "falls"), [(0, False), (3, True)])
def test_a_threshold_by_chunk_is_chosen_where_it_is_faster_at_the_wanted_psnr(spared, falls, probe, model):
    """It is low where skips cost quality and high where they are free."""
    tuned = ramped_tuner(probe, model, spared)
    found = tuned.for_psnr(36.0)
    alone = [t for t in tuned.trials if "->" not in str(t.policy.threshold) and abs(t.psnr_db - 36) <= 1]
    first, last = (float(end) for end in str(found.policy.threshold).split("->"))
    assert (last < first) == falls
    assert found.psnr_db == pytest.approx(36.0, abs=1.0)
    assert found.speedup > max((t.speedup for t in alone), default=1.0)


def test_a_threshold_by_chunk_is_not_chosen_where_all_chunks_matter_alike(probe, model):
    assert "->" not in str(tuner(probe, model).for_psnr(40.0).policy.threshold)


def test_what_cannot_be_met_names_the_best_that_can(probe, model):
    with pytest.raises(ValueError, match=r"speed-up of 50 cannot be met: .* the most is about \d"):
        tuner(probe, model).for_speedup(50)
    with pytest.raises(ValueError, match=r"PSNR of 900 dB cannot be met: the best that skips anything has \d"):
        tuner(probe, model).for_psnr(900)


@pytest.mark.parametrize("threshold", ["0.02", "0.1", "0.02->0.3", "0"])
@pytest.mark.parametrize("predictor", ["velocity", "residual"])
def test_decisions_are_foreseen(threshold, predictor, model):
    """Ahead of sampling, and from recorded distances, exactly those that the run then makes."""
    policy = FlowCache(threshold)
    run = tiny_run(PLAN, model, policy=policy, predictor=PREDICTORS.make(predictor), guidance=2.0)
    run.run()
    ahead = foresee(policy, TABLE, 4, model.time_modulation)
    made = decisions(run)
    for (chunk, step, _, _), kind in made.items():
        assert (kind == "compute") == ahead[chunk][step].computes


def test_a_prediction_equals_the_run(probe, model):
    policy = FlowCache("0.1")
    run = tiny_run(PLAN, model, policy=policy)
    run.run()
    made = {(chunk, step) for (chunk, step, _, _), kind in decisions(run).items() if kind == "compute"}
    assert Prediction(probe, probe, TABLE, FlowCache()).computed(policy) == made


def test_policies_that_need_no_signal_are_foreseen_and_those_that_look_at_content_are_not(model):
    assert [d.computes for d in foresee(EveryNth(2), TABLE, 1, model.time_modulation)[0]].count(True) < 25
    with pytest.raises(ValueError, match="patch_embedding"):
        foresee(FlowCache(distance_signal="patch_embedding"), TABLE, 1, model.time_modulation)


def test_signals_have_the_distances_they_are_made_from():
    signals = signals_of([None, 0.5, 0.003, 2.0])
    assert [relative_l1(b, a) for a, b in zip(signals[:-1], signals[1:], strict=True)] == pytest.approx(
        [0.5, 0.003, 2], rel=1e-4)
