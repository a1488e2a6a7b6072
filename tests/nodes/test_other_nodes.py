"""The host's own nodes on the same model: guidance variants, compilation, two samplers, two stages."""

import pytest
import torch

from tests.nodes import tiny
from tests.nodes.test_bridge_truths import chunked, policy, profiled
from tests.nodes.test_nodes import FIRST, POLICY, behind, graph, node, saved

NEVER = {**POLICY, "threshold": "0"}
VARIANTS = {"CFGZeroStar": {}, "CFGNorm": {"strength": 1.0, "pre_cfg": False}, "TCFG": {},
            "APG": {"eta": 0.5, "norm_threshold": 5.0, "momentum": 0.0}}


@pytest.fixture
def demo(version):
    if version < FIRST:
        pytest.skip("this host does not load the demo's VAE, and says so")


@pytest.mark.parametrize("kind", VARIANTS)
def test_guidance_variants_count_and_a_policy_that_never_skips_leaves_their_bits(demo, queue, base, kind):
    import nodes

    known = nodes.NODE_CLASS_MAPPINGS[kind].INPUT_TYPES()["required"]
    variant = node(kind, **{name: value for name, value in VARIANTS[kind].items() if name in known})
    asked = {"steps": 4, "length": 21, "cfg": 4.0}
    plain = saved(queue, base, graph(**asked))
    ours = saved(queue, base, behind(graph(**asked), variant=variant))
    never = saved(queue, base, behind(graph(**asked), policy=node("FlowCache_Policy", **NEVER), variant=variant))
    some = saved(queue, base, behind(graph(**asked), variant=variant, policy=node("FlowCache_Policy", **POLICY)))
    assert not torch.equal(ours, plain) and torch.equal(never, ours)
    assert torch.isfinite(some).all() and not torch.equal(some, ours)


def test_two_samplers_in_one_graph_make_what_each_makes_alone(demo, queue, base):
    both = behind(graph(), policy=node("FlowCache_Policy", **POLICY))
    both["plain"] = {**both["make"], "inputs": {**both["make"]["inputs"], "model": ["load", 0]}}
    both["keep too"] = node("SaveLatent", samples=["plain", 0], filename_prefix="plain")
    ours = saved(queue, base, both)
    both["keep"]["inputs"]["samples"] = ["plain", 0]
    plain = saved(queue, base, both)
    alone = type(queue)()
    assert torch.equal(plain, saved(alone, base, graph()))
    assert torch.equal(ours, saved(type(queue)(), base, behind(graph(), policy=node("FlowCache_Policy", **POLICY))))


def test_two_stages_of_one_schedule_keep_their_bits(demo, queue, base):
    """As with a model for high and one for low noise: each stage is a run of its own."""
    def staged(one, two):
        size = node("EmptyHunyuanLatentVideo", width=96, height=96, length=9, batch_size=1)
        prompt = graph() | {"size": size, **{name: made for name, made in (("a", one), ("b", two)) if made}}
        common = {"positive": ["yes", 0], "negative": ["no", 0], "noise_seed": 1, "steps": 6, "cfg": 2.0,
                  "sampler_name": "euler", "scheduler": "simple"}
        prompt["high"] = node("KSamplerAdvanced", model=["a" if one else "load", 0], latent_image=["size", 0],
                              add_noise="enable", start_at_step=0, end_at_step=3, return_with_leftover_noise="enable",
                              **common)
        prompt["make"] = node("KSamplerAdvanced", model=["b" if two else "load", 0], latent_image=["high", 0],
                              add_noise="disable", start_at_step=3, end_at_step=10000,
                              return_with_leftover_noise="disable", **common)
        return saved(queue, base, prompt)

    def attached(settings):
        return node("FlowCache_Policy", model=["load", 0], **settings)

    plain = staged(None, None)
    assert torch.equal(staged(attached(NEVER), attached(NEVER)), plain)
    one, two = staged(attached(POLICY), None), staged(None, attached(POLICY))
    assert not torch.equal(one, plain) and not torch.equal(two, plain) and not torch.equal(one, two)


def test_a_model_compiled_as_a_whole_gives_the_same(pack):
    """The host's Torch Compile Model: the graph breaks at our hooks, and that is all."""
    import torch._dynamo
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model, settings = tiny.load(), policy(pack, "some")

    def run(model):
        return tiny.sample(profiled(pack, model, **settings), chunked(pack, noise="per_chunk", solver="euler"),
                           tiny.sigmas(3))

    plain, compiled = run(model), model.clone()
    torch._dynamo.reset()
    set_torch_compile_wrapper(model=compiled, backend="eager")
    torch.testing.assert_close(run(compiled), plain, rtol=0, atol=1e-5)
    assert type(model.model.diffusion_model).__name__ == "WanModel"
