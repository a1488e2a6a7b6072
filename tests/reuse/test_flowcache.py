"""FlowCache's accumulator against a loop of ten lines and against the released rule."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowcache_core.plan import diffusion_forcing
from flowcache_core.reuse import relative_l1
from flowcache_core.reuse.policies.flowcache import FlowCache
from flowcache_core.reuse.polynomials import TABLES
from tests.reference import PROPERTY, TINY, accumulator, decisions, normal, tiny_run
from tests.reuse.toy import step_info


def walk(policy, signals, chunk=0, chunks=1):
    """The decisions of one lane over all its signals."""
    state, found = policy.new_state(), []
    for step, signal in enumerate(signals):
        info = step_info(step, len(signals), chunk, chunks)
        found.append(policy.decide(state, info, signal))
        state = policy.observe(state, info, signal, found[-1])
    return found


def computed(found):
    return [decision.computes for decision in found]


def growing(*factors):
    """Signals of one number: each the one before times a factor, so that every distance is |factor - 1|."""
    signals = [torch.tensor([64.0])]
    for factor in factors:
        signals.append(signals[-1] * factor)
    return signals


@PROPERTY
@given(st.lists(st.floats(0, 1), min_size=1, max_size=25), st.floats(0, 2), st.integers(1, 5), st.integers(0, 3),
       st.integers(0, 4))
def test_decisions_equal_the_accumulator(distances, threshold, warmup, last, longest):
    signals = growing(*(1 + d for d in distances[1:]))
    exact = [0.0, *(float((b - a).abs() / a.abs()) for a, b in zip(signals[:-1], signals[1:], strict=True))]
    found = walk(FlowCache(threshold, "patch_embedding", warmup, last, longest), signals)
    assert computed(found) == accumulator(exact, threshold, warmup, last, longest)


def test_a_walk_by_hand():
    found = walk(FlowCache(0.5, warmup_steps=1, last_steps=0), growing(1.25, 1.125, 1.25, 1.125, 1.0, 1.0, 1.5))
    assert computed(found) == [True, False, False, True, False, False, False, True]
    assert [d.value for d in found[1:]] == [0.25, 0.375, 0.625, 0.125, 0.125, 0.125, 0.625]
    assert [d.distance for d in found[1:]] == [0.25, 0.125, 0.25, 0.125, 0, 0, 0.5]


def test_a_sum_that_is_exactly_the_threshold_computes():
    signals = growing(1.25, 1.25, 1.25)
    above = math.nextafter(0.5, 1)
    assert computed(walk(FlowCache(0.5, warmup_steps=1, last_steps=0), signals)) == [True, False, True, False]
    assert computed(walk(FlowCache(above, warmup_steps=1, last_steps=0), signals)) == [True, False, False, True]


@pytest.mark.parametrize(("settings", "expected"), [
    ({"warmup_steps": 4}, "1111000001"), ({"warmup_steps": 1, "last_steps": 3}, "1000000111"),
    ({"warmup_steps": 1, "last_steps": 0}, "1000000000"),
    ({"warmup_steps": 2, "max_consecutive_skips": 2}, "1100100101"),
    ({"warmup_steps": 1, "max_consecutive_skips": 1}, "1010101011"), ({"warmup_steps": 20}, "1" * 10),
    ({"warmup_steps": 1, "last_steps": 20}, "1" * 10), ({"threshold": 0.0, "warmup_steps": 1}, "1" * 10)])
def test_warm_up_last_steps_and_longest_run_of_skips(settings, expected):
    """On a signal that does not move at all."""
    found = walk(FlowCache(**{"threshold": 1.0, **settings}), growing(*[1.0] * 9))
    assert "".join(str(int(c)) for c in computed(found)) == expected


def test_the_reason_names_the_rule():
    found = walk(FlowCache(0.5, warmup_steps=2, max_consecutive_skips=1), growing(1, 1, 1, 2, 1))
    assert [d.reason for d in found] == ["warm-up", "warm-up", "below threshold", "longest run of skips",
                                         "threshold reached", "last steps"]
    assert all(d.limit == 0.5 for d in found)


def test_every_chunk_has_its_threshold():
    policy = FlowCache("0:0.1, 1-2:0.3, 3+:0.6", warmup_steps=1, last_steps=0)
    signals = growing(*[1.25] * 4)
    assert ["".join(str(int(c)) for c in computed(walk(policy, signals, chunk, 5))) for chunk in range(5)] == [
        "11111", "10101", "10101", "10010", "10010"]


def test_a_ramp_runs_from_the_first_to_the_last_chunk():
    policy = FlowCache("0.2->0.6", warmup_steps=1)
    assert [walk(policy, growing(1), chunk, 3)[0].limit for chunk in range(3)] == pytest.approx([0.2, 0.4, 0.6])


@pytest.mark.parametrize("broken", [torch.tensor([math.nan]), torch.tensor([math.inf])])
def test_a_signal_that_is_no_number_computes_and_does_not_stick(broken):
    signals = [torch.tensor([64.0])] * 3 + [broken] + [torch.tensor([64.0])] * 4
    found = walk(FlowCache(0.5, warmup_steps=1, last_steps=0), signals)
    assert computed(found) == [True, False, False, True, True, False, False, False]


def test_a_signal_of_zeros_computes():
    assert all(computed(walk(FlowCache(0.5, warmup_steps=1, last_steps=0), [torch.zeros(3)] * 4)))


def test_the_distance_is_the_relative_mean_absolute_change_in_fp32():
    a, b = torch.tensor([1.0, -3.0]), torch.tensor([2.0, -3.5])
    assert relative_l1(b, a) == 0.75 / 2
    assert relative_l1(b.bfloat16(), a.bfloat16()) == 0.75 / 2
    assert math.isnan(relative_l1(torch.zeros(2), torch.zeros(2)))
    assert relative_l1(torch.zeros(2), torch.zeros(2), eps=1e-8) == 0


@pytest.mark.parametrize("value", [-0.1, 101, "0:0.1, 1+:-2", "0.1->200", float("nan"), "nan", "0.1->nan", "lots"])
def test_thresholds_out_of_range_are_refused(value):
    with pytest.raises(ValueError, match="threshold"):
        FlowCache(value)


def test_an_unknown_signal_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'colour'.*time_modulation, patch_embedding"):
        FlowCache(distance_signal="colour")


def test_thresholds_that_end_before_the_video_are_refused_for_it():
    policy = FlowCache("0:0.1, 1:0.2")
    policy.check(2)
    with pytest.raises(ValueError, match="chunk 2 of 3"):
        policy.check(3)


def test_time_modulation_decides_by_time_alone():
    """Not by seed, prompt, content, stream, item or chunk."""
    plan, found = diffusion_forcing(6, 2, 12, 3), []
    for seed in (1, 2):
        words = {stream: [normal(2, 5, TINY.dim, seed=10 * seed + n)] * 3
                 for n, stream in enumerate(["cond#0", "uncond#0"])}
        run = tiny_run(plan, None, words, policy=FlowCache(0.2, warmup_steps=2), items=2, guidance=3.0, seed=seed)
        run.run()
        found.append(decisions(run))
    assert found[0] == found[1]
    per_lane = {}
    for (chunk, step, stream, item), decision in found[0].items():
        per_lane.setdefault((chunk, stream, item), {})[step] = decision
    assert len(per_lane) == 12 and all(steps == per_lane[0, "cond#0", 0] for steps in per_lane.values())
    assert set(per_lane[0, "cond#0", 0].values()) == {"compute", "reuse"}


def test_patch_embedding_decides_by_content():
    plan, policy = diffusion_forcing(6, 2, 12, 3), FlowCache(0.3, "patch_embedding", 1)
    runs = [tiny_run(plan, policy=policy, seed=seed) for seed in (1, 2)]
    assert [run.run() for run in runs] and decisions(runs[0]) != decisions(runs[1])


@pytest.mark.parametrize("table", ["1.3B_ret", "14B_ret"])
def test_the_default_polynomial_neither_sinks_nor_falls_back(table):
    """The released one is negative below its first zero and above its last, so that its sums sink, threshold 0 skips
    and a large change counts as none."""
    polynomial = TABLES[table]
    low, high = polynomial.fitted_range
    assert polynomial(low) == pytest.approx(0, abs=1e-3) and polynomial(0.0) < 0 and polynomial(0.5) < 0
    changes = [polynomial.clamped(n / 2000) for n in range(1001)]
    assert changes[0] == pytest.approx(0, abs=1e-9) and min(changes) >= 0
    assert {change for n, change in enumerate(changes) if n / 2000 >= high} == {polynomial(high)} == {max(changes)}
    inside = (low + high) / 2
    assert polynomial.clamped(inside) == polynomial(inside)
    still, leaping = growing(*[1.0] * 9), growing(*[1.5] * 9)
    for conformance, skips in ((True, True), (False, False)):
        off = FlowCache(0.0, warmup_steps=1, calibration=table, conformance=conformance)
        assert any(not d.computes for d in walk(off, still)) == skips
        some = FlowCache(0.05, warmup_steps=1, calibration=table, conformance=conformance)
        assert any(not d.computes for d in walk(some, leaping)[1:-1]) == skips


@pytest.mark.parametrize("table", ["1.3B_noret", "14B_noret"])
def test_tables_that_were_fitted_on_another_signal_need_conformance(table):
    with pytest.raises(ValueError, match="offered with conformance only"):
        FlowCache(calibration=table)
    assert FlowCache(calibration=table, conformance=True).calibration == table
    with pytest.raises(ValueError, match=r"'2B': choose one of none, 1.3B_ret"):
        FlowCache(calibration="2B")
