"""A video of windows goes on from every state it writes, to the same bits and the rest of its pixels."""

from dataclasses import fields, replace

import pytest
import torch

from flowcache_core.reuse.policies.flowcache import FlowCache
from flowcache_core.run_state import RunState, read_state, write_state
from flowcache_core.sampling import REBUILT, Sources, VideoRun
from flowcache_core.saved import pack, unpack
from tests.families.test_windows import IMAGE, PROFILE, VIDEO, ToyCodec, Words, asked
from tests.reference import tiny_wan


class Counting:
    def __init__(self):
        self.inner, self.calls = tiny_wan(), 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def at_fps(self, fps):
        return self

    def __call__(self, *arguments):
        self.calls += 1
        return self.inner(*arguments)


@pytest.mark.parametrize(("frames", "schedule", "sources", "overlap"), [
    (14, "async", None, "pixels"), (10, "sync", Sources(video=VIDEO), "pixels"),
    (10, "dense", Sources(image=IMAGE, end=IMAGE), "pixels"), (14, "async", Sources(end=IMAGE), "latents")])
def test_every_state_leads_to_the_same_video(tmp_path, frames, schedule, sources, overlap):
    def started(model):
        policy = FlowCache(threshold=0.2, warmup_steps=1, last_steps=0)
        request = asked(frames, schedule, sources, policy=policy, overlap=overlap, pixel_frames=4 * frames - 5)
        return VideoRun(request, model, Words(), ToyCodec())

    model, latents, pixels, states = Counting(), {}, [], []

    def keep(state):
        path = tmp_path / f"{len(states)}.safetensors"
        write_state(path, state, {})
        states.append((path, model.calls, sum(p.shape[2] for p in pixels)))

    run = started(model)
    whole = run.run(None, lambda chunk, latent: latents.setdefault(chunk, latent.clone()), pixels.append, keep)
    shown = torch.cat(pixels, dim=2)
    assert len(states) >= len(run.request.windows) and model.calls
    for path, calls, seen in states:
        state, again, rest, numbers = read_state(path)[0], Counting(), [], []
        resumed = started(again)
        resumed.restore(state, {c: latents[c] for c in state.finished})
        found = resumed.run(None, lambda chunk, latent, n=numbers: n.append(chunk), rest.append)
        assert torch.equal(found, whole)
        assert torch.equal(torch.cat([shown[:, :, :seen], *rest], dim=2), shown)
        replayed = []
        once_more = started(tiny_wan())
        once_more.restore(state, {c: latents[c] for c in state.finished})
        once_more.run(None, None, replayed.append, replay=True)
        assert torch.equal(torch.cat(replayed, dim=2), shown)
        window, own = state.video["window"], []
        no_more = started(tiny_wan())
        no_more.restore(state, {c: latents[c] for c in state.finished})
        no_more.run(None, None, own.append, replay=True, kept=window)
        assert torch.equal(torch.cat(own, dim=2), shown[:, :, run.request.shown_before(window):])
        assert not set(numbers) & set(state.finished) and again.calls == model.calls - calls
        assert [p.lanes for p in resumed.trace.passes] == [p.lanes for p in run.trace.passes]
        assert [p.row for p in resumed.trace.passes] == [p.row for p in run.trace.passes]


def test_a_missing_latent_is_named(tmp_path):
    states = []
    request = asked(10)
    VideoRun(request, tiny_wan(), Words(), ToyCodec()).run(on_state=states.append)
    with pytest.raises(ValueError, match="no latent of the finished chunk 0"):
        VideoRun(request, tiny_wan(), Words(), ToyCodec()).restore(states[-1], {})


POLICY = FlowCache(threshold=0.2, warmup_steps=1, last_steps=0)
CAUSAL = replace(PROFILE, plan="sequential", ar_step=0)


def started(frames, model=None, schedule=None, sources=None, profile=PROFILE, **settings):
    request = asked(frames, schedule, sources, policy=POLICY, profile=profile, **settings)
    return VideoRun(request, model or tiny_wan(), Words(), ToyCodec())


def run_through(run, **more):
    """Latents, chunks, pixels, and the last state as a file would give it."""
    chunks, pixels, states = {}, [], []
    latents = run.run(None, lambda chunk, latent: chunks.setdefault(chunk, latent.clone()), pixels.append,
                      lambda state: states.append(copied(state)), **more)
    return latents, chunks, torch.cat(pixels, dim=2), states


def copied(state):
    tensors = []
    tree = {f.name: pack(getattr(state, f.name), tensors) for f in fields(state)}
    kept = [tensor.clone() for tensor in tensors]
    return RunState(**{name: unpack(part, kept) for name, part in tree.items()})


@pytest.mark.parametrize(("schedule", "sources"), [
    ("async", None), ("sync", Sources(video=VIDEO)), ("dense", Sources(image=IMAGE, end=IMAGE)),
    ("dense", Sources(video=VIDEO))])
def test_from_latents_alone_the_next_window_is_the_same_and_the_rest_of_this_one_is_near(schedule, sources):
    frames, ends = 14, (3, 5)   # chunks behind the first two windows
    whole, chunks, shown, _ = run_through(started(frames, schedule=schedule, sources=sources))
    for count in range(1, 7):
        again = started(frames, schedule=schedule, sources=sources)
        again.go_on([chunks[c] for c in range(count)])
        latents, made, pixels, states = run_through(again)
        assert latents.shape == whole.shape and pixels.shape == shown.shape and latents.isfinite().all()
        assert torch.equal(latents[:, :, :2 * count], whole[:, :, :2 * count])
        given = 1 if sources and sources.video is not None else 0
        if count <= given or count in ends:   # nothing was in flight
            assert torch.equal(latents, whole) and torch.equal(pixels, shown)
            assert not any("made again" in note for note in again.trace.notes)
        else:
            assert any("made again from their latents" in note for note in again.trace.notes)
            assert sorted(made) == list(range(count, 7))
        assert again.trace.plan["chunks"] == started(frames, schedule=schedule).trace.plan["chunks"][:7] or sources
        rows = [p.row for p in again.trace.passes]
        assert rows == sorted(rows) and rows[-1] == again.trace.plan["rows"] - 1
        for state in states:   # a rebuilt video has states to go on from, too
            resumed = started(frames, schedule=schedule, sources=sources)
            resumed.restore(state, {**chunks, **made})
            assert torch.equal(resumed.run(), latents)


@pytest.mark.parametrize(("short", "long"), [(6, 10), (6, 14), (8, 10), (8, 14), (10, 12), (4, 6), (2, 14)])
@pytest.mark.parametrize("overlap", ["pixels", "latents"])
def test_an_extension_behind_its_own_keys_is_the_longer_video(short, long, overlap):
    models = [Counting() for _ in range(3)]
    whole, _, shown, _ = run_through(started(long, models[0], profile=CAUSAL, overlap=overlap))
    begin = started(short, models[1], profile=CAUSAL, overlap=overlap)
    _, chunks, _, states = run_through(begin)
    run = started(long, models[2], profile=CAUSAL, overlap=overlap)
    run.go_on([chunks[c] for c in range(short // 2)], states[-1], begin.request.plan(len(begin.request.windows) - 1))
    kept, begun = states[-1].video["window"], run.shown_from(states[-1].video["window"])
    latents, made, pixels, _ = run_through(run, kept=kept)   # the windows before the last one are not decoded again
    assert torch.equal(latents, whole) and sorted(made)[0] == short // 2 and begun == kept
    assert torch.equal(pixels, shown[:, :, run.request.shown_before(begun):])
    assert not any("made again" in note for note in run.trace.notes)
    assert models[0].calls == models[1].calls + models[2].calls


def test_an_extension_without_its_keys_says_so():
    begin = started(8, profile=CAUSAL)
    _, chunks, _, _ = run_through(begin)
    run = started(10, profile=CAUSAL)
    run.go_on([chunks[c] for c in range(4)])
    latents = run.run()
    assert torch.equal(latents[:, :, :8], torch.cat([chunks[c] for c in range(4)], dim=2))
    assert run.trace.notes == [REBUILT.format(1)]
