"""What must stay true of a whole run (DESIGN.md, section 5), on a network that is small enough to run many times."""

import gc
import hashlib
import os
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flowcache_core.generation import Generation, RunSettings
from flowcache_core.kv import Compression, KVBudget
from flowcache_core.per_chunk import parse_per_chunk
from flowcache_core.plan import History, dense, diffusion_forcing, pipelined, rolling, sequential
from flowcache_core.reuse import POLICIES, Kind
from flowcache_core.reuse.policies.every_nth import EveryNth
from flowcache_core.reuse.policies.flowcache import FlowCache
from flowcache_core.reuse.policies.replay import Replay
from flowcache_core.reuse.predictors import Residual, Span, Velocity
from flowcache_core.reuse.taylor import CorrectedVelocity
from flowcache_core.solvers import NOISE_RULES, Euler, Renoise, UniPC, flow_table
from flowcache_core.trace import load_trace
from tests.reference import SIDE, TINY, TOKENS, decisions, normal, texts, tiny_run, tiny_wan

CONTENT = FlowCache(threshold=0.3, distance_signal="patch_embedding", warmup_steps=1)
TIME = FlowCache(threshold=0.3, warmup_steps=2)
PREDICTORS = [Velocity(), Residual(), CorrectedVelocity()]
PLANS = [diffusion_forcing(6, 2, 6, 2), diffusion_forcing(7, 2, 6, 3, 1, commit=True), sequential(5, 2, 6),
         pipelined(6, 2, 6, 2, commit=True), dense(5, 2, 6), rolling(6, 2, 6)]
by_name = pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.name}-{plan.prefix_chunks}")
by_predictor = pytest.mark.parametrize("predictor", PREDICTORS, ids=lambda predictor: predictor.name)


@pytest.fixture(scope="module")
def model():
    return tiny_wan()


class Counts:
    """A backbone that counts its calls and can fail in one."""

    def __init__(self, fail_at=None):
        self.inner, self.calls, self.fail_at = tiny_wan(), 0, fail_at

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __call__(self, *arguments):
        self.calls += 1
        if self.calls == self.fail_at:
            raise RuntimeError("out of memory")
        return self.inner(*arguments)


# 1. Off is off.

@pytest.mark.parametrize("solver", [UniPC(), Euler(), Renoise()], ids=lambda solver: solver.name)
@pytest.mark.parametrize("make", [lambda: sequential(3, 3, 5, commit=False), lambda: diffusion_forcing(3, 3, 5, 2),
                                  lambda: dense(3, 3, 5), lambda: dense(3, 1, 5)])
@by_predictor
def test_off_equals_a_loop_without_hooks_bit_for_bit(model, make, solver, predictor):
    plan, table, text = make(), flow_table(5, 3.0), texts(1)["cond#0"][0]
    rule = NOISE_RULES["comfy_ar"]()
    found = tiny_run(plan, model, solver=solver, predictor=predictor, noise_rule=rule, seed=3).run()
    x = rule.initial(3, (1, TINY.channels, 3, SIDE, SIDE), plan.chunks)
    parts = [(x[:, :, c.start:c.stop], solver.new_state()) for c in plan.chunks]
    for index in range(5):
        x, times = torch.cat([part for part, _ in parts], dim=2), torch.full((1, 3), table.timesteps[index])
        velocity = model(x, times, text)
        following = []
        for chunk, (part, state) in zip(plan.chunks, parts, strict=True):
            noise = rule.fresh(3, part.shape, chunk.index, index)
            following.append(solver.step(state, part, velocity[:, :, chunk.start:chunk.stop], index, table, noise))
        parts = following
    assert torch.equal(found, torch.cat([part for part, _ in parts], dim=2))


def test_the_given_chunks_come_out_as_they_went_in(model):
    plan = PLANS[1]
    run = tiny_run(plan, model)
    given = normal(1, TINY.channels, 2, SIDE, SIDE, seed=50)
    assert torch.equal(run.run()[:, :, :2], given)


def test_guidance_by_hand(model):
    """One step of one chunk: velocity = uncond + guidance * (cond - uncond)."""
    plan, table, words = sequential(2, 2, 1, commit=False), flow_table(1, 3.0), texts(1)
    found = tiny_run(plan, model, guidance=4.0, solver=Euler()).run()
    x = NOISE_RULES["per_chunk"]().initial(0, (1, TINY.channels, 2, SIDE, SIDE), plan.chunks)
    cond, uncond = (model(x, torch.full((1, 2), table.timesteps[0]), words[s][0]) for s in ("cond#0", "uncond#0"))
    torch.testing.assert_close(found, x - table.sigmas[0] * (uncond + 4 * (cond - uncond)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("solver", [UniPC(), Euler()], ids=lambda solver: solver.name)
def test_corrected_skips_equal_a_loop_without_hooks(model, solver):
    """One chunk, every third of 9 steps computed: lines between, and what they missed is made up for in time."""
    plan, table, words, predictor = dense(3, 3, 9), flow_table(9, 3.0), texts(1), CorrectedVelocity()
    run = tiny_run(plan, model, policy=EveryNth(interval=3), predictor=predictor, guidance=2.0, solver=solver)
    found, made = run.run(), decisions(run)
    x = NOISE_RULES["per_chunk"]().initial(0, (1, TINY.channels, 3, SIDE, SIDE), plan.chunks)
    state, kept = solver.new_state(), {}
    assert [made[0, n, "cond#0", 0] == "compute" for n in range(9)] == [n in (0, 1, 4, 7, 8) for n in range(9)]
    for n in range(9):
        span, velocity, missed = Span(*table.sigmas[n:n + 2], table.sigmas[n - 1] if n else None), {}, {}
        for stream in ("cond#0", "uncond#0"):
            if n in (0, 1, 4, 7, 8):
                velocity[stream] = model(x, torch.full((1, 3), table.timesteps[n]), words[stream][0])
                old, new = kept.get(stream), (predictor.renew(kept[stream], x, velocity[stream], span)
                                              if stream in kept else predictor.keep(x, velocity[stream], span))
                kept[stream], missed[stream] = new, predictor.missed(old, new, span) if old is not None else None
            else:
                velocity[stream] = predictor.predict(kept[stream], x, span)
        if missed.get("cond#0") is not None:
            by = missed["uncond#0"] + 2 * (missed["cond#0"] - missed["uncond#0"])
            x, state = x + by, replace(state, start=state.start + by) if solver.name == "unipc" else state
        guided = velocity["uncond#0"] + 2 * (velocity["cond#0"] - velocity["uncond#0"])
        x, state = solver.step(state, x, guided, n, table)
    torch.testing.assert_close(found, x, atol=2e-5, rtol=2e-5)


# 4. Same seed, same result.

@by_name
def test_a_second_run_gives_the_same_whatever_ran_before(plan, model):
    first = tiny_run(plan, model, policy=CONTENT, guidance=3.0, seed=1).run()
    tiny_run(PLANS[0], model, policy=EveryNth(), predictor=Residual(), items=2, seed=2).run()
    second = tiny_run(plan, model, policy=CONTENT, guidance=3.0, seed=1).run()
    assert torch.equal(first, second)
    other = tiny_run(plan, model, policy=CONTENT, guidance=3.0, seed=2).run()
    assert not torch.allclose(first[:, :, -1], other[:, :, -1])


@by_name
def test_the_global_generator_and_the_weights_are_left_alone(plan, model):
    torch.manual_seed(11)
    before, weights = torch.get_rng_state(), {key: value.clone() for key, value in model.state_dict().items()}
    tiny_run(plan, model, policy=TIME, solver=Renoise()).run()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


SCRIPT = """
import sys, torch, types
sys.path.insert(0, {root!r})
tests = sys.modules["tests"] = types.ModuleType("tests")   # not some other package of that name
tests.__path__ = [{root!r} + "/tests"]
torch.set_num_threads({threads})
from tests.test_generation import two_runs
print(two_runs({which})[0])
"""


def two_runs(which=(0, 1)) -> list[str]:
    """Fingerprints of the latents of two unlike runs, one after the other."""
    runs = [lambda: tiny_run(PLANS[0], policy=CONTENT, guidance=3.0, seed=1),
            lambda: tiny_run(PLANS[2], policy=EveryNth(), predictor=Residual(), items=2, budget=KVBudget(2), seed=4)]
    return [hashlib.sha256(runs[n]().run().numpy().tobytes()).hexdigest() for n in which]


def test_two_runs_in_one_process_equal_two_fresh_processes():
    root = str(Path(__file__).parents[1])
    scripts = [SCRIPT.format(root=root, threads=torch.get_num_threads(), which=[n]) for n in (0, 1)]
    processes = [subprocess.Popen([sys.executable, "-c", s], stdout=subprocess.PIPE, text=True, env=os.environ)
                 for s in scripts]
    assert [process.communicate()[0].strip() for process in processes] == two_runs()


@pytest.mark.parametrize("policy", [POLICIES["off"](), TIME, CONTENT], ids=lambda policy: policy.name)
@pytest.mark.parametrize("history", [History(), History(recent=1, sink=1)])
@pytest.mark.parametrize("solver", [UniPC(), Renoise()], ids=lambda solver: solver.name)
def test_a_longer_video_begins_with_the_same_chunks(model, policy, history, solver):
    short, long = (tiny_run(sequential(n, 2, 4, first_steps=5, history=history), model, policy=policy, solver=solver,
                            guidance=2.0).run() for n in (4, 10))
    assert torch.equal(long[:, :, :4], short)


# 5. Streams, items, chunks and runs never share state.

def random_decisions(plan, items, seed):
    generator = torch.Generator().manual_seed(seed)
    return {(c, s, stream, item): Kind.COMPUTE if s == 0 or torch.rand((), generator=generator) < 0.5 else Kind.REUSE
            for c in range(plan.prefix_chunks, len(plan.chunks)) for s in range(plan.num_steps)
            for stream in ("cond#0", "uncond#0") for item in range(items)}


@by_name
@by_predictor
def test_streams_in_one_call_or_in_one_each(plan, predictor, model):
    policy = Replay(decisions=random_decisions(plan, 2, 1)) if plan.name not in ("dense", "rolling") else CONTENT
    runs = [tiny_run(plan, model, policy=policy, predictor=predictor, items=2, guidance=3.0, batch_streams=batched)
            for batched in (True, False)]
    batched, apart = (run.run() for run in runs)
    torch.testing.assert_close(batched, apart, atol=1e-5, rtol=1e-5)
    assert decisions(runs[0]) == decisions(runs[1])
    assert runs[0].trace.counts()["reuse"] + runs[0].trace.counts()["predict"] > 0 or policy is CONTENT


@by_name
@by_predictor
def test_an_item_of_a_batch_is_what_it_is_alone(plan, predictor, model):
    """With other decisions in every row of the batch."""
    table = random_decisions(plan, 2, 2) if plan.name not in ("dense", "rolling") else None
    policy = Replay(decisions=table) if table else CONTENT
    run = tiny_run(plan, model, policy=policy, predictor=predictor, items=2, guidance=3.0)
    together, alone = run.run(), tiny_run(plan, model, policy=policy, predictor=predictor, guidance=3.0)
    if plan.prefix_chunks:   # the same given chunks
        alone.video.latents[:, :, :2] = normal(2, TINY.channels, 2, SIDE, SIDE, seed=50)[:1]
    torch.testing.assert_close(together[:1], alone.run(), atol=1e-5, rtol=1e-5)
    assert {place: d for place, d in decisions(run).items() if place[3] == 0} == decisions(alone)


@by_predictor
@pytest.mark.parametrize("policy", [TIME, CONTENT], ids=["time", "content"])
def test_an_item_is_blind_to_the_prompt_of_another(model, predictor, policy):
    plan, found = PLANS[0], []
    for other in (7, 8):
        given = {stream: [torch.cat([normal(1, 5, TINY.dim, seed=1), normal(1, 5, TINY.dim, seed=other)])] * 3
                 for stream in ("cond#0", "uncond#0")}
        found.append(tiny_run(plan, model, given, items=2, guidance=2.0, policy=policy, predictor=predictor).run())
    assert torch.equal(found[0][0], found[1][0])
    assert not torch.allclose(found[0][1], found[1][1], atol=1e-3)


@by_predictor
def test_a_stream_is_blind_to_the_other(model, predictor):
    """At guidance 0 only uncond counts: its caches must be those of a run in which it is alone."""
    settings = {"policy": CONTENT, "predictor": predictor}
    words, other_words = texts(3), [normal(1, 5, TINY.dim, seed=77)] * 3
    both = tiny_run(PLANS[0], model, words, guidance=0.0, **settings).run()
    other = tiny_run(PLANS[0], model, {**words, "cond#0": other_words}, guidance=0.0, **settings).run()
    alone = tiny_run(PLANS[0], model, {"cond#0": words["uncond#0"]}, **settings).run()
    assert torch.equal(both, other)
    torch.testing.assert_close(both, alone, atol=1e-5, rtol=1e-5)


def test_a_chunk_is_blind_to_the_prompt_of_a_later_one(model):
    found = [tiny_run(sequential(6, 2, 4), model, {"cond#0": [normal(1, 5, TINY.dim, seed=s) for s in (1, 2, last)]},
                      policy=CONTENT).run() for last in (3, 4)]
    assert torch.equal(found[0][:, :, :4], found[1][:, :, :4])
    assert not torch.allclose(found[0][:, :, 4:], found[1][:, :, 4:], atol=1e-3)


def test_inputs_are_left_alone(model):
    words, prefix = texts(4), normal(1, TINY.channels, 2, SIDE, SIDE, seed=50)
    inputs = (prefix, words["cond#0"][0], words["uncond#0"][0])
    before = [tensor.clone() for tensor in inputs]
    settings = RunSettings(flow_table(6, 3.0), SIDE, SIDE, guidance=2.0, policy=TIME)
    Generation(model, PLANS[1], settings, words, prefix).run()
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))


# 6. Memory.

def watch_caches(run):
    """Weak references to all keys, values and kept predictor values of a run that is on its way."""
    tensors = [*run.cache.store._keys.values(), *run.cache.store._values.values(), *run._lanes.kept.values(),
               *(state.start for state in run.video.solver_states.values())]
    assert run._lanes.kept and run.video.solver_states
    return [weakref.ref(tensor) for tensor in tensors]


@pytest.mark.parametrize("how", ["end", "interrupt", "error in a callback", "error in the network"])
@by_predictor
def test_caches_are_freed_however_a_run_ends(how, predictor):
    run = tiny_run(diffusion_forcing(6, 2, 6, 2), Counts(fail_at=8 if how.endswith("network") else None),
                   predictor=predictor, policy=TIME)
    seen = []

    def on_progress(progress):
        if progress.done == 7:
            seen.extend(watch_caches(run))
            if how == "interrupt":
                raise KeyboardInterrupt
            if how == "error in a callback":
                raise ZeroDivisionError

    expected = {"interrupt": KeyboardInterrupt, "error in a callback": ZeroDivisionError,
                "error in the network": RuntimeError}
    if how == "end":
        run.run(on_progress)
    else:
        with pytest.raises(expected[how]) as caught:
            run.run(on_progress)
        assert caught.value is not None   # held alive: the caches must be gone although the error still is
    gc.collect()
    assert len(seen) == 8 and all(reference() is None for reference in seen)
    assert run.cache.store.allocated_bytes == 0


@by_name
@by_predictor
def test_a_finished_chunk_leaves_nothing_behind(plan, predictor, model):
    run, finished = tiny_run(plan, model, predictor=predictor, policy=TIME, items=2), []

    def check(*_):
        remembered = {lane.chunk for table in (run._lanes.kept, run._lanes._states) for lane in table}
        assert not (remembered | set(run.video.solver_states)) & set(finished)
        for kept in run._lanes.kept.values():
            parts = [kept] if isinstance(kept, torch.Tensor) else [kept.value, kept.change]
            assert all(part.untyped_storage().nbytes() == part.nbytes for part in parts), "a view keeps the batch alive"

    def on_chunk(chunk, latent):
        finished.append(chunk)
        check()

    run.run(check, on_chunk)
    assert len(finished) == len(plan.chunks) - plan.prefix_chunks


@pytest.mark.parametrize("budget", [KVBudget(3, sink_chunks=1), KVBudget(2), KVBudget(1)])
def test_memory_is_flat_over_length_under_a_budget(model, budget):
    peaks = {tiny_run(sequential(frames, 2, 1), model, budget=budget).trace.kv_peak_bytes for frames in (6, 12, 40)}
    assert peaks == {budget.amount * 2 * TOKENS * 2 * 2 * 24 * 4}   # chunks, tokens, K and V, layers, width, fp32


def test_memory_is_flat_over_length_with_a_short_history(model):
    plans = [sequential(frames, 2, 1, history=History(recent=1, sink=1)) for frames in (6, 12, 40)]
    assert len({tiny_run(plan, model).trace.kv_peak_bytes for plan in plans}) == 1


# 3. Budgets.

@by_name
@pytest.mark.parametrize(("amount", "unit"), [(10_000, "tokens"), (100, "chunks"), (50, "MB"), (1, "GB")])
def test_a_budget_that_is_not_reached_changes_nothing_bit_for_bit(plan, model, amount, unit):
    settings = {"policy": CONTENT, "guidance": 2.0}
    assert torch.equal(tiny_run(plan, model, budget=KVBudget(amount, unit, 1, 1), **settings).run(),
                       tiny_run(plan, model, **settings).run())


@pytest.mark.parametrize("settings", [{"budget": KVBudget(2)}, {"compression": Compression()}, {}], ids=str)
def test_memory_settings_of_a_plan_that_caches_nothing_say_so(settings):
    run = tiny_run(dense(4, 2, 3), **settings)
    run.run()
    run.close()
    assert [note.partition(":")[0] for note in run.trace.notes] == ["the plan caches no keys"] * bool(settings)


@pytest.mark.parametrize(("budget", "history"), [
    (KVBudget(2), History(recent=1)), (KVBudget(3), History(recent=2)), (KVBudget(1), History(recent=0)),
    (KVBudget(3, sink_chunks=1), History(1, sink=1)), (KVBudget(4, sink_chunks=1, recent_chunks=1), History(2, sink=1)),
    (KVBudget(2.9), History(recent=1)), (KVBudget(3 * 2 * TOKENS - 1, "tokens"), History(recent=1))])
def test_a_budget_that_is_reached_equals_the_history_that_it_leaves(model, budget, history):
    limited = tiny_run(sequential(12, 2, 3), model, budget=budget, policy=TIME).run()
    assert torch.equal(limited, tiny_run(sequential(12, 2, 3, history=history), model, policy=TIME).run())


@pytest.mark.parametrize("plan", [p for p in PLANS if p.name != "dense"], ids=lambda p: f"{p.name}-{p.prefix_chunks}")
def test_residents_never_exceed_the_least_budget_over_a_whole_run(plan, model):
    with pytest.raises(ValueError, match=r"at least (\d+) tokens") as error:
        tiny_run(plan, model, budget=KVBudget(1, "tokens"))
    least = int(str(error.value).split("at least ")[1].split()[0])
    with pytest.raises(ValueError, match=f"at least {least} tokens"):
        tiny_run(plan, model, budget=KVBudget(least - 1, "tokens"))
    run = tiny_run(plan, model, budget=KVBudget(least, "tokens"), guidance=2.0)

    def check(progress):
        run.cache.store.check_integrity()
        assert run.cache.store.tokens <= least
        assert set(progress.last.writes) <= set(run.cache.store.chunks)

    assert run.run(check).isfinite().all()
    assert max(p.kv_tokens for p in run.trace.passes) == least


@pytest.mark.parametrize("megabytes", [0.02, 0.05])
def test_a_budget_in_bytes_is_kept_by_the_buffers(model, megabytes):
    run = tiny_run(sequential(12, 2, 2), model, budget=KVBudget(megabytes, "MB"), guidance=2.0, items=2)
    assert 0 < run.trace.kv_peak_bytes <= megabytes * 1e6
    run.run()
    assert all(p.kv_bytes <= run.trace.kv_peak_bytes for p in run.trace.passes)


def test_poisoned_memory_never_reaches_the_latents():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)   # fills uninitialised memory with NaN
    try:
        for plan in PLANS:
            for budget in (KVBudget(), KVBudget(4)):
                run = tiny_run(plan, policy=CONTENT, predictor=Residual(), budget=budget, items=2, guidance=2.0)
                assert run.run().isfinite().all(), (plan.name, budget)
    finally:
        torch.use_deterministic_algorithms(before)


# 7. The trace.

@by_name
@pytest.mark.parametrize("policy", [EveryNth(interval=2, warmup_steps=1), CONTENT], ids=lambda policy: policy.name)
def test_the_trace_has_a_record_of_every_pass_and_its_sums_add_up(plan, policy):
    model = Counts()
    run = tiny_run(plan, model, policy=policy, items=2, guidance=2.0)
    run.run()
    trace, passes = run.trace, [(n, p.kind, p.chunks, p.steps) for n, row in enumerate(plan.rows) for p in row]
    assert [(r.row, r.kind, r.chunks, r.steps) for r in trace.passes] == passes
    for record in trace.passes:
        lanes = {(lane.chunk, lane.step, lane.stream, lane.item) for lane in record.lanes}
        expected = {(c, s, stream, item) for c, s in zip(record.chunks, record.steps, strict=False)
                    for stream in run.streams for item in (0, 1)}
        assert lanes == expected and len(lanes) == len(record.lanes)
        if record.lanes:
            assert record.calls == len({(x.stream, x.item) for x in record.lanes if x.decision == "compute"})
        else:
            assert record.calls == 4
        assert 0 <= record.hook_seconds <= record.seconds
        assert all(lane.reason for lane in record.lanes)
    counts = trace.counts()
    assert sum(counts.values()) == 4 * plan.chunk_steps()
    assert trace.computed_share == counts["compute"] / (4 * plan.chunk_steps())
    summary = trace.summary()
    assert summary["chunk_steps"] == summary["computed"] + summary["reused"]
    assert summary["model_calls"] == sum(record.calls for record in trace.passes)
    assert model.calls == len(passes)


def test_the_trace_names_the_numbers_that_were_compared():
    run = tiny_run(PLANS[0], policy=TIME)
    run.run()
    compared = [lane for p in run.trace.passes for lane in p.lanes if lane.value is not None]
    assert compared
    for lane in compared:
        assert lane.limit == 0.3 and lane.distance is not None
        assert lane.decision == ("reuse" if lane.value < lane.limit else "compute")


@by_name
@by_predictor
def test_a_trace_survives_its_file_and_replays_to_the_same_latents(plan, predictor, model, tmp_path):
    settings = {"predictor": predictor, "items": 2, "guidance": 2.0}
    run = tiny_run(plan, model, policy=CONTENT, **settings)
    latents, path = run.run(), tmp_path / "trace.json"
    run.trace.save(path)
    assert load_trace(path).to_json() == run.trace.to_json()
    replayed = tiny_run(plan, model, policy=Replay(trace=str(path)), **settings)
    assert torch.equal(replayed.run(), latents)
    assert decisions(replayed) == decisions(run)


def test_a_file_that_is_no_trace_is_refused(tmp_path):
    path = tmp_path / "other.json"
    path.write_text('{"schema": "other/1"}')
    with pytest.raises(ValueError, match="other/1"):
        load_trace(path)


# Progress, chunks, lengths.

@by_name
def test_progress_counts_every_pass_and_chunks_are_handed_over_once_and_finished(plan, model):
    run, seen, chunks = tiny_run(plan, model), [], {}
    total = sum(1 for _ in plan.passes())
    result = run.run(lambda p: seen.append((p.done, p.total, p.last)),
                     lambda chunk, latent: chunks.setdefault(chunk, latent.clone()))
    assert seen == [(n + 1, total, p) for n, p in enumerate(plan.passes())]
    assert list(chunks) == list(range(plan.prefix_chunks, len(plan.chunks)))
    for chunk, latent in chunks.items():
        assert torch.equal(latent, result[:, :, plan.chunks[chunk].start:plan.chunks[chunk].stop])


LENGTHS = [(1, 1), (1, 3), (2, 3), (3, 3), (4, 3), (5, 2)]


@pytest.mark.parametrize(("frames", "chunk_frames"), LENGTHS)
@pytest.mark.parametrize("make", [lambda f, c: diffusion_forcing(f, c, 4, 1), lambda f, c: sequential(f, c, 4),
                                  lambda f, c: pipelined(f, c, 4, 2), lambda f, c: dense(f, c, 4),
                                  lambda f, c: rolling(f, c, 4)])
@by_predictor
def test_any_length_runs(model, make, frames, chunk_frames, predictor):
    plan = make(frames, chunk_frames)
    run = tiny_run(plan, model, policy=EveryNth(), predictor=predictor, guidance=2.0)
    latents = run.run()
    assert latents.shape == (1, TINY.channels, frames, SIDE, SIDE) and latents.isfinite().all()
    assert latents.dtype == torch.float32 and not latents.is_inference()
    joint_steps = plan.name == "rolling" and frames > chunk_frames   # its newest chunk is always in its warm-up
    assert joint_steps or run.trace.counts()["predict" if predictor.extrapolates else "reuse"] > 0


def test_the_first_chunk_takes_its_own_table(model):
    plan = sequential(4, 2, 2, first_steps=4)
    first = tiny_run(sequential(2, 2, 4), model).run()
    assert torch.equal(tiny_run(plan, model).run()[:, :, :2], first)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_bf16_network_with_a_bf16_store_runs(dtype):
    run = tiny_run(PLANS[0], tiny_wan().bfloat16(), {k: [t.bfloat16() for t in v] for k, v in texts(3).items()},
                   kv_dtype=dtype, policy=TIME, predictor=Residual(), guidance=2.0)
    assert run.run().isfinite().all()


def test_a_store_in_bf16_changes_little_and_halves_the_memory(model):
    exact, rounded = (tiny_run(PLANS[0], model, kv_dtype=dtype) for dtype in (None, torch.bfloat16))
    assert rounded.trace.kv_peak_bytes * 2 == exact.trace.kv_peak_bytes
    torch.testing.assert_close(rounded.run(), exact.run(), atol=0.05, rtol=0)


# 10. Bad input, before anything is sampled.

@pytest.mark.parametrize(("make", "value"), [
    (lambda m: tiny_run(PLANS[0], m, budget=KVBudget(1)), "KV budget of 1 chunks"),
    (lambda m: tiny_run(PLANS[0], m, table=flow_table(5, 3.0)), "plan of 6 steps with a table of 5"),
    (lambda m: tiny_run(sequential(4, 2, 2, first_steps=3), m, first_table=flow_table(2, 3.0)), "plan of 3 steps"),
    (lambda m: tiny_run(PLANS[0], m, {"cond#0": texts(3)["cond#0"]}, guidance=2.0), "uncond#0"),
    (lambda m: tiny_run(PLANS[0], m, texts(2)), "2 texts for 3 chunks"),
    (lambda m: tiny_run(PLANS[0], m, texts(3, items=3), items=2), "text of 3"),
    (lambda m: tiny_run(PLANS[0], m, {**texts(3), "uncond#0": [normal(1, 6, 24)] * 3}, guidance=2.0), "5 and 6 tokens"),
    (lambda m: tiny_run(dense(4, 2, 3), m, {"cond#0": [normal(1, 5, 24, seed=s) for s in (1, 2)]}), "differ by chunk"),
    (lambda m: tiny_run(PLANS[0], m, policy=FlowCache(threshold="0:0.1, 1:0.2")), "chunk 2 of 3"),
    (lambda m: RunSettings(flow_table(3, 3.0), 4, 4, items=0), "batch of 0"),
    (lambda m: RunSettings(flow_table(3, 3.0), 4, 4, guidance=-1), "guidance -1"),
    (lambda m: tiny_run(PLANS[0], m, height=5), "height")])
def test_bad_input_is_refused_before_anything_is_sampled(make, value):
    model = Counts()
    with pytest.raises((ValueError, TypeError), match=r"\w") as error:
        make(model)
    assert value in str(error.value) and "\n" not in str(error.value)
    assert model.calls == 0


@pytest.mark.parametrize("shape", [(1, 4, 3, 4, 4), (1, 4, 2, 4, 6), (1, 3, 2, 4, 4), (3, 4, 2, 4, 4)])
def test_given_chunks_of_another_shape_are_refused(model, shape):
    settings = RunSettings(flow_table(6, 3.0), SIDE, SIDE, items=2)
    with pytest.raises(ValueError, match="prefix"):
        Generation(model, PLANS[1], settings, texts(4), prefix=normal(*shape))


def test_a_run_runs_once(model):
    run = tiny_run(PLANS[0], model)
    run.run()
    with pytest.raises(RuntimeError, match="once"):
        run.run()


def test_one_prompt_given_as_equal_tensors_runs_jointly(model):
    equal = {"cond#0": [normal(1, 5, TINY.dim, seed=100) for _ in range(3)]}
    assert torch.equal(tiny_run(PLANS[4], model, equal).run(), tiny_run(PLANS[4], model).run())


def test_a_ramp_of_thresholds_reaches_the_policy(model):
    run = tiny_run(PLANS[0], model, policy=FlowCache(threshold="0.1->0.5", warmup_steps=1))
    run.run()
    limits = {lane.chunk: lane.limit for p in run.trace.passes for lane in p.lanes}
    assert limits == dict(enumerate(parse_per_chunk("0.1->0.5").values(3)))
