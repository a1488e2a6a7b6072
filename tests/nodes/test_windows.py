"""Videos longer than the model's window, in the Chunked AR Sampler: windows that overlap through the VAE."""

import importlib
from dataclasses import replace

import pytest
import torch

from tests.nodes import tiny

BASE, OVERLAP = 9, 9   # latent frames; pixel frames, 3 latent ones: a chunk
LENGTH, WINDOWS = 61, 3   # 16 latent frames: 0-8, 6-14, 12-15 (the last is short)
FIRST, THEN = "a red circle moving right quickly", "a blue square moving left slowly"


@pytest.fixture(autouse=True)
def demo_loads(version):
    if version < (0, 21):
        pytest.skip("this host does not load the demo's VAE, and says so")


def profile_with(pack, **changes):
    return replace(tiny.core(pack, "profiles").load_profile("demo"), base_frames=BASE, overlap_pixel_frames=OVERLAP,
                   **changes)


def sampled(pack, profile, with_vae=True, words=None, **asked):
    loading, sampling = (importlib.import_module(f"{pack.__name__}.nodes.{name}") for name in ("loading", "sampling"))
    model, clip, vae, _ = loading.load_demo({})
    model = tiny.bridge(pack, "outer").attach(model, profile=profile)
    yes, no = (clip.encode_from_tokens_scheduled(clip.tokenize(words)) for words in (FIRST, ""))
    wanted = {"seed": 3, "steps": 2, "cfg": 1.0, "shift": 0.0, "width": 0, "height": 0, "length": LENGTH,
              "batch_size": 1, "chunk_frames": 0, "schedule": "profile", "ar_step": -1, "noise_rule": "profile",
              "prompts": "", "clip": clip, "vae": vae if with_vae else None, **asked}
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
    with pytest.raises(ValueError, match="windows are not kept by this node; empty out_folder"):
        sampled(pack, profile, out_folder="long")
