"""What is shown while chunks are sampled: the demo in its true colours, and no more often than it may cost."""

import importlib

import pytest
import torch

from tests.nodes import tiny
from tests.nodes.test_bridge_truths import chunked, policy, profiled
from tests.nodes.test_nodes import FIRST


@pytest.fixture
def demo(pack, version):
    if version < FIRST:
        pytest.skip("this host does not load the demo's VAE, and says so")
    return importlib.import_module(f"{pack.__name__}.nodes.loading").load_demo({})


def previewer(model, method="Auto"):
    import latent_preview

    latent_preview.args.preview_method = getattr(latent_preview.LatentPreviewMethod, method)
    try:
        return latent_preview.get_previewer(model.load_device, model.model.latent_format)
    finally:
        latent_preview.args.preview_method = latent_preview.LatentPreviewMethod.NoPreviews


@pytest.mark.parametrize("method", ["Auto", "TAESD"])
@pytest.mark.parametrize("prompt", ["green", "red"])
def test_the_demo_is_shown_in_its_colours(pack, demo, method, prompt):
    """A video of one colour: its last chunk as a preview is that chunk decoded after the ones before it."""
    codec = tiny.core(pack, "demo.bundle").load_codec()
    world = torch.full((1, 3, 21, 32, 32), -0.8)
    world[:, {"red": 0, "green": 1}[prompt], :, 8:24, 8:24] = 0.5
    with torch.inference_mode():
        latents = codec.encode(world)
        expected = codec.decode(latents)[0, :, -1].movedim(0, -1).add(1).div(2).clamp(0, 1)
    _, picture, _ = previewer(demo[0], method).decode_latent_to_preview_image("JPEG", latents[:, :, -3:])
    shown = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(32, 32, 3).float() / 255
    assert (shown - expected).abs().mean() < 0.05, (shown - expected).abs().mean()
    inside = shown[10:22, 10:22].mean((0, 1))
    assert int(inside.argmax()) == {"red": 0, "green": 1}[prompt]


def test_other_models_keep_the_hosts_previews(pack):
    from comfy.latent_formats import Wan21

    model = profiled(pack, tiny.load())
    assert type(model.model.latent_format) is Wan21
    assert type(previewer(model)).__name__ == "Latent2RGBPreviewer"


def test_demo_latents_have_wans_scale(demo):
    from comfy.latent_formats import Wan21

    x = tiny.noise()
    assert torch.equal(demo[0].model.process_latent_out(x), Wan21().process_out(x))
    assert torch.equal(demo[0].model.process_latent_in(x), Wan21().process_in(x))


class Clock:
    """Of a run whose passes take a second each, and whose previews take what they are said to."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.mark.parametrize(("seconds", "steps"), [(0.0, [0, 1, 2, 3, 4, 5, 6, 7]), (0.03, [0, 1, 3, 5, 7]), (0.3, [0])])
def test_previews_that_take_long_are_made_seldom(pack, monkeypatch, seconds, steps):
    clock, shown = Clock(), []
    monkeypatch.setattr(tiny.bridge(pack, "progress"), "time", clock)

    def callback(step, x0, x, total):
        shown.append((step, total, x0.shape[2]))
        clock.now += seconds

    def forward(executor, *args, **kwargs):
        clock.now += 1.0
        return executor(*args, **kwargs)

    model = profiled(pack, tiny.load(), **policy(pack, "never"))
    model.add_wrapper_with_key("diffusion_model", "test", forward)
    tiny.sample(model, chunked(pack, noise="per_chunk", solver="euler"), tiny.sigmas(3), 1.0, callback=callback)
    assert shown == [*((step, 8, 3) for step in steps), (7, 8, 6)]   # at the end the whole video
