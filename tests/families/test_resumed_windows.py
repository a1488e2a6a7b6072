"""A video of windows goes on from every state it writes, to the same bits and the rest of its pixels."""

import pytest
import torch

from flowcache_core.reuse.policies.flowcache import FlowCache
from flowcache_core.run_state import read_state, write_state
from flowcache_core.sampling import Sources, VideoRun
from tests.families.test_windows import IMAGE, VIDEO, ToyCodec, Words, asked
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
        assert not set(numbers) & set(state.finished) and again.calls == model.calls - calls
        assert [p.lanes for p in resumed.trace.passes] == [p.lanes for p in run.trace.passes]
        assert [p.row for p in resumed.trace.passes] == [p.row for p in run.trace.passes]


def test_a_missing_latent_is_named(tmp_path):
    states = []
    request = asked(10)
    VideoRun(request, tiny_wan(), Words(), ToyCodec()).run(on_state=states.append)
    with pytest.raises(ValueError, match="no latent of the finished chunk 0"):
        VideoRun(request, tiny_wan(), Words(), ToyCodec()).restore(states[-1], {})
