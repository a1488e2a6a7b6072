"""What must stay true on the host's own network (DESIGN.md 5.1, 5.5)."""

from types import ModuleType

import pytest
import torch

from tests.nodes import tiny

POLICIES = {"never": {"threshold": 0.0, "warmup_steps": 1}, "often": {"threshold": 5.0, "warmup_steps": 1},
            "some": {"threshold": 5.0, "warmup_steps": 1, "max_consecutive_skips": 1}}


def profiled(pack: ModuleType, model, profile: str = "self-forcing", **changes):
    load = tiny.core(pack, "profiles").load_profile
    return tiny.bridge(pack, "outer").attach(model, profile=load(profile), **changes)


def policy(pack: ModuleType, name: str = "often", predictor: str = "velocity", **settings):
    reuse = tiny.core(pack, "reuse")
    return {"policy": reuse.POLICIES.make("flowcache", POLICIES[name] | settings),
            "predictor": reuse.PREDICTORS.make(predictor)}


def chunked(pack: ModuleType, listener=None, **request):
    asked, make = tiny.bridge(pack, "run").ChunkRequest(**request), tiny.bridge(pack, "listening").Listener
    return tiny.bridge(pack, "chunked").ChunkedSampler(asked, (lambda: listener) if listener else make)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m"])
@pytest.mark.parametrize("predictor", ["velocity", "residual"])
def test_policy_that_never_skips_leaves_an_ordinary_sampler_its_bits(pack, cfg, sampler, predictor):
    model = tiny.load()
    plain = tiny.sample(model, tiny.ksampler(sampler), tiny.sigmas(), cfg)
    ours = tiny.sample(profiled(pack, model, **policy(pack, "never", predictor)), tiny.ksampler(sampler), tiny.sigmas(),
                       cfg)
    assert torch.equal(ours, plain)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_whole_video_as_one_chunk_is_the_hosts_euler_bit_for_bit(pack, cfg):
    model, shape = tiny.load(), (2, 16, 3, 8, 12)
    plain = tiny.sample(model, tiny.ksampler(), tiny.sigmas(), cfg, shape)
    ours = tiny.sample(profiled(pack, model), chunked(pack, noise="given", solver="euler"), tiny.sigmas(), cfg, shape)
    assert torch.equal(ours, plain)
    assert not torch.equal(ours, torch.zeros(shape))


@pytest.mark.parametrize("frames", [1, 3])
def test_chunks_are_the_hosts_own_ar_sampler_bit_for_bit(pack, version, frames):
    if version < (0, 21):
        pytest.skip("this host has no AR sampler of its own")
    import comfy.samplers

    model = tiny.load(metadata={"config": '{"transformer": {"causal_ar": true}}'})
    assert type(model.model.diffusion_model).__name__ == "CausalWanModel"
    plain = tiny.sample(model, comfy.samplers.ksampler("ar_video", {"num_frame_per_block": frames}), tiny.sigmas())
    profile = {1: "causal-forcing-framewise", 3: "self-forcing"}[frames]
    ours = tiny.sample(profiled(pack, model, profile), chunked(pack, noise="comfy_ar"), tiny.sigmas())
    assert torch.equal(ours, plain)
