"""Whatever is registered runs with whatever else is registered, or is refused in one sentence."""

import itertools
import os
from pathlib import Path

import pytest

from flowcache_core.attention import SPARSE, SparseAttention
from flowcache_core.composition import EXCLUSIONS, composes, refusals
from flowcache_core.fingerprint import fingerprint
from flowcache_core.kv import MERGERS, SCORERS, Compression, KVBudget
from flowcache_core.plan import diffusion_forcing
from flowcache_core.reuse import POLICIES, PREDICTORS
from flowcache_core.reuse.magnitudes import Magnitudes
from flowcache_core.reuse.schedules import Schedule
from flowcache_core.run_settings import RunSettings
from flowcache_core.solvers import Renoise, flow_table
from tests.reference import make_scorer, tiny_run, tiny_wan

STEPS, STREAMS = 6, ("cond#0", "uncond#0")
PLAN, SIGMAS = diffusion_forcing(8, 2, STEPS, 3), flow_table(STEPS, 3.0).sigmas
BUDGET = {"budget": KVBudget(3)}
KV = {"all": {}, "window": BUDGET,
      **{name: {**BUDGET, "compression": Compression(make_scorer(name))} for name in SCORERS.names()},
      **{name: {**BUDGET, "compression": Compression(SCORERS.make("recency"), merger=MERGERS.make(name))}
         for name in MERGERS.names()}}
SPARSE_OF = {"dense": None, **{name: SparseAttention((SPARSE.make(name),), 0.2, 0.0) for name in SPARSE.names()}}
BOLD = {"easycache": {"threshold": 5.0}, "flowcache": {"threshold": 0.5, "warmup_steps": 2},
        "mixcache": {"threshold": 20.0, "open_below": 1.0, "close_above": 1000.0, "warmup_steps": 2}}
AXES = (POLICIES.names(), PREDICTORS.names(), list(KV), list(SPARSE_OF))


@pytest.fixture(scope="module")
def model():
    model = tiny_wan()
    model.time_projection[1].weight *= 0.1
    return model


@pytest.fixture(scope="module")
def make(model, tmp_path_factory):
    """`make(policy, predictor)`, with files made for that predictor."""
    folder, known = tmp_path_factory.mktemp("files"), {}

    def file_for(name: str, predictor: str) -> Path:
        path = folder / f"{name}-{predictor}.json"
        if name == "magcache":
            Magnitudes(SIGMAS[:-1], dict.fromkeys(STREAMS, (1.0, *(0.995,) * (STEPS - 1))), predictor,
                       fingerprint(model)).save(path, {})
        elif name == "schedule":
            Schedule("FFC-FF", SIGMAS, STREAMS, 2.0, predictor, fingerprint(model)).save(path, {})
        else:
            run = tiny_run(PLAN, model, policy=POLICIES.make("every_nth"), guidance=2.0)
            run.run()
            run.trace.save(path)
        return path

    def made(name: str, predictor: str):
        if (name, predictor) not in known:
            words = dict(BOLD.get(name, {}))
            key = {"magcache": "calibration", "schedule": "file", "replay": "trace"}.get(name)
            if key:
                words[key] = str(file_for(name, predictor))
            known[name, predictor] = POLICIES.make(name, words)
        return known[name, predictor]
    return made


def run_one(make, model, policy, predictor, kv, sparse):
    run = tiny_run(PLAN, model, policy=make(policy, predictor), predictor=PREDICTORS.make(predictor), guidance=2.0,
                   sparse=SPARSE_OF[sparse], **KV[kv])
    assert run.run().isfinite().all(), (policy, predictor, kv, sparse)
    if "budget" in KV[kv]:
        tokens = PLAN.chunks[0].frames * run._tokens
        assert max(p.kv_tokens for p in run.trace.passes) <= 3 * tokens


def covering():
    """Combinations in which every pair of choices of two axes occurs at least once."""
    wanted = {(a, x, b, y) for a, b in itertools.combinations(range(4), 2) for x in AXES[a] for y in AXES[b]}
    chosen = []
    while wanted:
        def gain(row, wanted=wanted):
            return sum((a, row[a], b, row[b]) in wanted for a, b in itertools.combinations(range(4), 2))
        a, x, b, y = min(wanted)
        fixed = [[x] if axis == a else [y] if axis == b else AXES[axis] for axis in range(4)]
        best = max(itertools.product(*fixed), key=gain)
        chosen.append(best)
        wanted -= {(a, best[a], b, best[b]) for a, b in itertools.combinations(range(4), 2)}
    return chosen


def test_every_pair_of_choices_runs(make, model):
    rows = covering()
    assert {row[0] for row in rows} == set(POLICIES.names()) and {row[1] for row in rows} == set(PREDICTORS.names())
    for row in rows:
        run_one(make, model, *row)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("FLOWCACHE_ALL"), reason="1,900 runs, two minutes: set FLOWCACHE_ALL=1")
@pytest.mark.parametrize("policy", POLICIES.names())
def test_every_combination_runs(make, model, policy):
    for rest in itertools.product(*AXES[1:]):
        run_one(make, model, policy, *rest)


def settings(policy="off", predictor="velocity", **changes):
    return RunSettings(flow_table(STEPS, 3.0), 4, 4, policy=policy if not isinstance(policy, str) else
                       POLICIES.make(policy), predictor=PREDICTORS.make(predictor), **changes)


def test_what_does_not_go_together_is_refused_in_one_sentence(make, model):
    refused = {"made for": settings(make("schedule", "taylor"), "velocity"),
               "fresh noise": settings(predictor="increment", solver=Renoise())}
    assert len(refused) == len(EXCLUSIONS)
    for words, bad in refused.items():
        (sentence,) = refusals(bad)
        assert words in sentence and "\n" not in sentence
    assert not list(refusals(settings(make("schedule", "taylor"), "taylor")))
    assert composes(make("magcache", "residual"), PREDICTORS.make("residual"))
    assert not composes(make("magcache", "residual"), PREDICTORS.make("taylor"))
    with pytest.raises(ValueError, match="fresh noise"):
        tiny_run(PLAN, model, predictor=PREDICTORS.make("increment"), solver=Renoise())
    with pytest.raises(ValueError, match="tokens are merged one by one"):
        Compression(granularity="frame", merger=MERGERS.make("tempcache"))
