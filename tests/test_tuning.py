"""The search for thresholds, on a run whose times and quality follow from a formula."""

import pytest

from flowcache_core.foresight import foresee, signals_of
from flowcache_core.plan import dense, diffusion_forcing, rolling, sequential
from flowcache_core.reuse import PREDICTORS
from flowcache_core.reuse.policies.every_nth import EveryNth
from flowcache_core.reuse.policies.flowcache import FlowCache
from flowcache_core.reuse.signals import relative_l1
from flowcache_core.solvers import flow_table
from flowcache_core.threshold_prediction import Prediction, Probe
from flowcache_core.tuning import Tuner, check_wanted
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


def test_a_psnr_between_two_thresholds_is_met_by_care_in_the_first_chunks(probe, model):
    """A step of all chunks is worth 10 dB here, so that no single threshold comes near."""
    def verify(policy):
        run = tiny_run(PLAN, model, policy=policy)
        run.run()
        return timed(run.trace), 400 * run.trace.computed_share

    tuned = Tuner(probe, probe, TABLE, FlowCache(), verify)
    found = tuned.for_psnr(185.0)
    assert found.psnr_db == pytest.approx(185, abs=3) and ":" in str(found.policy.threshold)
    single = [t for t in tuned.trials if len(set(t.policy.threshold.bounds())) == 1]
    assert min(abs(t.psnr_db - 185) for t in single) > 3
    (first, _, low), (_, last, high) = found.policy.threshold.spans
    assert first == 0 and last is None and low < high


def test_where_the_first_chunk_is_a_jump_the_others_make_up_for_its_care(probe, model):
    """Too bold a first chunk costs 20 dB at once; with it spared, the rest must be bolder than any single threshold."""
    def verify(policy):
        run = tiny_run(PLAN, model, policy=policy)
        run.run()
        kinds = [kind for (chunk, *_), kind in decisions(run).items() if chunk == 0]
        jump = 20 if kinds.count("compute") / len(kinds) < 0.4 else 0
        return timed(run.trace), 30 + 40 * run.trace.computed_share - jump

    tuned = Tuner(probe, probe, TABLE, FlowCache(), verify)
    found = tuned.for_psnr(41.0)
    first, *_, last = found.policy.threshold.values(4)
    assert found.psnr_db == pytest.approx(41, abs=1) and first < last
    single = [t for t in tuned.trials if len(set(t.policy.threshold.bounds())) == 1]
    assert min(abs(t.psnr_db - 41) for t in single) > 3


def test_where_nothing_comes_near_a_psnr_the_fastest_that_is_better_is_taken(probe, model):
    def verify(policy):
        run = tiny_run(PLAN, model, policy=policy)
        run.run()
        return timed(run.trace), 60.0 if run.trace.computed_share > 0.4 else 45.0

    tuned = Tuner(probe, probe, TABLE, FlowCache(), verify)
    found = tuned.for_psnr(50.0)
    assert found.psnr_db == 60 and found.computed_share < 1
    assert found.speedup == max(t.speedup for t in tuned.trials if t.psnr_db == 60)


def test_nothing_is_run_twice_and_what_skips_nothing_is_no_speedup(probe, model):
    tuned = tuner(probe, model)
    found = tuned.for_speedup(1.05)   # less than the smallest threshold that skips gives
    assert found.computed_share < 1
    tuned.for_psnr(50.0)
    assert len({str(t.policy.threshold) for t in tuned.trials}) == len(tuned.trials)


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
    alone = [t for t in tuned.trials if len(set(t.policy.threshold.bounds())) == 1 and abs(t.psnr_db - 36) <= 1]
    first, *_, last = found.policy.threshold.values(4)
    assert last < first if falls else first < last
    assert found.psnr_db == pytest.approx(36.0, abs=1.0)
    assert found.speedup > max((t.speedup for t in alone), default=1.0)


def test_a_threshold_by_chunk_is_not_chosen_where_all_chunks_matter_alike(probe, model):
    low, high = tuner(probe, model).for_psnr(40.0).policy.threshold.bounds()
    assert low == high


def test_what_cannot_be_met_names_the_best_that_can(probe, model):
    with pytest.raises(ValueError, match=r"speed-up of 50 cannot be met: .* the most is about \d"):
        tuner(probe, model).for_speedup(50)
    with pytest.raises(ValueError, match=r"PSNR of 900 dB cannot be met: the best that skips anything has \d"):
        tuner(probe, model).for_psnr(900)
    with pytest.raises(ValueError, match=r"PSNR of 3 dB cannot be met: .* still has \d+\.\d dB, at \d"):
        tuner(probe, model).for_psnr(3)


def test_what_leaves_nothing_to_skip_is_refused(model):
    run = tiny_run(diffusion_forcing(4, 2, 6, 3), model, policy=Probe(of=FlowCache()))
    run.run()
    never = Tuner(run.trace, run.trace, flow_table(6, 3.0), FlowCache(), lambda policy: pytest.fail("it ran"))
    with pytest.raises(ValueError, match="speed-up of 2 cannot be met: with 5 first and 1 last steps .* about 1.00"):
        never.for_speedup(2)
    with pytest.raises(ValueError, match="PSNR of 30 dB cannot be met by skipping: .*nothing is left to skip"):
        never.for_psnr(30)


@pytest.mark.parametrize(("speedup", "psnr_db", "words"), [
    (0.5, None, "speed-up 0.5"), (1, None, "speed-up 1"), (float("nan"), None, "speed-up nan"),
    (float("inf"), None, "speed-up inf"), (None, -5, "PSNR -5"), (None, float("nan"), "PSNR nan"),
    (None, float("inf"), "PSNR inf")])
def test_targets_that_are_none_are_refused_before_anything_is_sampled(speedup, psnr_db, words):
    with pytest.raises(ValueError, match=f"{words}.*expected a number of more than"):
        check_wanted(speedup, psnr_db)


@pytest.mark.parametrize(("plan", "settings", "predictor"), [
    (dense(4, 2, 12), {}, "velocity"), (rolling(8, 2, 12), {}, "velocity"),
    (diffusion_forcing(6, 2, 12, 4), {"distance_signal": "history"}, "velocity"),
    (diffusion_forcing(6, 2, 12, 4), {"distance_signal": "hidden"}, "residual"),
    (sequential(4, 2, 12, 16), {}, "velocity")], ids=["dense", "rolling", "history", "hidden", "first steps"])
def test_every_plan_and_signal_is_predicted(plan, settings, predictor, model):
    """Joint passes, signals that are not always there, and a first chunk of other steps."""
    table, policy = flow_table(12, 3.0), FlowCache(warmup_steps=2, **settings)
    first = {"first_table": flow_table(16, 3.0)} if plan.first_steps else {}
    run = tiny_run(plan, model, policy=Probe(of=policy), predictor=PREDICTORS.make(predictor), **first)
    run.run()
    told = Prediction(timed(run.trace), run.trace, table, policy, first.get("first_table"))
    fastest = tiny_run(plan, model, policy=told.fastest, predictor=PREDICTORS.make(predictor), **first)
    fastest.run()
    kept, passes = told.computed(told.fastest), [p for p in fastest.trace.passes if p.kind == "denoise"]
    skipped = [p for p in passes if not kept & set(zip(p.chunks, p.steps, strict=True))]
    assert [p for p in passes if not p.calls] == skipped
    assert skipped and told.most > 1


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


def test_signals_are_broken_or_missing_where_their_distances_are():
    nan = float("nan")
    signals = signals_of([None, None, 0.5, nan, nan, 0.25, None])
    assert signals[0] is signals[-1] is None and signals[3].isnan()
    assert [float(signals[n]) for n in (1, 2, 4, 5)] == pytest.approx([1.0, 1.5, 1.5, 1.875])


def test_signals_have_the_distances_they_are_made_from():
    signals = signals_of([None, 0.5, 0.003, 2.0])
    assert [relative_l1(b, a) for a, b in zip(signals[:-1], signals[1:], strict=True)] == pytest.approx(
        [0.5, 0.003, 2], rel=1e-4)


@pytest.mark.parametrize(("words", "predictor", "expected"), [
    ({}, None, (1, "taylor_corrected")), ({"warmup_steps": 4}, None, (4, "taylor_corrected")),
    ({}, "velocity", (1, "velocity"))])
def test_the_command_tunes_the_settings_of_the_balanced_preset(words, predictor, expected):
    from argparse import Namespace

    from flowcache_core.cli.tune import starting_point

    args = Namespace(predictor=predictor, model=None, profile=None)
    policy, chosen = starting_point(args, words)
    assert (policy.warmup_steps, chosen.name) == expected and policy.distance_signal == "time_modulation"


def test_a_written_preset_says_all_of_what_was_tuned(tmp_path):
    from argparse import Namespace

    from flowcache_core.cli.tune import write_preset
    from flowcache_core.profiles import load_preset

    path, policy = tmp_path / "tuned.json", FlowCache("0: 0.05, 1+: 0.2", warmup_steps=1)
    predictor = PREDICTORS.make("taylor_corrected", {"reach": 0.5, "correction": 0.25})
    asked = Namespace(speedup=None, psnr=45.0, chunks=8, model=None, profile=None, out=path)
    write_preset(asked, policy, predictor, {})
    read = load_preset("demo", str(path))
    assert (read.policy, read.predictor) == (policy, predictor)
