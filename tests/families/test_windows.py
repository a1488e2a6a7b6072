"""Videos of several windows: what is repeated, encoded again, shown and numbered, for lengths of every kind."""

from dataclasses import replace

import pytest
import torch

from flowcache_core.generation import Given
from flowcache_core.kv import KVBudget
from flowcache_core.profiles import load_profile
from flowcache_core.reuse.policies.flowcache import FlowCache
from flowcache_core.reuse.policies.off import Off
from flowcache_core.reuse.predictors import Velocity
from flowcache_core.sampling import (
    RunRequest,
    Sources,
    VideoRun,
    latents_for,
    plan_request,
    shown_frames,
    video_request,
)
from tests.reference import SIDE, TINY, normal, tiny_wan

PROFILE = replace(load_profile("skyreels-v2-df"), name="tiny", chunk_frames=2, latent=(SIDE, SIDE), steps=3, ar_step=1,
                  base_frames=6, overlap_pixel_frames=5, guidance=1.0)


class ToyCodec:
    """The frames of the Wan2.1 codec without its weights: pixels are three channels of their latent, shaded in time;
    encoding sees the last pixel frame of each latent and cannot know the fourth channel."""

    def decode(self, latents):
        return self.decode_stream().push(latents)

    def decode_stream(self):
        return ToyStream()

    def encode(self, pixels):
        assert pixels.shape[2] % 4 == 1
        colours = pixels[:, :, ::4]
        return torch.cat([colours, colours.mean(1, keepdim=True)], dim=1)


class ToyStream:
    started = False

    def push(self, latents):
        frames = []
        for latent in latents[:, :3].split(1, dim=2):
            shades = torch.linspace(0.7, 1, 4).view(1, 1, 4, 1, 1) if self.started else torch.ones(1, 1, 1, 1, 1)
            frames.append(latent * shades)
            self.started = True
        return torch.cat(frames, dim=2)


class Words:
    def encode(self, prompt):
        return normal(1, 5, TINY.text_dim, seed=sum(map(ord, prompt)))


def asked(frames, schedule=None, sources=None, prompts=None, profile=PROFILE, pixel_frames=None, overlap="pixels",
          base=6, **settings):
    plans = plan_request(profile, frames, schedule)
    settings = {"policy": Off(), "predictor": Velocity(), "given_noise": 20.0, **settings}
    run = RunRequest(profile, plans.build(), (), 1, 8.0, profile.guidance, **settings)
    made = video_request(run, plans, sources, base_frames=base, overlap_frames=2, overlap=overlap,
                         pixel_frames=pixel_frames)
    return made.with_prompts(prompts or ("a",) * made.chunks)


def made(request, model=None, codec=None):
    """The run, its latents, chunks as handed over, and pixels as shown."""
    run, chunks, pixels = VideoRun(request, model or tiny_wan(), Words(), codec or ToyCodec()), {}, []
    latents = run.run(None, lambda chunk, latent: chunks.setdefault(chunk, latent.clone()), pixels.append)
    return run, latents, chunks, torch.cat(pixels, dim=2)


LENGTHS = [1, 2, 5, 6, 7, 8, 9, 10, 11, 14, 15]


@pytest.mark.parametrize("frames", LENGTHS)
@pytest.mark.parametrize("schedule", ["async", "sync", "dense"])
def test_every_length_is_made_whole(frames, schedule):
    run, latents, chunks, pixels = made(asked(frames, schedule))
    assert latents.shape[2] == frames and latents.isfinite().all()
    assert pixels.shape[2] == shown_frames(frames)
    assert list(chunks) == list(range(run.request.chunks))
    assert torch.equal(torch.cat(list(chunks.values()), dim=2), latents)
    trace = run.trace
    assert [c for c, _ in trace.plan["chunks"]] == sorted({c for c, _ in trace.plan["chunks"]})
    assert trace.plan["chunks"][-1][1] == frames and len(trace.plan["chunks"]) == len(chunks)
    rows = [p.row for p in trace.passes]
    assert rows == sorted(rows) and rows[-1] == trace.plan["rows"] - 1
    steps = {(lane.chunk, lane.step) for p in trace.passes for lane in p.lanes}
    assert steps == {(c, s) for c in chunks for s in range(3)}


@pytest.mark.parametrize("pixel_frames", [1, 2, 4, 5, 6, 17, 18, 19, 20, 21, 38])
def test_any_number_of_pixel_frames(pixel_frames):
    _, _, _, pixels = made(asked(latents_for(pixel_frames), pixel_frames=pixel_frames))
    assert pixels.shape[2] == pixel_frames


@pytest.mark.parametrize("schedule", ["async", "dense"])
def test_windows_by_hand(schedule):
    """Two windows: run, decode, encode the last 5 pixel frames, run again with those as prefix."""
    request, model, codec = asked(10, schedule), tiny_wan(), ToyCodec()
    assert [(w.start, w.frames, w.prefix) for w in request.windows] == [(0, 6, 0), (4, 6, 2)]
    _, latents, _, pixels = made(request, model, codec)
    first = request.window_run(0, Given()).generation(model, Words()).run()
    shown = codec.decode(first)
    prefix = codec.encode(shown[:, :, -5:])
    second = request.window_run(1, Given(prefix)).generation(model, Words()).run()
    assert torch.equal(second[:, :, :2], prefix) and not torch.equal(prefix, first[:, :, -2:])
    assert torch.equal(latents, torch.cat([first, second[:, :, 2:]], dim=2))
    assert torch.equal(pixels, torch.cat([shown, codec.decode(second)[:, :, 5:]], dim=2))


def test_causvid_leaves_the_shared_frames_to_the_next_window():
    profile = replace(PROFILE, plan="sequential", family="wan-causal", ar_step=0, addnoise=0.0, context_timestep=0.0)
    request, model, codec = asked(10, profile=profile, overlap="latents", given_noise=None), tiny_wan(), ToyCodec()
    _, _, _, pixels = made(request, model, codec)
    first = request.window_run(0, Given()).generation(model, Words()).run()
    shown = codec.decode(first)
    prefix = torch.cat([codec.encode(shown[:, :, -5:-4]), first[:, :, -1:]], dim=2)
    second = request.window_run(1, Given(prefix)).generation(model, Words()).run()
    assert torch.equal(pixels, torch.cat([shown[:, :, :-5], codec.decode(second)], dim=2))


def test_a_longer_video_begins_with_the_same_windows():
    short, long = (made(asked(frames))[1] for frames in (10, 14))
    assert torch.equal(long[:, :, :10], short)


def test_the_overlap_is_noised_for_the_network_and_told_so():
    request = asked(10)
    runs = [request.window_run(1, Given(normal(1, 4, 2, SIDE, SIDE))).generation(tiny_wan(), Words()) for _ in range(2)]
    p = next(runs[0].plan.passes())
    shown, times = runs[0].video.inputs(p)
    assert p.kind == "prefix" and times == [20.0, 20.0]
    assert torch.equal(shown, runs[1].video.inputs(p)[0]) and not torch.equal(shown, runs[0].video.chunk(0))


def test_thresholds_and_prompts_count_by_the_finished_video():
    policy = FlowCache(threshold="0-2:0.1, 3+:0.2", warmup_steps=1, last_steps=0)
    request = asked(14, policy=policy, prompts=("a",) * 4 + ("b",) * 3)
    assert request.chunks == 7 and request.first_chunk(1) == 2 and request.first_chunk(2) == 4
    run, latents, _, _ = made(request)
    limits = {lane.chunk: lane.limit for p in run.trace.passes for lane in p.lanes if lane.limit is not None}
    assert limits == {**dict.fromkeys(range(3), 0.1), **dict.fromkeys(range(3, 7), 0.2)}
    other = made(asked(14, policy=policy))[1]
    assert torch.equal(other[:, :, :8], latents[:, :, :8])
    assert not torch.allclose(other[:, :, 8:], latents[:, :, 8:], atol=1e-4)


def test_a_rolling_schedule_makes_one_window_of_any_length_without_a_codec():
    request = asked(17, "rolling")
    run = VideoRun(request, tiny_wan(), Words())
    assert len(request.windows) == 1 and run.run().shape[2] == 17
    longest = max(sum(run._plans[0].chunks[c].frames for c in (*p.reads, *p.chunks)) for p in run._plans[0].passes())
    assert longest == 6


IMAGE, END, VIDEO = (normal(1, 3, n, SIDE, SIDE, seed=n) for n in (1, 1, 9))


@pytest.mark.parametrize("schedule", ["async", "sync", "dense"])
def test_a_start_image_is_the_first_frame_bit_for_bit(schedule):
    _, latents, _, _ = made(asked(10, schedule, Sources(image=IMAGE)))
    assert torch.equal(latents[:, :, :1], ToyCodec().encode(IMAGE))
    plain = made(asked(10, schedule))[1]
    assert not torch.allclose(plain[:, :, 1], latents[:, :, 1], atol=1e-3)


def test_a_framewise_model_takes_the_image_as_its_first_chunk():
    profile = replace(PROFILE, plan="sequential", chunk_frames=1, ar_step=0, image="first_chunk")
    request = asked(4, sources=Sources(image=IMAGE), profile=profile, given_noise=0.0, base=None)
    assert request.plan(0).prefix_chunks == 1
    _, latents, chunks, pixels = made(request)
    assert torch.equal(latents[:, :, :1], ToyCodec().encode(IMAGE)) and list(chunks) == [0, 1, 2, 3]
    assert torch.equal(pixels[:, :, :1], IMAGE)


def test_start_latents_are_the_image_as_a_still_clip_of_one_chunk():
    profile = replace(PROFILE, plan="sequential", ar_step=0, image="start_latents")
    _, latents, _, _ = made(asked(6, sources=Sources(image=IMAGE), profile=profile, base=None))
    assert torch.equal(latents[:, :, :2], ToyCodec().encode(IMAGE.expand(-1, -1, 5, -1, -1)))


@pytest.mark.parametrize("schedule", ["async", "dense"])
def test_a_start_video_gives_its_last_frames(schedule):
    run, latents, chunks, pixels = made(asked(10, schedule, Sources(video=VIDEO)))
    assert torch.equal(latents[:, :, :2], ToyCodec().encode(VIDEO[:, :, -5:]))
    assert pixels.shape[2] == shown_frames(10) and list(chunks) == list(range(5))
    assert {lane.chunk for p in run.trace.passes for lane in p.lanes} == {1, 2, 3, 4}


@pytest.mark.parametrize("schedule", ["async", "sync", "dense"])
def test_an_end_image_changes_the_last_window_alone(schedule):
    plain, ended = (made(asked(10, schedule, sources))[1] for sources in (None, Sources(end=END)))
    assert torch.equal(plain[:, :, :6], ended[:, :, :6]) and plain.shape == ended.shape
    trace = VideoRun(asked(10, schedule, Sources(end=END)), tiny_wan(), Words(), ToyCodec()).trace
    assert len(trace.plan["chunks"]) == 6   # the end frame's keys have a place in charts
    assert not torch.allclose(plain[:, :, 6:], ended[:, :, 6:], atol=1e-4)


def test_every_window_keeps_the_budget_and_frees_its_caches():
    request = asked(14, budget=KVBudget(3, "chunks"))
    run = made(request)[0]
    assert max(p.kv_tokens for p in run.trace.passes) <= 3 * 2 * 4
    assert run._run.cache.store.allocated_bytes == 0


@pytest.mark.parametrize(("make", "value"), [
    (lambda: VideoRun(asked(10), tiny_wan(), Words()), "2 windows without a VAE"),
    (lambda: VideoRun(asked(6, sources=Sources(image=IMAGE)), tiny_wan(), Words()), "start image or video without"),
    (lambda: VideoRun(asked(6, sources=Sources(end=END)), tiny_wan(), Words()), "end image without a VAE"),
    (lambda: VideoRun(asked(10, "sync", Sources(end=END), budget=KVBudget(3)), tiny_wan(), Words(), ToyCodec()),
     "at least 28 tokens"),   # of the last window
    (lambda: asked(10, sources=Sources(image=IMAGE, video=VIDEO)), "one of the two"),
    (lambda: asked(10, sources=Sources(video=VIDEO[:, :, :3])), "start video of 3 frames: at least 5"),
    (lambda: asked(2, sources=Sources(video=VIDEO)), "nothing is left to make"),
    (lambda: asked(10, profile=replace(PROFILE, image="none"), sources=Sources(image=IMAGE)), "not trained to take"),
    (lambda: asked(10, prompts=("a",)), "1 prompts for 5 chunks"),
    (lambda: asked(10, base=2), "less than the window"),
    (lambda: latents_for(0), "0 pixel frames")])
def test_what_does_not_fit_is_refused_before_anything_is_sampled(make, value):
    with pytest.raises(ValueError, match=r"\w") as error:
        make()
    assert value in str(error.value) and "\n" not in str(error.value)
