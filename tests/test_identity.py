"""What a run is, as facts: of everything that can be chosen, equal for equal runs, and different by name."""

from dataclasses import dataclass, replace

import pytest
import torch

from flowcache_core.attention import SPARSE, SparseAttention
from flowcache_core.identity import difference, facts_of, run_facts, said, weights_fact
from flowcache_core.kv import MERGERS, SCORERS, Compression, KVBudget
from flowcache_core.plan import sequential
from flowcache_core.reuse import POLICIES, PREDICTORS
from flowcache_core.run_settings import RunSettings
from flowcache_core.solvers import NOISE_RULES, SOLVERS, flow_table
from tests.reference import tiny_wan

NEED_A_FILE = {"replay", "magcache", "schedule"}
PLAN = sequential(4, 2, 6)
CHOICES = [(registry, field, name) for registry, field in ((POLICIES, "policy"), (PREDICTORS, "predictor"),
                                                           (SOLVERS, "solver"), (NOISE_RULES, "noise_rule"))
           for name in registry.names() if name not in NEED_A_FILE]


def settings(**more) -> RunSettings:
    return RunSettings(flow_table(6, 3.0), 4, 4, **more)


def facts(**more):
    return run_facts(PLAN, settings(**more), ["a", "b"], "model")


@pytest.mark.parametrize(("registry", "field", "name"), CHOICES,
                         ids=lambda value: value if isinstance(value, str) else value.what)
def test_every_choice_has_facts(registry, field, name):
    made = [facts(**{field: registry.make(name)}) for _ in range(2)]
    assert made[0] == made[1] and made[0][f"settings.{field}"] == name


@pytest.mark.parametrize("compression", [*[Compression(SCORERS.make(n)) for n in SCORERS.names()],
                                         *[Compression(merger=MERGERS.make(n)) for n in MERGERS.names()]],
                         ids=lambda c: f"{c.scorer.name}-{c.merger and c.merger.name}")
def test_every_compression_has_facts(compression):
    assert facts(compression=compression) == facts(compression=replace(compression))


@pytest.mark.parametrize("name", SPARSE.names())
def test_every_sparse_attention_has_facts(name):
    sparse = SparseAttention((SPARSE.make(name),))
    assert facts(sparse=sparse) == facts(sparse=replace(sparse)) != facts()


def test_a_difference_is_told_by_name():
    before, now = facts(seed=1, budget=KVBudget(3)), facts(seed=2, budget=KVBudget(3))
    assert difference(before, now) == "settings.seed is 2, it was 1"
    assert difference(before, before) == ""
    assert difference(before, facts(seed=1, budget=KVBudget(4))) == "settings.budget.amount is 4, it was 3"
    many = difference(before, run_facts(sequential(6, 2, 6), settings(seed=3), ["c"], "other"))
    assert many.startswith("model is other, it was model; ") and "more" in many


def test_where_keys_lie_is_no_difference():
    assert facts(kv_device="cpu") == facts()


def test_weights_are_told_apart():
    model = tiny_wan()
    before = weights_fact(model)
    assert before == weights_fact(tiny_wan()) != weights_fact(tiny_wan(seed=1))
    with torch.no_grad():
        model.head.head.bias[0] += 1e-6
    assert weights_fact(model) != before


def test_what_is_no_data_is_refused():
    @dataclass(frozen=True)
    class Odd:
        call: object = print

    with pytest.raises(TypeError, match="builtin_function"):
        facts_of(Odd(), "odd")
    assert said(torch.ones(2)) != said(torch.ones(2, 1))
