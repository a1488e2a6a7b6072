"""What every registered policy must keep, with every predictor. A new policy is tested here without a line of its own,
unless it needs a file or does nothing by default."""

import copy
import json
from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch

from flowcache_core.fingerprint import fingerprint
from flowcache_core.plan import diffusion_forcing, rolling, sequential
from flowcache_core.reuse import POLICIES, PREDICTORS, Kind
from flowcache_core.reuse.contract import OUTSIDE, Outcome
from flowcache_core.reuse.magnitudes import Magnitudes
from flowcache_core.reuse.schedules import Schedule
from flowcache_core.run_state import read_state, write_state
from flowcache_core.solvers import SOLVERS, Euler, flow_table
from tests.reference import decisions, normal, texts, tiny_run, tiny_wan
from tests.reuse.toy import ConstantFlow, LinearFlow, step_info

INERT = {"off"}              # do nothing by default, on purpose
NEED_A_TRACE, NEED_A_CALIBRATION, NEED_A_SCHEDULE = {"replay"}, {"magcache"}, {"schedule"}
PLAN = diffusion_forcing(5, 2, 10, 3)
BATCH = {"items": 2, "guidance": 2.0}
by_policy = pytest.mark.parametrize("name", POLICIES.names())
WITH_RESIDUAL = ("flowcache", "magcache", "mixcache")   # the others with velocity, and every_nth with all
PAIRS = [*((p, "residual" if p in WITH_RESIDUAL else "velocity") for p in POLICIES.names() if p != "every_nth"),
         *(("every_nth", predictor) for predictor in PREDICTORS.names())]
BOLD = {"easycache": {"threshold": 5.0},   # where defaults do nothing on a network of random weights
        "mixcache": {"threshold": 20.0, "open_below": 1.0, "close_above": 1000.0}}
LAGGING = ("increment", "offset")   # a constant velocity is not repeated exactly
by_pair = pytest.mark.parametrize(("name", "predictor"), [(p, PREDICTORS.make(n)) for p, n in PAIRS],
                                  ids=[f"{p}-{n}" for p, n in PAIRS])


@pytest.fixture(scope="module")
def model():
    """It moves gently with the timestep, as a trained network does, so that every policy finds steps to skip."""
    model = tiny_wan()
    model.time_projection[1].weight *= 0.1
    return model


@pytest.fixture
def make(tmp_path, model):
    """`make(name, plan, disabled)`: a policy with its defaults, or its DISABLED settings, for runs of a plan."""
    def made(name, plan=PLAN, disabled=False, backbone=model, predictor="velocity", **batch):
        settings = dict(POLICIES[name].DISABLED if disabled else BOLD.get(name, {}))
        if name in NEED_A_TRACE:
            source = POLICIES.make("off" if disabled else "every_nth")
            run = run_with(source, backbone, plan, **(batch or BATCH))
            run.run()
            path = tmp_path / "trace.json"
            run.trace.save(path)
            settings["trace"] = str(path)
        if name in NEED_A_CALIBRATION:
            ratios = (1.0, *(0.995,) * (plan.num_steps - 1))
            path = tmp_path / "magnitudes.json"
            Magnitudes(flow_table(plan.num_steps, 3.0).sigmas[:-1], {"cond#0": ratios, "uncond#0": ratios}, predictor,
                       fingerprint(backbone)).save(path, {})
            settings["calibration"] = str(path)
        if name in NEED_A_SCHEDULE:
            path = tmp_path / "schedule.json"
            Schedule(("FFF-" * plan.num_steps)[:plan.num_steps], flow_table(plan.num_steps, 3.0).sigmas,
                     ("cond#0", "uncond#0"), 2.0, predictor, fingerprint(backbone)).save(path, {})
            settings["file"] = str(path)
        return POLICIES.make(name, settings)
    return made


def run_with(policy, model, plan=PLAN, **settings):
    return tiny_run(plan, model, policy=policy, **(settings or BATCH))


@by_pair
@pytest.mark.parametrize("plan", [PLAN, sequential(4, 2, 10), rolling(6, 2, 10)], ids=lambda plan: plan.name)
def test_disabled_equals_off_bit_for_bit(name, predictor, plan, model, make):
    policy = make(name, plan, disabled=True, predictor=predictor.name)
    run, off = (run_with(p, model, plan, predictor=predictor, **BATCH) for p in (policy, POLICIES.make("off")))
    assert torch.equal(run.run(), off.run())
    assert set(run.trace.counts()) == {"compute"}


@by_policy
def test_defaults_skip_something(name, model, make):
    run = run_with(make(name), model)
    run.run()
    assert (run.trace.computed_share < 1) == (name not in INERT)


@by_pair
def test_two_runs_are_identical(name, predictor, model, make):
    policy = make(name, predictor=predictor.name)
    runs = [run_with(policy, model, predictor=predictor, **BATCH) for _ in range(2)]
    assert torch.equal(runs[0].run(), runs[1].run())
    assert decisions(runs[0]) == decisions(runs[1])
    assert sum(runs[0].trace.counts().values()) == 4 * PLAN.chunk_steps() == len(decisions(runs[0]))


@by_pair
def test_a_run_goes_on_from_its_states_bit_for_bit(name, predictor, model, make, tmp_path):
    """Whatever a policy and a predictor remember must be something that a run state can hold."""
    policy, states, chunks = make(name, predictor=predictor.name), [], {}

    def keep(state):
        states.append(tmp_path / f"{len(states)}.safetensors")
        write_state(states[-1], state, {})

    whole = run_with(policy, model, predictor=predictor, **BATCH)
    latents = whole.run(None, lambda chunk, latent: chunks.update({chunk: latent.clone()}), keep)
    rest = run_with(policy, model, predictor=predictor, **BATCH)
    rest.restore(read_state(states[0])[0], chunks)
    assert torch.equal(rest.run(), latents)
    assert decisions(rest) == decisions(whole)


@by_policy
def test_deciding_changes_nothing(name, make):
    policy = make(name, sequential(2, 2, 10), items=1)
    state, before = policy.new_state(), copy.deepcopy(policy)
    for step in range(10):
        info, signal = step_info(step), normal(4, 2, 2, 2, seed=step) + 5
        signal = {0: signal} if policy.per_row else signal
        outcome = Outcome(*(normal(4, 2, 4, 4, seed=20 + n) + 5 for n in range(3)), losses={"step": 0.01}, whole=True)
        before_all = copy.deepcopy((state, signal, outcome))
        first, second = policy.decide(state, info, signal), policy.decide(state, info, signal)
        assert first == second and first.reason
        following = policy.observe(state, info, signal, first)
        assert same(following, policy.observe(state, info, signal, first))
        learnt = policy.learn(following, info, first, outcome)
        assert same(learnt, policy.learn(following, info, first, outcome))
        assert same((state, signal, outcome), before_all), "the next state is returned and the old one left alone"
        state = learnt
    assert policy == before


def same(a, b) -> bool:
    """Equality of states, which may hold tensors."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, (tuple, list)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if hasattr(a, "__dataclass_fields__"):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return a == b


@by_policy
def test_policies_and_their_states_are_frozen(name, make):
    policy = make(name)
    for thing in (policy, policy.new_state()):
        for f in fields(thing) if thing is not None else ():
            with pytest.raises(FrozenInstanceError):
                setattr(thing, f.name, 1)


@pytest.mark.parametrize(("registry", "name"), [(r, n) for r in (POLICIES, PREDICTORS, SOLVERS) for n in r.names()],
                         ids=lambda value: value if isinstance(value, str) else value.what)
def test_classes_and_knobs_are_documented(registry, name):
    cls = registry[name]
    assert cls.name == name and cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}(")
    assert all(len(f.metadata.get("doc", "")) > 8 for f in fields(cls))


def knobs():
    for name in POLICIES.names():
        for f in fields(POLICIES[name]):
            for bound, off in (("low", -1), ("high", 1)):
                if f.metadata.get(bound) is not None:
                    yield name, f.name, f.metadata[bound] + off
            if f.type is int:
                yield name, f.name, 1.5
                yield name, f.name, "3"


@pytest.mark.parametrize(("name", "knob", "value"), list(knobs()))
def test_a_knob_out_of_its_range_is_named_with_its_value(name, knob, value):
    with pytest.raises(ValueError, match=rf"{knob}.*{value}"):
        POLICIES.make(name, {knob: value})


@by_policy
def test_an_unknown_setting_is_named_with_the_known_ones(name):
    with pytest.raises(ValueError, match="no setting treshold"):
        POLICIES.make(name, {"treshold": 1})


@pytest.mark.parametrize("registry", [POLICIES, PREDICTORS, SOLVERS], ids=lambda registry: registry.what)
def test_an_unknown_name_lists_the_known_ones(registry):
    with pytest.raises(ValueError, match=f"{registry.what} 'nosuch'.*{registry.names()[0]}"):
        registry["nosuch"]
    with pytest.raises(ValueError, match="twice"):
        registry.register(registry.names()[0])(object)


@by_policy
def test_what_the_plan_must_compute_is_computed(name, model, make):
    must = {(0, 3), (1, 4), (1, 5), (2, 8)}
    rows = tuple(tuple(replace(p, must_compute=True) if (p.chunks[0], p.steps[0]) in must else p for p in row)
                 for row in PLAN.rows)
    run = run_with(make(name), model, replace(PLAN, rows=rows), **BATCH)
    run.run()
    lanes = [lane for p in run.trace.passes for lane in p.lanes if (lane.chunk, lane.step) in must]
    assert len(lanes) == 16 and {lane.decision for lane in lanes} == {"compute"}


@by_policy
def test_nothing_is_skipped_outside_of_the_steps_that_the_run_allows(name, model, make):
    """Steps 0 to 4 and 8, 9 of 10 are computed, for that reason; within, something is skipped."""
    run = run_with(make(name), model, **BATCH, reuse_from=0.5, reuse_until=0.7)
    run.run()
    lanes = [lane for p in run.trace.passes for lane in p.lanes]
    outside = [lane for lane in lanes if lane.step not in (5, 6, 7)]
    assert {lane.decision for lane in outside} == {"compute"}
    assert run.settings.policy.per_row or {lane.reason for lane in outside} == {OUTSIDE}
    never = run_with(make(name), model, **BATCH, reuse_from=0.05, reuse_until=0.05)   # between two steps
    off = run_with(POLICIES.make("off"), model, **BATCH)
    assert torch.equal(never.run(), off.run())


@pytest.mark.parametrize(("start", "end"), [(-0.1, 1.0), (0.6, 0.5), (0.0, 1.1)])
def test_a_part_of_the_steps_that_is_none_is_refused(model, start, end):
    with pytest.raises(ValueError, match="expected two numbers of 0 to 1"):
        run_with(POLICIES.make("off"), model, reuse_from=start, reuse_until=end)


@by_pair
def test_items_are_isolated(name, predictor, model, make):
    policy = make(name, predictor=predictor.name)
    together, alone = (run_with(policy, model, predictor=predictor, **{**BATCH, "items": n}) for n in (2, 1))
    torch.testing.assert_close(together.run()[:1], alone.run(), atol=1e-5, rtol=1e-5)
    assert {place: d for place, d in decisions(together).items() if place[3] == 0} == decisions(alone)


@by_policy
def test_streams_decide_as_if_alone(name, model, make):
    """At guidance 0 the latents are those of uncond, so its decisions must be those of a run with uncond alone."""
    policy, words = make(name), texts(3)
    both = tiny_run(PLAN, model, words, policy=policy, guidance=0.0)
    alone = tiny_run(PLAN, model, {"cond#0": words["uncond#0"]}, policy=policy)
    torch.testing.assert_close(both.run(), alone.run(), atol=1e-5, rtol=1e-5)
    assert [d for (*_, s, _), d in sorted(decisions(both).items()) if s == "uncond#0"] == [
        d for _, d in sorted(decisions(alone).items())]


@by_policy
def test_chunks_decide_as_if_no_later_one_followed(name, model, make):
    if POLICIES[name].per_row:
        return   # it looks at the run's last row, which a longer video has elsewhere
    long, short = sequential(6, 2, 10), sequential(2, 2, 10)
    policy = make(name, long)
    runs = [run_with(policy, model, plan, **BATCH) for plan in (long, short)]
    assert torch.equal(runs[0].run()[:, :, :2], runs[1].run())
    assert {place: d for place, d in decisions(runs[0]).items() if place[0] == 0} == decisions(runs[1])


@by_pair
@pytest.mark.parametrize("plan", [PLAN, sequential(4, 2, 10)], ids=lambda plan: plan.name)
def test_a_constant_velocity_makes_every_policy_exact(name, predictor, plan, make):
    if predictor.name in LAGGING:
        return
    words = {stream: [normal(1, 3, 4)] * len(plan.chunks) for stream in ("cond#0", "uncond#0")}
    policy = make(name, plan, backbone=ConstantFlow(), predictor=predictor.name)
    run, off = (tiny_run(plan, ConstantFlow(), words, policy=p, predictor=predictor, **BATCH)
                for p in (policy, POLICIES.make("off")))
    assert torch.equal(run.run(), off.run())
    assert (run.trace.computed_share < 1) == (name not in INERT)


def test_first_order_is_exact_on_a_straight_line_and_a_repetition_errs_as_computed_by_hand():
    """The velocity is `(1 + sigma) * picture`: a repeated one from sigma 1 errs by `(sigma - sigma_1) * picture`."""
    plan, table = sequential(2, 2, 10), flow_table(10, 3.0, False)   # timesteps that are not rounded
    words = {"cond#0": [normal(1, 3, 4)]}
    skips = POLICIES.make("every_nth", {"interval": 3})
    latents = {}
    for name, settings in (("off", {}), ("velocity", {}), ("residual", {}), ("taylor", {"reach": 1000.0}),
                           ("taylor_residual", {"reach": 1000.0})):
        policy, predictor = (POLICIES.make("off"), "velocity") if name == "off" else (skips, name)
        latents[name] = tiny_run(plan, LinearFlow(), words, policy=policy, solver=Euler(), table=table,
                                 predictor=PREDICTORS.make(predictor, settings)).run()
    for name in ("taylor", "taylor_residual"):
        torch.testing.assert_close(latents[name], latents["off"], atol=1e-5, rtol=1e-5)
    last, error = 0.0, 0.0
    for step in range(10):
        if skips.decide(None, step_info(step), None).computes:
            last = table.sigmas[step]
        error += (last - table.sigmas[step]) * (table.sigmas[step + 1] - table.sigmas[step])
    picture = LinearFlow().picture(range(2))
    for name in ("velocity", "residual"):
        torch.testing.assert_close(latents[name] - latents["off"], error * picture, atol=1e-5, rtol=1e-4)


def held(value) -> int:
    """Bytes of the tensors in a value."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if hasattr(value, "__dataclass_fields__"):
        return sum(held(getattr(value, f.name)) for f in fields(value))
    return sum(map(held, value)) if isinstance(value, tuple) else 0


@by_pair
def test_no_more_is_held_than_declared_and_nothing_after_the_run(name, predictor, model, make):
    policy, peak = make(name, predictor=predictor.name), []
    run = run_with(policy, model, predictor=predictor)
    tokens, latent, width = 8, 4 * 2 * 16 * 4, 24
    signal = {"none": 0, "time_modulation": 6 * width * 4, "patch_embedding": tokens * width * 4,
              "latent": latent}[policy.signal]
    chunks = len(PLAN.chunks) if policy.per_row else 1
    value = latent if predictor.stage == "velocity" else tokens * width * 4

    def check(progress):
        lanes = run._lanes
        peak.append(max(map(held, lanes._states.values()), default=0))
        assert peak[-1] <= chunks * policy.state_bytes(signal, latent)
        assert all(held(kept) <= predictor.kept_bytes(value, tokens) for kept in lanes.kept.values())
        assert not lanes.fresh and not lanes.evidence

    run.run(check)
    assert max(peak) > 0 or policy.signal == "none"
    lanes = run._lanes
    assert not any((lanes._states, lanes.kept, lanes.ranges, lanes.differences, lanes.last))


@by_policy
def test_an_error_leaves_nothing_behind(name, model, make):
    run = run_with(make(name), model)

    def fail(progress):
        if progress.done == 9:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run.run(fail)
    lanes = run._lanes
    assert not any((lanes._states, lanes.kept, lanes.ranges, lanes.differences, lanes.last))
    assert not lanes.fresh and not lanes.evidence


@by_policy
def test_settings_can_be_written_down_and_read_back(name, make):
    policy = make(name)
    assert POLICIES.make(name, json.loads(json.dumps(policy.settings()))) == policy


def test_kinds_have_the_names_of_the_trace():
    assert [kind.value for kind in Kind] == ["compute", "reuse", "predict", "partial", "derive"]
