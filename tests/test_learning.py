"""Learned schedules: errors against plain sums, the path against an exhaustive search, the policy against its file."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from flowcache_core.cli import main
from flowcache_core.fingerprint import fingerprint
from flowcache_core.learning import Errors, OneSkip, Recorder, gains_of, gram_of, learn_errors, reach_of
from flowcache_core.plan import diffusion_forcing
from flowcache_core.reuse import POLICIES, PREDICTORS
from flowcache_core.reuse.policies.schedule import Scheduled
from flowcache_core.reuse.schedules import SKIP, Schedule, load_schedule, spread
from flowcache_core.scheduling import Planner, even, neighbours, refined
from flowcache_core.solvers import Euler, flow_table
from tests.reference import normal, tiny_run, tiny_wan

STEPS, SCALE = 7, 2.5
PLAN = diffusion_forcing(4, 2, STEPS, 3)
SIGMAS = flow_table(STEPS, 3.0).sigmas
STREAMS = ("cond#0", "uncond#0")


def velocities(seed=0):
    """What a recorder would have seen of two videos: `(steps, 30)` for every stream."""
    seen = {}
    for video in (0, 1):
        for n, stream in enumerate(STREAMS):
            walk = normal(STEPS, 30, seed=seed + 10 * video + n).cumsum(0)
            seen.setdefault((video, 0, 0), {})[stream] = {s: walk[s] for s in range(STEPS)}
    return seen


def errors(reach=0.0, seed=0):
    return Errors(gram_of(velocities(seed), STREAMS, SCALE), SIGMAS, reach, np.ones(STEPS), 2)


def predicted(walk, before, last, step, reach):
    ahead = 0.0
    if before != last:
        ahead = min(max((SIGMAS[step] - SIGMAS[last]) / (SIGMAS[last] - SIGMAS[before]), 0.0), reach)
    return walk[last] + ahead * (walk[last] - walk[before])


@pytest.mark.parametrize("reach", [0.0, 1.0])
@pytest.mark.parametrize("derives", [False, True])
def test_a_gap_errs_by_the_sum_of_its_wrong_displacements(reach, derives):
    before, last, whole, stop = 1, 3, 2, 6
    total = []
    for streams in velocities().values():
        cond, uncond = (torch.stack([streams[s][step] for step in range(STEPS)]).double() for s in STREAMS)
        moved = torch.zeros(30, dtype=torch.float64)
        for step in range(last + 1, stop):
            c = predicted(cond, before, last, step, reach)
            u = c + uncond[whole] - cond[whole] if derives else predicted(uncond, before, last, step, reach)
            guess, truth = u + SCALE * (c - u), uncond[step] + SCALE * (cond[step] - uncond[step])
            moved += (SIGMAS[step + 1] - SIGMAS[step]) * (guess - truth)
        total.append(float(moved.square().mean()))
    expected = float(np.mean(total)) ** 0.5
    assert errors(reach).gap(before, last, whole, stop, derives) == pytest.approx(expected, rel=1e-9)


def test_deriving_errs_by_the_change_of_the_difference():
    total = []
    for streams in velocities().values():
        cond, uncond = (torch.stack([streams[s][step] for step in range(STEPS)]).double() for s in STREAMS)
        change = (uncond - cond)[2] - (uncond - cond)[5]
        total.append(float(((1 - SCALE) * change * (SIGMAS[6] - SIGMAS[5])).square().mean()))
    assert errors().derived(2, 5) == pytest.approx(float(np.mean(total)) ** 0.5, rel=1e-9)


def cost_of(actions, found, derives):
    """Error of a schedule, walked step by step."""
    total, before, last, whole = 0.0, 0, 0, 0
    for step in range(1, STEPS):
        if actions[step] == "-":
            continue
        total += found.gap(before, last, whole, step, derives)
        if actions[step] == "C":
            total += found.derived(whole, step)
        before, last = last, step
        whole = step if actions[step] == "F" else whole
    return total


@pytest.mark.parametrize("derives", [False, True])
@pytest.mark.parametrize("reach", [0.0, 1.0])
def test_the_path_is_the_best_of_all_schedules_for_its_price(derives, reach):
    found = errors(reach, seed=3)
    for price in (0.05, 0.3, 1.0):
        path = Planner(found, warmup=1, last=1, derives=derives).cheapest(price)
        letters = itertools.product("FC-" if derives else "F-", repeat=STEPS - 2)
        every = ["F" + "".join(middle) + "F" for middle in letters]

        def total(actions, price=price):
            return cost_of(actions, found, derives) + price * (2 * actions.count("F") + actions.count("C"))
        best = min(every, key=total)
        assert total(path.actions) == pytest.approx(total(best), rel=1e-9)
        assert path.error == pytest.approx(cost_of(path.actions, found, derives), rel=1e-9)
        assert path.cost == 2 * path.actions.count("F") + path.actions.count("C")


def test_a_share_is_kept_and_an_impossible_one_names_the_least():
    planner = Planner(errors(), 2, 1)
    shares = [planner.for_share(share) for share in (1.0, 0.7, 0.5)]
    assert all(path.cost <= share * 2 * STEPS for path, share in zip(shares, (1.0, 0.7, 0.5), strict=True))
    assert shares[0].actions == "F" * STEPS and shares[0].error == 0
    assert shares[1].error <= shares[2].error
    with pytest.raises(ValueError, match=r"0\.2 cannot be met.*the least is 0\.4"):
        planner.for_share(0.2)


def test_refining_ends_where_no_neighbour_is_better():
    def error(actions):   # least where the computed middle steps are 3 and 5
        return sum((a - b) ** 2 for a, b in zip([s for s in range(2, 8) if actions[s] != "-"], (3, 5), strict=True))
    best, found, runs = refined(["FFFF----F"], error, 100, 2, 1)
    assert best == "FF-F-F--F" and found == 0
    limited = refined(["FFFF----F", "FF--FF--F"], error, 3, 2, 1)
    assert limited[2] == 3 and limited[1] <= 1
    assert runs <= 100 and all(n.count("F") == 5 for n in neighbours(best, 2, 1))
    assert even(9, 2, 0.56, 2, 1).count("F") == 5 and even(6, 1, 1.0, 2, 1) == "F" * 6


def test_gains_turn_measured_ends_into_factors():
    found = errors()
    probes = {at: 2.0 * found.gap(at - 1, at - 1, at - 1, at + 1, False) for at in (1, 3, 5)}
    assert gains_of(probes, found) == pytest.approx(np.full(STEPS, 2.0))


@pytest.fixture(scope="module")
def model():
    return tiny_wan()


def learned(model, predictor="taylor", derives=True, share=0.6):
    """From one video of the tiny network."""
    def run(policy, video):
        return tiny_run(PLAN, model, policy=policy, guidance=SCALE, solver=Euler(), seed=video).run()
    found = learn_errors(run, 2, SIGMAS, STREAMS, SCALE, PREDICTORS.make(predictor), probes=2)
    path = Planner(found, 2, 1, derives).for_share(share)
    return Schedule(path.actions, SIGMAS, STREAMS, SCALE, predictor, fingerprint(model), path.error), found


def test_one_skip_is_foreseen_to_the_number_by_the_recorded_velocities(model):
    """With Euler's steps and a sample of everything, the displacement of the skipped step itself is exact."""
    seen = {}
    one = diffusion_forcing(2, 2, STEPS, 3)
    truth = tiny_run(one, model, policy=Recorder(seen), guidance=SCALE, solver=Euler()).run()
    found = Errors(gram_of(seen, STREAMS, SCALE), SIGMAS, 0.0, np.ones(STEPS), 2)
    last = STEPS - 1   # nothing follows that could change the error
    skipped = tiny_run(one, model, policy=OneSkip(last), guidance=SCALE, solver=Euler()).run()
    error = float((skipped - truth).double().square().mean().sqrt())
    assert found.gap(last - 1, last - 1, last - 1, last + 1, False) == pytest.approx(error, rel=1e-4)


def test_a_learned_schedule_is_followed_saved_and_read_again(model, tmp_path):
    schedule, _ = learned(model)
    path = tmp_path / "schedule.json"
    schedule.save(path, {"command": "test"})
    assert load_schedule(str(path)).actions == schedule.actions
    policy = POLICIES.make("schedule", {"file": str(path)})
    run = tiny_run(PLAN, model, policy=policy, predictor=PREDICTORS.make("taylor"), guidance=SCALE)
    run.run()
    for p in run.trace.passes:
        for lane in p.lanes:
            action = schedule.actions[lane.step]
            wanted = {"F": "compute", "C": "compute" if lane.stream == "cond#0" else "derive",
                      "-": "derive" if lane.stream != "cond#0" and schedule.derives else "predict"}[action]
            assert lane.decision == wanted, (lane.step, action)
    assert run.trace.computed_share == pytest.approx(schedule.share)


@given(some.text("FC-", min_size=1, max_size=60).map(lambda rest: "F" + rest), some.integers(1, 80))
def test_a_schedule_spread_over_other_steps_is_as_dense_everywhere(actions, steps):
    made = spread(actions, steps)
    assert len(made) == steps and made[0] == "F" and set(made) <= set(actions)
    assert steps == 1 or (made[-1] == SKIP) <= (actions[-1] == SKIP)
    computed = [n / len(actions) for n, action in enumerate(actions) if action != SKIP]
    for stop in range(1, steps):   # forced ends may add one
        begun = sum(min(1.0, max(0.0, (stop / steps - at) * len(actions))) for at in computed) * steps / len(actions)
        assert abs(sum(action != SKIP for action in made[:stop]) - begun) <= 1
    assert spread(actions, len(actions)) == actions


def test_a_schedule_of_another_step_count_runs_where_that_is_asked_for(model):
    schedule = Schedule("FF-F-FF", SIGMAS, STREAMS, SCALE, "velocity", fingerprint(model))
    run = tiny_run(diffusion_forcing(4, 2, 10, 3), model, guidance=SCALE,
                   policy=Scheduled(file="x.json", schedule=schedule, other_grid=True))
    run.run()
    computed = {lane.step for p in run.trace.passes for lane in p.lanes if lane.decision == "compute"}
    assert computed == {n for n, action in enumerate(spread("FF-F-FF", 10)) if action != SKIP}
    assert 2 < len(computed) < 10


def test_all_whole_is_off_bit_for_bit(model):
    schedule = Schedule("F" * STEPS, SIGMAS, STREAMS, SCALE, "velocity", fingerprint(model))
    off, run = (tiny_run(PLAN, model, policy=policy, guidance=SCALE).run()
                for policy in (POLICIES.make("off"), Scheduled(schedule=schedule)))
    assert torch.equal(off, run)


@pytest.mark.parametrize(("change", "words"), [
    ({"sigmas": flow_table(STEPS, 5.0).sigmas}, "another grid"), ({"fingerprint": (1.0, 2.0)}, "another network"),
    ({"predictor": "velocity"}, "of the predictor velocity"), ({"streams": ("cond#0",)}, "of the streams cond#0"),
    ({"sigmas": flow_table(4, 3.0).sigmas, "actions": "FF-F"}, "of 4 steps and this run takes 7")])
def test_a_schedule_of_another_run_is_refused_in_one_sentence(model, change, words):
    schedule = Schedule("FF-F-FF", SIGMAS, STREAMS, SCALE, "taylor", fingerprint(model))
    with pytest.raises(ValueError, match=words) as error:
        tiny_run(PLAN, model, policy=Scheduled(file="x.json", schedule=replace(schedule, **change)), guidance=SCALE,
                 predictor=PREDICTORS.make("taylor"))
    assert "learn one" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["{}", '{"schema": "other"}', "[]", "no json"])
def test_what_is_no_schedule_is_refused(tmp_path, content):
    path = tmp_path / "s.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="none of ours.*command learn"):
        load_schedule(str(path))


def test_bad_wishes_are_refused():
    with pytest.raises(ValueError, match="predictor residual"):
        reach_of(PREDICTORS.make("residual"))
    with pytest.raises(ValueError, match="first step must be F"):
        Schedule("-F", (1.0, 0.5, 0.0), STREAMS, 1.0, "velocity", ())
    with pytest.raises(ValueError, match="one stream"):
        Planner(replace(errors(), streams=1), derives=True)


def test_learn_writes_a_schedule_that_generate_follows(tmp_path, capsys):
    path, quick = tmp_path / "learned.json", ["--chunks", "1", "--steps", "6"]
    words = ["learn", "--share", "0.6", "--videos", "1", "--probes", "1", "--runs", "4", "--predictor", "velocity"]
    assert main([*words, *quick, "--out", str(path)]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(result["actions"]) == 6 and result["computed_share"] <= 0.6
    generate = ["generate", "--policy", "schedule", "--set", f"file={path}", "--out", str(tmp_path / "run"), *quick]
    assert main(generate) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["computed_share"] == result["computed_share"]
    assert main([*generate[:-1], "7"]) == 2
    assert "this run takes 7" in capsys.readouterr().err
