"""Runs beside and after one another, ended early, with somebody else's patches, and on models that others changed."""

import gc
import weakref
from types import ModuleType

import pytest
import torch

from tests.nodes import tiny
from tests.nodes.test_bridge_truths import chunked, policy, profiled

CHUNKED = {"noise": "per_chunk", "solver": "euler"}


def run(pack: ModuleType, model, cfg: float = 1.0, shape=tiny.SHAPE, listener=None, **settings):
    sampler = chunked(pack, listener, **CHUNKED)
    return tiny.sample(profiled(pack, model, **settings), sampler, tiny.sigmas(), cfg, shape)


def listener(pack: ModuleType, **methods):
    return type("Spy", (tiny.bridge(pack, "listening").Listener,), methods)()


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("predictor", ["velocity", "residual"])
def test_bridge_equals_the_cores_network(pack, cfg, predictor):
    """Chunks, KV cache, policy and guidance on the host's network and on the core's, with the same weights."""
    core, model, shape = tiny.core(pack, "generation"), tiny.load(), (2, *tiny.SHAPE[1:])
    wan, made = tiny.core(pack, "backbones.wan"), {}
    network = wan.WanTransformer(wan.WanConfig(tiny.DIM, tiny.LAYERS, tiny.FFN, tiny.DIM // 128))
    network.load_state_dict(tiny.weights())
    network = network.eval().requires_grad_(False)
    settings = policy(pack, "some", predictor)
    found = run(pack, model, cfg, shape, listener(pack, end=lambda self, trace: made.update(host=trace)), **settings)
    levels = tiny.bridge(pack, "run").handed_levels(tiny.sigmas(), model.model.model_sampling)
    plan = tiny.core(pack, "plan").sequential(shape[2], 3, levels.steps)
    text = {s: [network.embed_text(tiny.text(n)[0][0])] * 2 for n, s in ((1, "cond#0"), (2, "uncond#0"))}
    asked = core.RunSettings(levels, *shape[-2:], items=2, seed=7, guidance=cfg, **settings,
                             solver=tiny.core(pack, "solvers").Euler())
    expected = core.Generation(network, plan, asked, text)
    torch.testing.assert_close(model.model.process_latent_in(found), expected.run(), rtol=0, atol=2e-4)
    counts = made["host"].counts()
    assert counts == expected.trace.counts() and counts["reuse"] and counts["compute"]


def test_streams_batched_or_one_by_one_decide_alike(pack, monkeypatch):
    model, settings, traces = tiny.load(), policy(pack, "some"), []
    spy = listener(pack, end=lambda self, trace: traces.append(trace))
    batched = run(pack, model, 3.0, listener=spy, **settings)
    monkeypatch.setattr(type(model.model), "memory_required", lambda self, shape, **kwargs: 1e15 * shape[0] * shape[2])
    split = run(pack, model, 3.0, listener=spy, **settings)
    torch.testing.assert_close(split, batched, rtol=0, atol=1e-4)
    lanes = [[(lane.chunk, lane.step, lane.stream, lane.decision) for p in trace.passes for lane in p.lanes]
             for trace in traces]
    assert lanes[0] == lanes[1] and {lane[3] for lane in lanes[0]} == {"compute", "reuse"}


def test_second_run_other_size_and_another_policy_between(pack):
    model, settings = tiny.load(), policy(pack, "some")
    first = run(pack, model, **settings)
    run(pack, model, shape=(2, 16, 7, 4, 8), **settings)
    run(pack, model, **policy(pack, "often", "residual"))
    assert torch.equal(run(pack, model, **settings), first)


def test_two_policies_on_two_clones_do_not_meet(pack):
    model = tiny.load()
    ours = [profiled(pack, model, **policy(pack, name)) for name in ("never", "often")]
    expected = [tiny.sample(m, chunked(pack, **CHUNKED), tiny.sigmas()) for m in ours]
    assert not torch.equal(*expected)
    again = [tiny.sample(m, chunked(pack, **CHUNKED), tiny.sigmas()) for m in reversed(ours)]
    assert torch.equal(again[1], expected[0]) and torch.equal(again[0], expected[1])


def test_model_without_our_nodes_is_as_it_was(pack):
    """Bypass leaves nothing: neither options, nor modules, nor results."""
    model = tiny.load()
    before = tiny.sample(model, tiny.ksampler(), tiny.sigmas())
    options, hooks = repr(model.model_options), [len(m._forward_hooks) for m in model.model.modules()]
    names = [sorted(vars(m)) for m in model.model.diffusion_model.modules()]
    run(pack, model, 3.0, **policy(pack, "often", "residual"))
    tiny.sample(profiled(pack, model, **policy(pack)), tiny.ksampler(), tiny.sigmas())
    assert repr(model.model_options) == options and not model.wrappers
    assert [len(m._forward_hooks) for m in model.model.modules()] == hooks
    assert [sorted(vars(m)) for m in model.model.diffusion_model.modules()] == names
    assert torch.equal(tiny.sample(model, tiny.ksampler(), tiny.sigmas()), before)


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt(), None])
def test_run_that_ends_early_frees_its_cache(pack, error):
    import comfy.model_management

    model, seen = tiny.load(), []
    error = error or comfy.model_management.InterruptProcessingException()

    def chunk(self, number, latent):
        raise error

    def begin(self, made):
        seen.extend([made.generation.cache.store, weakref.ref(made.generation)])

    with pytest.raises(type(error)):
        run(pack, model, 3.0, listener=listener(pack, begin=begin, chunk=chunk), **policy(pack))
    assert seen[0].allocated_bytes == 0
    error.__traceback__ = None
    gc.collect()
    assert seen[1]() is None


def test_interrupt_stops_within_one_call_of_the_network(pack):
    import comfy.model_management

    model, calls = tiny.load(), []

    def count(executor, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            comfy.model_management.interrupt_current_processing(True)
        return executor(*args, **kwargs)

    model.add_wrapper_with_key("diffusion_model", "test", count)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(pack, model)
    assert len(calls) <= 4


@pytest.mark.parametrize("kind", ["chunked", "whole"])
def test_foreign_wrappers_patches_and_overrides_before_and_after_ours_are_called(pack, kind):
    calls = {"wrapper": 0, "block": 0, "attention": 0}

    def wrapper(executor, *args, **kwargs):
        calls["wrapper"] += 1
        return executor(*args, **kwargs)

    def block(args, extra):
        calls["block"] += 1
        return extra["original_block"](args)

    def override(func, *args, **kwargs):
        calls["attention"] += 1
        return func(*args, **kwargs)

    def spy(model):
        clone = model.clone()
        clone.add_wrapper_with_key("diffusion_model", "test", wrapper)
        clone.set_model_patch_replace(block, "dit", "double_block", 1)
        clone.model_options["transformer_options"]["optimized_attention_override"] = override
        return clone

    def sample(model):
        sampler = chunked(pack, **CHUNKED) if kind == "chunked" else tiny.ksampler()
        return tiny.sample(model, sampler, tiny.sigmas(), 1.0)

    model, settings = tiny.load(), policy(pack, "some")
    plain = sample(profiled(pack, model, **settings))
    assert torch.equal(sample(profiled(pack, spy(model), **settings)), plain)
    before, calls = calls, dict.fromkeys(calls, 0)
    assert torch.equal(sample(spy(profiled(pack, model, **settings))), plain)
    assert all(before.values()) and before == calls


def test_lora_before_and_after_is_the_same(pack):
    model = tiny.load()
    weight = "diffusion_model.blocks.0.ffn.0.weight"
    patch = {weight: ("diff", (0.05 * torch.ones(tiny.FFN, tiny.DIM),))}

    def patched(model):
        clone = model.clone()
        assert clone.add_patches(patch, 1.0) == [weight]
        return clone

    settings = policy(pack, "some")
    before = tiny.sample(profiled(pack, patched(model), **settings), chunked(pack, **CHUNKED), tiny.sigmas())
    after = tiny.sample(patched(profiled(pack, model, **settings)), chunked(pack, **CHUNKED), tiny.sigmas())
    assert torch.equal(before, after) and not torch.equal(run(pack, model, **settings), before)


def test_weights_in_8_bits_are_sampled(pack):
    exact, small = tiny.load(), tiny.load(options={"dtype": torch.float8_e4m3fn})
    assert small.model.diffusion_model.blocks[0].ffn[0].weight.dtype == torch.float8_e4m3fn
    found, expected = run(pack, small, 3.0), run(pack, exact, 3.0)
    assert (found - expected).norm() / expected.norm() < 0.3


def test_weights_that_are_paged_in_layer_by_layer_give_the_same(pack, monkeypatch):
    """As with --novram and --lowvram: every weight stays outside and is fetched, with its patches, at each use."""
    import comfy.model_management as host

    settings = policy(pack, "some")
    patch = {"diffusion_model.blocks.1.ffn.0.weight": ("diff", (0.05 * torch.ones(tiny.FFN, tiny.DIM),))}

    def made():
        clone = tiny.load().clone()
        clone.add_patches(patch, 1.0)
        return clone

    expected = run(pack, made(), 3.0, **settings)
    monkeypatch.setattr(host, "is_device_cpu", lambda device: False)
    monkeypatch.setattr(host, "vram_state", host.VRAMState.NO_VRAM)
    model = made()
    seen = []

    def begin(self, made):
        seen.append(model.model.diffusion_model.blocks[0].ffn[0].comfy_cast_weights)

    found = run(pack, model, 3.0, listener=listener(pack, begin=begin), **settings)
    assert seen == [True]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sampler", ["heun", "dpm_2", "dpmpp_2m"])
def test_samplers_of_several_calls_a_step_skip_by_noise_level(pack, sampler, caplog):
    import logging

    model = tiny.load()
    plain = tiny.sample(model, tiny.ksampler(sampler), tiny.sigmas(6), 2.0)
    with caplog.at_level(logging.INFO):
        ours = [tiny.sample(profiled(pack, model, **policy(pack, "some")), tiny.ksampler(sampler), tiny.sigmas(6), 2.0)
                for _ in range(2)]
    assert torch.equal(*ours) and not torch.equal(ours[0], plain) and torch.isfinite(ours[0]).all()
    assert "whole video as one chunk, computed" in caplog.text


def test_policy_on_the_hosts_ar_sampler_is_refused(pack, version):
    if version < (0, 21):
        pytest.skip("this host has no AR sampler of its own")
    import comfy.samplers

    sampler = comfy.samplers.ksampler("ar_video", {"num_frame_per_block": 3})
    with pytest.raises(ValueError, match="ar_video, which calls no hooks"):
        tiny.sample(profiled(pack, tiny.load(), **policy(pack)), sampler, tiny.sigmas())


def test_video_beyond_the_models_window_is_told_of_the_schedule_that_moves_it(pack):
    model, shape = profiled(pack, tiny.load(), "skyreels-v2-df"), (1, 16, 30, 4, 4)
    with pytest.raises(ValueError, match="30 latent frames .* sees 25 at a time: set schedule to rolling"):
        tiny.sample(model, chunked(pack, **CHUNKED), tiny.sigmas(), shape=shape)
    assert tiny.sample(model, chunked(pack, **CHUNKED, plan="rolling"), tiny.sigmas(6), shape=shape).shape == shape


def test_context_windows_are_refused(pack):
    clone = profiled(pack, tiny.load(), **policy(pack))
    clone.model_options["context_handler"] = object()
    for sampler in (chunked(pack, **CHUNKED), tiny.ksampler()):
        with pytest.raises(ValueError, match="context windows and FlowCache"):
            tiny.sample(clone, sampler, tiny.sigmas())


def test_guidance_of_the_users_nodes_counts(pack):
    """A guidance that calls the model once more for a stream gets an answer that leaves the cache alone."""
    import comfy.samplers

    model, extra = tiny.load(), []

    def post(args):
        again, = comfy.samplers.calc_cond_batch(args["model"], [args["cond"]], args["input"], args["sigma"],
                                                args["model_options"])
        extra.append((again - args["cond_denoised"]).abs().max())
        return args["denoised"] + 0.0 * again

    plain = run(pack, model, 3.0)
    clone = model.clone()
    clone.set_model_sampler_post_cfg_function(post)
    assert torch.equal(run(pack, clone, 3.0), plain)
    assert extra and max(extra) < 1e-4
    double = model.clone()
    double.set_model_sampler_cfg_function(lambda args: args["uncond"] + 2 * args["cond_scale"] * (args["cond"] -
                                                                                                  args["uncond"]))
    torch.testing.assert_close(run(pack, double, 1.5), run(pack, model, 3.0), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("chunks", "tokens"), [(None, 10 * 3 * 24), (2, 2 * 3 * 24)])
def test_memory_estimate_counts_one_pass_and_the_cache(pack, monkeypatch, chunks, tokens):
    import comfy.sampler_helpers

    model, seen, real = tiny.load(), [], comfy.sampler_helpers._prepare_sampling

    def prepare(model, shape, *args, **kwargs):
        seen.append(list(shape))
        return real(model, shape, *args, **kwargs)

    monkeypatch.setattr(comfy.sampler_helpers, "_prepare_sampling", prepare)
    monkeypatch.setattr(type(model.model), "memory_required", lambda self, shape, **kwargs: 500 * shape[0] * shape[2])
    budget = tiny.core(pack, "kv").KVBudget(chunks, "chunks")
    shape, cache = (1, 16, 30, 8, 12), tokens * 2 * tiny.LAYERS * tiny.DIM * 4
    tiny.sample(profiled(pack, model, budget=budget), chunked(pack, **CHUNKED), tiny.sigmas(1), 1.0, shape)
    assert seen == [[1, 16, 3 + -(-cache // 1000), 8, 12]]


def test_blocks_compiled_one_by_one_give_the_same_and_are_compiled_once(pack):
    import torch._dynamo

    model, settings = tiny.load(), policy(pack, "some")
    plain = run(pack, model, **settings)
    counts = []

    def backend(graph, inputs):
        counts.append(1)
        return graph.forward

    clone = model.clone()
    for n, block in enumerate(model.model.diffusion_model.blocks):
        clone.add_object_patch(f"diffusion_model.blocks.{n}", torch.compile(block, backend=backend))
    torch._dynamo.reset()
    first = run(pack, clone, **settings)
    made = len(counts)
    torch.testing.assert_close(first, plain, rtol=0, atol=1e-5)
    torch.testing.assert_close(run(pack, clone, **settings), plain, rtol=0, atol=1e-5)
    assert made and len(counts) == made
