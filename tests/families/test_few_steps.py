"""The joint rolling window, the noise of few-step sampling, and places far from the start."""

import torch

from flowcache_core.generation import Generation, RunSettings
from flowcache_core.plan import History, rolling, sequential
from flowcache_core.reuse.policies.every_nth import EveryNth
from flowcache_core.solvers import Renoise, listed_table
from tests.reference import SIDE, TINY, TOKENS, Masked, normal, tiny_run, tiny_wan
from tests.solvers.recording import Recording

LONGLIVE = History(recent=2, sink=1)


def test_a_joint_rolling_pass_equals_its_masked_form():
    """Clean chunks as committed, the window behind them, in one dense forward under the plan's mask."""
    model = tiny_wan()
    plan = rolling(14, 2, 3, History(sink=1), most=5, commit_history=History(recent=4))
    run, calls = tiny_run(plan, model, table=listed_table((1000, 800, 600), 5.0), solver=Renoise()), []
    passes = list(plan.passes())
    target = next(p for p in passes if p.chunks == (2, 3, 4))

    def look(progress):
        if target in (progress.last, passes[progress.done % len(passes)]):
            calls.append(run.video.latents.clone())

    run.run(look)
    before, after = calls
    visible = torch.zeros(5, 5, dtype=torch.bool)
    for chunk in (0, 1):
        visible[chunk, :chunk + 1] = True
    visible[2:, list(target.reads)] = True
    visible[2:, 2:] = True
    tokens = torch.arange(10 * TOKENS) // (2 * TOKENS)
    levels = [run.video.table(c).timesteps[s] for c, s in zip(target.chunks, target.steps, strict=True)]
    times = torch.tensor([[0.0] * 4 + [t for t in levels for _ in range(2)]])
    dense = model(before[:, :, :10], times, normal(1, 5, TINY.dim, seed=100), hooks=Masked(visible[tokens][:, tokens]))
    table = run.settings.table
    for chunk, step in zip(target.chunks, target.steps, strict=True):
        own = slice(2 * chunk, 2 * chunk + 2)
        clean, level = before[:, :, own] - table.sigmas[step] * dense[:, :, own], table.sigmas[step + 1]
        noise = run.settings.noise_rule.fresh(0, clean.shape, chunk, step)
        torch.testing.assert_close(after[:, :, own], (1 - level) * clean + level * noise, atol=1e-5, rtol=1e-5)


def test_a_rolling_video_with_an_anchor_that_moves_is_bounded_and_finite():
    plans = [rolling(n, 1, 3, History(sink=1, rebase=True), most=5, commit_history=History(recent=4)) for n in (9, 40)]
    runs = [tiny_run(plan, table=listed_table((1000, 800, 600), 5.0), solver=Renoise()) for plan in plans]
    assert all(run.run().isfinite().all() for run in runs)
    assert len({run.trace.kv_peak_bytes for run in runs}) == 1


def test_the_noise_stream_does_not_depend_on_what_is_skipped():
    """Every draw of a run in which steps are skipped is one of the run without, at the same (chunk, step)."""
    rules = [Recording(), Recording()]
    for rule, settings in zip(rules, ({}, {"policy": EveryNth(interval=2, warmup_steps=1, last_steps=0)}), strict=True):
        run = tiny_run(sequential(6, 2, 4, history=LONGLIVE), table=listed_table((1000, 750, 500, 250), 5.0),
                       solver=Renoise(), noise_rule=rule, **settings)
        run.run()
        assert (run.trace.counts()["reuse"] > 0) == bool(settings)
    assert [place for place, _ in rules[0].drawn] == [place for place, _ in rules[1].drawn]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(rules[0].drawn, rules[1].drawn, strict=True))


def test_places_beyond_1024_frames_are_as_good_as_the_first():
    """A chunk that sees one chunk back is at frame 1040 what it is near the start."""
    model, text, latents = tiny_wan(), normal(1, 5, TINY.dim, seed=1), normal(1, TINY.channels, 16, SIDE, SIDE)
    found = []
    for prefix in (130, 3):   # two layers look three chunks back
        plan = sequential(8 * (prefix + 1), 8, 1, prefix_chunks=prefix, history=History(1), commit=False)
        run = Generation(model, plan, RunSettings(listed_table((500,), 5.0), SIDE, SIDE, solver=Renoise()),
                         {"cond#0": [text] * len(plan.chunks)}, latents[:, :, :8].repeat(1, 1, prefix, 1, 1))
        run.video.latents[:, :, 8 * prefix:] = latents[:, :, 8:]
        found.append(run.run()[:, :, 8 * prefix:])
    torch.testing.assert_close(*found, atol=1e-4, rtol=0)
