"""The published FLOPs of FlowCache's tables, from architecture and plan alone (docs/flowcache.md)."""

import pytest
import torch

from flowcache_core.attention import SPARSE, SparseAttention, WeightedAttention
from flowcache_core.attention.block_attention import flex
from flowcache_core.attention.methods import annsa
from flowcache_core.flops import MAGI_4_5B, SKYREELS_1_3B, Architecture, plan_flops, wan_architecture
from flowcache_core.kv import MERGERS, Compression, KVBudget
from flowcache_core.plan import dense, diffusion_forcing, pipelined
from flowcache_core.reuse.policies.every_nth import EveryNth
from flowcache_core.reuse.predictors import Velocity
from tests.reference import TOKENS, tiny_run

PETA = 1e15

SKY_FRAME, MAGI_FRAME = 2040, 2025   # tokens of a latent frame at 544x960 and at 720x720


def skyreels(share=lambda p, row: 1.0):
    """Both windows of 177 pixel frames at 540P, both streams, in PF; key: which kind of run."""
    total = {"computed": 0.0, "active": 0.0, "causal": 0.0, "bidirectional": 0.0}
    for prefix in (0, 1):
        plan = diffusion_forcing(25, 5, 50, 5, prefix_chunks=prefix)
        counted = plan_flops(SKYREELS_1_3B, plan, SKY_FRAME, share)
        for name in total:
            total[name] += 2 * getattr(counted, name) / PETA
    return total


@pytest.mark.parametrize(("name", "expected"), [("causal", 113.6), ("bidirectional", 165.4), ("active", 79.7)])
def test_skyreels_without_reuse(name, expected):
    assert skyreels()[name] == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize(("steps", "expected"), [(23, 36.7), (18, 28.7)])
def test_skyreels_with_reuse(steps, expected):
    assert skyreels(lambda p, row: float(p.steps[0] < steps))["computed"] == pytest.approx(expected, rel=0.005)


def magi(near_clean=None, keys=None, commit=False):
    plan = pipelined(60, 6, 64, 4, near_clean_from=near_clean, commit=commit)
    return plan_flops(MAGI_4_5B, plan, MAGI_FRAME, keys=keys).active / PETA


def test_magi_full_history():
    assert magi() == pytest.approx(283.1, rel=0.005)


def test_magi_with_near_clean_and_clean_passes():
    """t exceeds 0.3 from step 49 of 64 on: 15 steps of 10 chunks."""
    assert magi(near_clean=49, commit=True) == pytest.approx(311.6, rel=0.005)


@pytest.mark.parametrize(("total", "expected"), [(5, 194.3), (6, 220.0)])
def test_magi_with_a_budget(total, expected):
    """Keys of chunk c at stage i, own included: c + 1 until the cache is full, then what the budget leaves."""
    chunks, stage_rows = 10, 16

    def keys(p, row):
        stage, chunk = row // stage_rows, p.chunks[0]
        if stage < total:
            return chunk
        return (total - (stage - chunk) if stage <= chunks - 1 else total + chunk - chunks + 1) - 1

    assert magi(keys=keys) == pytest.approx(expected, rel=0.005)


def test_a_forward_adds_up():
    """Ten tokens, one layer of width 2: by hand."""
    tiny = Architecture(layers=1, dim=2, queries=2, keys=2, linear=6 * 4 + 2 * 2 * 3, text_linear=8, text=5)
    assert tiny.forward(10, 30) == 2 * 10 * 36 + 4 * 10 * 30 * 2 + 4 * 10 * 5 * 2 + 2 * 5 * 8


PLANS = [diffusion_forcing(6, 2, 6, 2), diffusion_forcing(7, 2, 6, 3, 1, commit=True), dense(5, 2, 6)]
BUDGET = KVBudget(2.5)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.name}-{plan.prefix_chunks}")
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_run_that_computes_everything_costs_what_the_formula_says(plan, guidance):
    """Counted from the shapes that attention saw, pass for pass, against architecture and plan."""
    run = tiny_run(plan, guidance=guidance)
    run.run()
    shape = run.backbone.config
    architecture = wan_architecture(shape.dim, shape.ffn, shape.layers, text=run._texts["cond#0"][0].shape[1])
    counted = sum(p.flops for p in run.trace.passes)
    assert counted == plan_flops(architecture, plan, TOKENS).active * len(run.streams)
    assert [p.flops for p in run.trace.passes] == [p.whole_flops for p in run.trace.passes]
    assert run.trace.flops_share == 1


def test_skipped_steps_cost_nothing_and_are_measured_against_what_they_would_have_cost():
    plan = diffusion_forcing(6, 2, 6, 6)
    whole, run = tiny_run(plan), tiny_run(plan, policy=EveryNth(2), predictor=Velocity())
    whole.run(), run.run()
    for full, p in zip(whole.trace.passes, run.trace.passes, strict=True):
        assert p.whole_flops == full.flops
        assert p.flops == (full.flops if p.calls else 0)
    assert 0 < run.trace.flops_share < 1
    assert run.trace.summary()["flops_share"] == round(run.trace.flops_share, 4)


def test_channels_that_carry_weights_are_not_the_networks(monkeypatch):
    """Merged keys and the correction of int8 keys widen heads on the way; the count is the formula's all the same."""
    plan, merged = diffusion_forcing(12, 2, 4, 4), Compression(merger=MERGERS.make("tempcache", {"similarity": -1.0}))
    monkeypatch.setattr(WeightedAttention, "__init__", lambda self, carrier="channels": (
        setattr(self, "carrier", carrier), setattr(self, "_takes_width", {}))[0])
    for settings in ({"kv_dtype": torch.int8}, {"budget": BUDGET, "compression": merged}):
        run = tiny_run(plan, **settings)
        run.run()
        first, *rest = run.trace.passes   # the first one tries the width, on eight tokens
        assert [p.flops for p in rest] == [p.whole_flops for p in rest] and first.flops < 1.05 * first.whole_flops


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_blocks_that_a_compiled_kernel_skips_are_counted_as_those_that_are_gathered(monkeypatch):
    """On CUDA no attention call of ours is seen for them."""
    plan, method = diffusion_forcing(24, 2, 4, 4), SPARSE.make("annsa", {
        "keep": 0.3, "least_share": 0.0, "least_blocks": 1, "block": 4, "query_block": 4, "dense_below": 1,
        "sink_frames": 0, "recent_frames": 0})
    sparse, found = SparseAttention((method,), 0.0, 0.0), []
    for compiled in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(annsa.AnnSA, "compiles", lambda self, q, compiled=compiled: compiled)
            patch.setattr(annsa, "flex", lambda *given: flex(*given, compiled=False))
            run = tiny_run(plan, sparse=sparse)
            run.run()
        found.append([p.flops for p in run.trace.passes])
    assert sum(found[0]) < sum(p.whole_flops for p in run.trace.passes)
    assert found[1] == pytest.approx(found[0], rel=0.02)   # the kernel's count is of the average density


def test_folded_keys_are_counted_as_they_are_read():
    plan = diffusion_forcing(12, 2, 4, 4)
    run = tiny_run(plan, budget=BUDGET, compression=Compression())
    run.run()
    assert [p.flops for p in run.trace.passes] == [p.whole_flops for p in run.trace.passes]
    assert max(p.keys for p in run.trace.passes) <= 2.5 * 2 * TOKENS
