"""Videos longer than the model's window, in the Chunked AR Sampler: windows that overlap through the VAE."""

import importlib
from dataclasses import replace

import pytest
import torch

from tests.nodes import tiny

BASE, OVERLAP = 9, 9   # latent frames; pixel frames, 3 latent ones: a chunk
LENGTH, WINDOWS = 61, 3   # 16 latent frames: 0-8, 6-14, 12-15 (the last is short)
WANTED = {"seed": 3, "steps": 2, "cfg": 1.0, "shift": 0.0, "width": 0, "height": 0, "length": LENGTH, "batch_size": 1,
          "chunk_frames": 0, "schedule": "profile", "ar_step": -1, "noise_rule": "profile", "prompts": ""}
FIRST, THEN = "a red circle moving right quickly", "a blue square moving left slowly"


@pytest.fixture(autouse=True, scope="module")
def demo_loads(version):
    if version < (0, 21):
        pytest.skip("this host does not load the demo's VAE, and says so")


def profile_with(pack, **changes):
    return replace(tiny.core(pack, "profiles").load_profile("demo"), base_frames=BASE, overlap_pixel_frames=OVERLAP,
                   **changes)


def sampled(pack, profile, with_vae=True, words=None, policy=None, **asked):
    loading, sampling = (importlib.import_module(f"{pack.__name__}.nodes.{name}") for name in ("loading", "sampling"))
    model, clip, vae, _ = loading.load_demo({})
    more = {} if policy is None else {"policy": policy}
    model = tiny.bridge(pack, "outer").attach(model, profile=profile, **more)
    yes, no = (clip.encode_from_tokens_scheduled(clip.tokenize(words)) for words in (FIRST, ""))
    wanted = {**WANTED, "clip": clip, "vae": vae if with_vae else None, **asked}
    with torch.inference_mode():
        made = sampling.sample(model, yes, no, sampling.Asked(**wanted), words)
        return made, model.model.process_latent_in(made.latent["samples"])


def in_the_core(pack, profile, prompts):
    """Latents, pixels `(1, 3, T, H, W)` in -1..1 and trace of the same video without the host."""
    core, schedules = tiny.core(pack, "sampling"), tiny.core(pack, "sampling.schedule")
    bundle, text, reuse = (tiny.core(pack, name) for name in ("demo.bundle", "demo.text", "reuse"))
    schedule = schedules.plan_request(profile, (LENGTH - 1) // 4 + 1, steps=2)
    run = tiny.core(pack, "sampling.request").RunRequest(
        profile, schedule.build(), (), 3, profile.shift, 1.0, reuse.POLICIES.make("off"),
        reuse.PREDICTORS.make("residual"), given_noise=profile.addnoise)
    overlap = core.latents_for(OVERLAP)
    request = core.video_request(run, schedule, base_frames=BASE, overlap_frames=overlap, overlap=profile.overlap)
    made, pixels = core.VideoRun(request.with_prompts(prompts), bundle.load_transformer(), text.DemoTextEncoder(),
                                 bundle.load_codec()), []
    return made.run(on_frames=pixels.append), torch.cat(pixels, dim=2), made.trace


@pytest.mark.parametrize("changes", [{}, {"addnoise": 20.0}, {"overlap": "latents"}])
def test_windows_of_the_node_are_those_of_the_core(pack, changes):
    """Latents, frames and calls, a prompt that changes in the second window included."""
    profile, said = profile_with(pack, **changes), []
    made, latents = sampled(pack, profile, words=said.append, prompts=f"0: {FIRST}; 4: {THEN}")
    expected, pixels, trace = in_the_core(pack, profile, (*[FIRST] * 4, *[THEN] * 2))
    torch.testing.assert_close(latents, expected, rtol=0, atol=2e-3)
    frames = (pixels[0].movedim(0, -1) / 2 + 0.5).clamp(0, 1)
    assert made.frames.shape == frames.shape and made.frames.shape[0] == LENGTH
    assert (made.frames - frames).abs().max() <= 1.5 / 255
    assert made.trace.counts() == trace.counts() and made.trace.plan["chunks"] == trace.plan["chunks"]
    assert [p.row for p in made.trace.passes] == [p.row for p in trace.passes]
    assert any(text.startswith(f"window {WINDOWS} of {WINDOWS}: ") for text in said)


def test_windows_that_cannot_be_get_one_sentence(pack):
    profile = profile_with(pack)
    with pytest.raises(ValueError, match="16 latent frames .* sees 9 at a time: connect vae"):
        sampled(pack, profile, with_vae=False)


def frames_and_chunks(base, made, name):
    import safetensors.torch

    files = sorted((base / "output" / name).glob("chunk-*.safetensors"))
    return made.frames, [safetensors.torch.load_file(path)["latent"] for path in files]


def same(a, b):
    return len(a) == len(b) and all(map(torch.equal, a, b))


def extended(pack, name, added):
    """The inputs that Extend AR Video hands on."""
    loading, extending = (importlib.import_module(f"{pack.__name__}.nodes.{part}") for part in ("loading", "extending"))
    model = tiny.bridge(pack, "outer").attach(loading.load_demo({})[0], profile=profile_with(pack))
    samples, length = extending.beginning(model, importlib.import_module("folder_paths").get_output_directory(), name,
                                          None, added)
    return {"prefix_latents": {"samples": samples}, "length": length}


def changing(pack):
    """A prompt that changes in the second window, and a policy that skips."""
    policy = tiny.core(pack, "reuse").POLICIES.make("flowcache", {"threshold": "0.5", "warmup_steps": 1,
                                                                  "last_steps": 0})
    return {"prompts": f"0: {FIRST}; 4: {THEN}", "policy": policy}


@pytest.fixture(scope="module")
def whole_run(pack, base):
    """What was made, its frames and chunks."""
    made, latents = sampled(pack, profile_with(pack), **changing(pack), out_folder="whole")
    frames, chunks = frames_and_chunks(base, made, "whole")
    assert made.trace.counts()["reuse"]
    torch.testing.assert_close(torch.cat(chunks, dim=2), latents, rtol=0, atol=1e-5)   # scaled and back
    return made, frames, chunks


def test_preview_tells_what_the_windows_then_do(pack, whole_run):
    loading, forecasting = (importlib.import_module(f"{pack.__name__}.nodes.{part}")
                            for part in ("loading", "forecasting"))
    model, clip, _, _ = loading.load_demo({})
    model = tiny.bridge(pack, "outer").attach(model, profile=profile_with(pack), policy=changing(pack)["policy"])
    words = clip.encode_from_tokens_scheduled(clip.tokenize(FIRST))
    told = forecasting.foretold(model, words, words, forecasting.Asked(**WANTED), True)
    summary = whole_run[0].trace.summary()
    assert (told.calls, told.kv_bytes) == (summary["model_calls"], summary["kv_peak_bytes"])
    assert (told.rows, told.passes) == (whole_run[0].trace.plan["rows"], len(whole_run[0].trace.passes))
    assert 0 < told.seconds < told.whole_seconds and len(told.parts) == WINDOWS


@pytest.mark.parametrize("count", [3, 4])
def test_windows_are_kept_and_go_on_to_the_same_bits(pack, base, monkeypatch, caplog, whole_run, count):
    """Stopped at the end of the first window (chunks 0-2), and in the second (3-4)."""
    (made, whole, chunks), kept = whole_run, {**changing(pack), "out_folder": f"stopped{count}"}
    folders, manager = tiny.core(pack, "run_folder"), importlib.import_module("comfy.model_management")
    save = folders.RunFolder.save_state

    def stop(self, state, last=False):
        save(self, state, last)
        if len(self.saved) == count:
            raise manager.InterruptProcessingException

    with monkeypatch.context() as patch:
        patch.setattr(folders.RunFolder, "save_state", stop)
        with pytest.raises(manager.InterruptProcessingException):
            sampled(pack, profile_with(pack), **kept)
    assert f"resume_from set to stopped{count}" in caplog.text
    with pytest.raises(ValueError, match=f"holds an unfinished run .{count} of 6 chunks"):
        sampled(pack, profile_with(pack), **kept)
    on = {**kept, "resume_from": f"stopped{count}"}
    for other, said in (({"seed": 4}, "seed is 4"), ({"steps": 3}, "settings"), ({"length": 73}, "windows is")):
        with pytest.raises(ValueError, match=f"is another run: .*{said}"):
            sampled(pack, profile_with(pack), **{**on, **other})
    again, _ = sampled(pack, profile_with(pack), **on)
    frames, found = frames_and_chunks(base, again, f"stopped{count}")
    assert same(found, chunks) and torch.equal(frames, whole)
    assert [p.lanes for p in again.trace.passes] == [p.lanes for p in made.trace.passes]
    assert [p.row for p in again.trace.passes] == [p.row for p in made.trace.passes]


def test_extend_goes_on_in_a_later_window(pack, base, whole_run):
    """Behind whole windows: as the longer video would have been; and from there it is kept and extended once more."""
    profile, asked, (_, whole, chunks) = profile_with(pack), changing(pack), whole_run
    sampled(pack, profile, length=33, prompts=FIRST, policy=asked["policy"], out_folder="short")   # the first window
    made, _ = sampled(pack, profile, **asked, **extended(pack, "short", 2), out_folder="five")
    frames, found = frames_and_chunks(base, made, "five")
    torch.testing.assert_close(torch.cat(found, dim=2), torch.cat(chunks[:5], dim=2), rtol=0, atol=1e-3)
    assert frames.shape[0] == 57 and (frames - whole[:57]).abs().max() <= 2 / 255
    assert {lane.chunk for p in made.trace.passes for lane in p.lanes} == {3, 4}
    more, _ = sampled(pack, profile, **asked, **extended(pack, "five", 1))
    assert {lane.chunk for p in more.trace.passes for lane in p.lanes} == {5}
    assert more.frames.shape[0] == 69 and (more.frames[:57] - frames).abs().max() <= 2 / 255


def test_overlap_of_the_widget_counts(pack):
    """Fewer frames are made twice, and a plan is refused that has no windows."""
    profile = replace(profile_with(pack), overlap_pixel_frames=21)
    sampling = importlib.import_module(f"{pack.__name__}.nodes.sampling")
    windows = tiny.bridge(pack, "windows").windows_of
    for overlap, shared in ((0, 6), (OVERLAP, 3), (21, 6)):
        changed = tiny.bridge(pack, "windows").with_overlap(profile, "profile", overlap)
        assert [w.prefix for w in windows(changed, "profile", 0, 16)][1:2] == [shared]
    made, _ = sampled(pack, profile, overlap=OVERLAP)
    assert torch.equal(made.latent["samples"], sampled(pack, profile_with(pack))[0].latent["samples"])
    assert sampling.Asked(**WANTED).overlap == 0   # graphs of before are as they were


@pytest.mark.parametrize(("asked", "words"), [
    ({"overlap": 10}, "overlap 10: expected 4n [+] 1 pixel frames; set 9 or 13"),
    ({"overlap": 5}, "overlap of 2 latent frames"), ({"overlap": 33}, "overlap must be shorter than the window"),
    ({"overlap": 9, "schedule": "rolling"}, "overlap 9 with schedule rolling: .* set overlap to 0")])
def test_an_overlap_that_cannot_be_gets_one_sentence(pack, asked, words):
    with pytest.raises(ValueError, match=words):
        sampled(pack, profile_with(pack), **asked)
