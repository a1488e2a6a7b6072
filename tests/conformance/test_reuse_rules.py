"""Both reuse rules, step for step: flags, distances and accumulators."""

import math

import pytest
import torch

from flowcache_core.reuse import Kind, StepInfo, relative_l1
from flowcache_core.reuse.policies.flowcache import Accumulated, FlowCache
from flowcache_core.reuse.polynomials import TABLES
from tests.conformance.golden import cases_of, tensors_of
from tests.conformance.skyreels import IDENTITY, calibration

TIME, CONTENT = cases_of("reuse_time_modulation*.json"), cases_of("reuse_embedding_distance*.json")
ROUNDING = 4e-5              # of an accumulator; decisions closer than this to the threshold need the stored distances


def fed(distances):
    """Measures `distances`, one a call, in place of the signals."""
    given = iter(distances)
    return lambda now, before, eps: next(given)


def walk_time(case, signals, measure=relative_l1):
    policy = FlowCache(str(case["threshold"]), "time_modulation", case["forced_first_steps"],
                       case["num_steps"] - case["cutoff"], calibration=calibration(case), conformance=True)
    state, out = policy.new_state(), []
    for step in range(case["num_steps"]):
        info = StepInfo(0, 1, step, case["num_steps"], "cond#0", 0, 1.0, 0.9, measure=measure)
        decision = policy.decide(state, info, signals[step])
        state = policy.observe(state, info, signals[step], decision)
        out.append((int(decision.computes), decision.distance, state.total))
    return out


@pytest.mark.parametrize("case", TIME, ids=lambda case: f"{case['id']}-{case['kind']}")
def test_time_modulation_from_distances(case):
    measure = fed(d for d in case["d"] if d is not None)
    found = walk_time(case, [torch.ones(1)] * case["num_steps"], measure)
    assert [f[0] for f in found] == case["computed"]
    assert [f[1] for f in found] == case["d"]
    assert [f[2] for f in found] == case["acc"]


def margin(case):
    """The smallest distance of an accumulator from the threshold."""
    before = [0.0, *case["acc"][:-1]]
    return min((abs(total + poly - case["threshold"]) for total, poly in zip(before, case["poly"], strict=True)
                if poly is not None), default=1.0)


@pytest.mark.parametrize("case", [c for c in TIME if margin(c) > ROUNDING], ids=lambda case: case["id"])
def test_time_modulation_from_tensors(case):
    signals = tensors_of(case)[case["id"] + ".e0"]
    found = walk_time(case, signals)
    assert [f[0] for f in found] == case["computed"]
    for (_, distance, total), d, acc in zip(found, case["d"], case["acc"], strict=True):
        assert d is None and distance is None or math.isclose(distance, d, rel_tol=1e-6)
        assert math.isclose(total, acc, rel_tol=1e-4, abs_tol=ROUNDING)


@pytest.mark.parametrize("case", TIME, ids=lambda case: case["id"])
def test_coefficients(case):
    """A table of a name that we know is ours."""
    ours = TABLES.get(case["coefficients_name"])
    assert ours is None or list(ours.coefficients) == case["coefficients"]
    assert ours is not None or case["coefficients"] == IDENTITY, "a table that we do not have"


def walk_content(case, signal_of, measure=relative_l1):
    policy = FlowCache(str(case["threshold"]), "patch_embedding", case["warmup_steps"], 0, conformance=True)
    count, window, offset = case["num_chunks"], case["window"], case["chunk_offset"]
    stage_rows = case["num_steps"] // window
    states = {chunk: Accumulated() for chunk in range(count)}
    for row, expected in enumerate(case["trace"]):
        stage, flags, distances = offset + row // stage_rows, [], []
        chunks = list(range(max(offset, stage - window + 1), min(count, stage + 1)))
        assert chunks == expected["chunks"]
        for chunk in chunks:
            step = row - (chunk - offset) * stage_rows
            info = StepInfo(chunk, count, step, case["num_steps"], "cond#0", 0, 1.0, 0.9,
                            edge_row=row in (0, case["total_steps"] - 1), measure=measure)
            signal = signal_of(row, chunk)
            decision = policy.decide(states[chunk], info, signal)
            states[chunk] = policy.observe(states[chunk], info, signal, decision)
            flags.append(int(decision.kind is Kind.REUSE))
            distances.append(decision.distance)
        yield expected, flags, distances, [states[chunk].total for chunk in range(count)]


@pytest.mark.parametrize("case", CONTENT, ids=lambda case: f"{case['id']}-{case['kind']}")
def test_embedding_distance_from_distances(case):
    measure = fed(d for row in case["trace"] for d in row["d"] if d is not None)
    for expected, flags, distances, totals in walk_content(case, lambda row, chunk: torch.ones(1), measure):
        assert (flags, distances, totals) == (expected["reuse"], expected["d"], expected["acc"]), expected["step"]


def content_margin(case):
    """The smallest relative distance of an evaluated decision from the threshold."""
    given = case.get("min_relative_margin")
    return 1.0 if given is None else given


@pytest.mark.parametrize("case", [c for c in CONTENT if content_margin(c) > 1e-5], ids=lambda case: case["id"])
def test_embedding_distance_from_features(case):
    features = tensors_of(case)[case["id"] + ".features"]
    place = {tuple(label): n for n, label in enumerate(case["rows"])}
    for expected, flags, distances, totals in walk_content(case, lambda row, chunk: features[place[row, chunk]]):
        assert flags == expected["reuse"], expected["step"]
        for found, d in zip(distances, expected["d"], strict=True):
            assert d is None and found is None or math.isclose(found, d, rel_tol=1e-5)
        for found, acc in zip(totals, expected["acc"], strict=True):
            assert math.isclose(found, acc, rel_tol=1e-5, abs_tol=2e-8)
