"""Every preset of every profile fits the profile's own plan: budgets, policies, guidance and step lists agree."""

from dataclasses import replace

import pytest
import torch

from flowcache_core.backbones.magi import MagiDistill, MagiTransformer
from flowcache_core.backbones.magi_parts import MagiConfig
from flowcache_core.backbones.wan import WanConfig, WanTransformer
from flowcache_core.profiles import load_preset, load_profile, preset_names, profile_names
from flowcache_core.sampling import RunRequest, plan_request


class Encoder:
    def encode(self, prompt):
        return torch.zeros(1, 5, 64)


@pytest.fixture(scope="module")
def wan():
    return WanTransformer(WanConfig(128, 1, 64, 1, text_dim=64, freq_dim=32))


def network(profile, wan):
    if profile.family != "magi-1":
        return wan
    sizes = MagiConfig(1, 128, 64, 8, caption_channels=64, caption_max_length=60)
    return MagiTransformer(sizes, MagiDistill(profile.steps) if profile.distilled else None)


@pytest.mark.parametrize("name", profile_names())
def test_presets_fit_their_profile(name, wan):
    profile = replace(load_profile(name), latent=(4, 4))
    plan = plan_request(profile, profile.base_frames or 8 * profile.chunk_frames).build()
    chunks = len(plan.chunks)
    for preset in preset_names(profile):
        chosen = load_preset(profile, preset)
        request = RunRequest(profile, plan, ("x",) * chunks, 0, profile.shift, profile.guidance, chosen.policy,
                             chosen.predictor, chosen.budget, chosen.compression)
        run = request.generation(network(profile, wan), Encoder())
        assert (run.cache.store is not None) == (plan.name not in ("dense",)), (name, preset)
        run.close()
