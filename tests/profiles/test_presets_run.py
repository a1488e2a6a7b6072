"""Every preset of every profile fits the profile's own plan: budgets, policies, guidance and step lists agree."""

import json
from dataclasses import replace

import pytest
import torch

from flowcache_core.backbones.magi import MagiDistill, MagiTransformer
from flowcache_core.backbones.magi_parts import MagiConfig
from flowcache_core.backbones.wan import WanConfig, WanTransformer
from flowcache_core.cli import build_parser
from flowcache_core.cli.arguments import build_request, build_schedule
from flowcache_core.conformance import released_plan
from flowcache_core.plan import diffusion_forcing
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


def asked(*words):
    args = build_parser().parse_args(["generate", *words])
    return args, build_request(args)


@pytest.mark.parametrize("preset", ["paper-slow", "paper-fast", "paper-kv"])
def test_rows_of_the_paper_on_skyreels_run_as_the_release_does(preset):
    args, request = asked("--profile", "skyreels-v2-df", "--preset", preset, "--latent-frames", "25")
    settings = request.settings()
    assert settings.solver.name == "unipc_released" and settings.predictor.name == "residual"
    assert settings.policy.conformance and settings.policy.calibration == "1.3B_ret" and settings.policy.last_steps == 1
    folded, plan = preset == "paper-kv", diffusion_forcing(25, 5, 50, 5, prefix_chunks=1)
    assert (settings.compression is not None) == folded
    if folded:
        assert settings.compression.released_order and settings.compression.finished_chunks == 1
        assert settings.budget.amount is None
    second = replace(build_schedule(args, request.profile), prefix_chunks=1).build()
    assert second == released_plan(plan, None, gathered=folded) and (second != plan) == folded
    own, _ = asked("--profile", "skyreels-v2-df", "--preset", preset, "--latent-frames", "25", "--kv-window", "6")
    assert replace(build_schedule(own, request.profile), prefix_chunks=1).build() == plan


@pytest.mark.parametrize(("preset", "cached"), [("paper-slow", None), ("paper-fast", 6)])
def test_rows_of_the_paper_on_magi_run_as_the_release_does_and_say_what_they_leave_out(preset, cached):
    _, request = asked("--profile", "magi-1", "--preset", preset, "--chunks", "8", "--size", "32x32")
    settings = request.settings()
    assert settings.policy.conformance and settings.policy.last_steps == 0 and settings.predictor.name == "increment"
    assert (settings.compression.cached_chunks if settings.compression else None) == cached
    assert {p.kind for p in request.plan.passes()} == {"denoise"}
    run = request.generation(network(request.profile, None), Encoder())
    assert [note.partition(" left out")[0] for note in run.trace.notes] == ["clean passes", "near-clean passes"]
    run.close()


def test_passes_are_left_out_one_by_one():
    for words, kinds in (((), {"denoise", "commit", "near_clean"}), (("--no-commit",), {"denoise", "near_clean"}),
                         (("--no-near-clean",), {"denoise", "commit"})):
        _, request = asked("--profile", "magi-1", "--chunks", "8", *words)
        assert {p.kind for p in request.plan.passes()} == kinds


@pytest.mark.parametrize(("words", "message"), [
    (("--profile", "skyreels-v2-df", "--schedule", "dense"), "plan dense as the authors' release carries it out"),
    (("--profile", "magi-1", "--plan", "sequential"), "plan sequential as the authors' release carries it out")])
def test_other_plans_are_not_those_of_the_release(words, message):
    with pytest.raises(ValueError, match=message):
        asked("--preset", "paper-fast", *words)


def test_as_many_cached_chunks_as_are_in_flight_are_refused():
    _, request = asked("--profile", "magi-1", "--preset", "paper-fast", "--chunks", "12", "--window", "8", "--size",
                       "32x32")
    with pytest.raises(ValueError, match="compression of 6 cached chunks with 8 in flight: expected at least one more"):
        request.generation(network(request.profile, None), Encoder())


@pytest.mark.parametrize("name", profile_names())
def test_our_own_presets_carry_no_published_figure_and_no_fault(name):
    for preset in ("off", "quality", "balanced", "fast"):
        made = load_preset(name, preset)
        assert not made.released and not getattr(made.policy, "conformance", False)
        told = json.dumps(made.provenance)
        assert told.count("published") == told.count("not published") + told.count("not a published")
