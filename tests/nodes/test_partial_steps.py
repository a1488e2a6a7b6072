"""Steps in part on the host's network: tokens, blocks, a derived stream, as on the core's with the same weights."""

from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch

from tests.nodes import tiny
from tests.nodes.test_bridge_runs import CHUNKED, chunked, listener, run
from tests.nodes.test_bridge_truths import profiled

SOME = tuple(range(0, 72, 2))   # of 3 frames of 4 x 6 tokens
COND, UNCOND = "cond#0", "uncond#0"


def scripted(pack):
    """Computes some tokens at step 1; at step 2 derives uncond, and leaves out cond's first block."""
    contract = tiny.core(pack, "reuse.contract")
    kind, decision = contract.Kind, contract.Decision

    @dataclass(frozen=True)
    class Given(contract.ReusePolicy):
        name: ClassVar[str] = "given"
        derives: ClassVar[bool] = True
        table: dict = field(default_factory=dict)

        def block_ranges(self, layers):
            return ((0, 1),)

        def decide(self, state, info, signal):
            return self.table.get((info.step, info.stream), decision(kind.COMPUTE, "given"))

    some = decision(kind.PARTIAL, "given", tokens=SOME)
    return Given({(1, COND): some, (1, UNCOND): some, (2, COND): decision(kind.PARTIAL, "given", blocks=(0, 1)),
                  (2, UNCOND): decision(kind.DERIVE, "given", source_stream=COND, factors=(1.1, 0.9))})


@pytest.mark.parametrize("predictor", ["velocity", "residual", "taylor"])
@pytest.mark.parametrize("split", [False, True], ids=["in one call", "in one each"])
def test_host_computes_in_part_as_the_core_does(pack, predictor, split, monkeypatch):
    core, model, made = tiny.core(pack, "generation"), tiny.load(), {}
    if split:   # the host forwards what its memory allows
        monkeypatch.setattr(type(model.model), "memory_required",
                            lambda self, shape, **kwargs: 1e15 * shape[0] * shape[2])
    wan = tiny.core(pack, "backbones.wan")
    network = wan.WanTransformer(wan.WanConfig(tiny.DIM, tiny.LAYERS, tiny.FFN, tiny.DIM // 128))
    network.load_state_dict(tiny.weights())
    network = network.eval().requires_grad_(False)
    settings = {"policy": scripted(pack), "predictor": tiny.core(pack, "reuse").PREDICTORS.make(predictor)}
    found = run(pack, model, 3.0, listener=listener(pack, end=lambda self, trace: made.update(host=trace)), **settings)
    levels = tiny.bridge(pack, "run").handed_levels(tiny.sigmas(), model.model.model_sampling)
    plan = tiny.core(pack, "plan").sequential(tiny.SHAPE[2], 3, levels.steps)
    text = {s: [network.embed_text(tiny.text(n)[0][0])] * 2 for n, s in ((1, COND), (2, UNCOND))}
    asked = core.RunSettings(levels, *tiny.SHAPE[-2:], seed=7, guidance=3.0, **settings,
                             solver=tiny.core(pack, "solvers").Euler())
    expected = core.Generation(network, plan, asked, text)
    torch.testing.assert_close(model.model.process_latent_in(found), expected.run(), rtol=0, atol=2e-4)
    counts = made["host"].counts()
    assert counts == expected.trace.counts() and counts["partial"] == 6 and counts["derive"] == 2


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_host_makes_up_for_what_skipped_steps_missed_as_the_core_does(pack, guidance):
    core, model = tiny.core(pack, "generation"), tiny.load()
    wan, reuse = tiny.core(pack, "backbones.wan"), tiny.core(pack, "reuse")
    network = wan.WanTransformer(wan.WanConfig(tiny.DIM, tiny.LAYERS, tiny.FFN, tiny.DIM // 128))
    network.load_state_dict(tiny.weights())
    sigmas = torch.linspace(1, 0, 10)
    levels = tiny.bridge(pack, "run").handed_levels(sigmas, model.model.model_sampling)
    plan = tiny.core(pack, "plan").sequential(tiny.SHAPE[2], 3, levels.steps)
    text = {s: [network.embed_text(tiny.text(n)[0][0])] * 2 for n, s in ((1, COND), (2, UNCOND))}
    if guidance == 1:
        text.pop(UNCOND)

    def both(predictor):
        settings = {"policy": reuse.POLICIES.make("every_nth", {"interval": 3}),
                    "predictor": reuse.PREDICTORS.make(predictor)}
        found = tiny.sample(profiled(pack, model, **settings), chunked(pack, None, **CHUNKED), sigmas, guidance)
        asked = core.RunSettings(levels, *tiny.SHAPE[-2:], seed=7, guidance=guidance, **settings,
                                 solver=tiny.core(pack, "solvers").Euler())
        return model.model.process_latent_in(found), core.Generation(network.eval(), plan, asked, text).run()

    found, expected = both("taylor_corrected")
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)
    assert (expected - both("taylor")[1]).abs().max() > 1e-3


@pytest.mark.parametrize("how", ["whole video", "chunks"])
def test_a_calibration_of_another_network_is_refused(pack, how, tmp_path):
    core, model = tiny.core(pack, "reuse.magnitudes"), tiny.load()
    levels = tuple(float(level) for level in tiny.sigmas())
    path = tmp_path / "sizes.json"
    core.Magnitudes(levels[:-1], {COND: (1.0,) * 4}, "velocity", (1.0, 2.0)).save(path, {})
    policy = tiny.core(pack, "reuse").POLICIES.make("magcache", {"calibration": str(path)})
    ways = {"chunks": lambda: run(pack, model, policy=policy), "whole video": lambda: tiny.sample(
        profiled(pack, model, policy=policy), tiny.ksampler(), tiny.sigmas())}
    with pytest.raises(ValueError, match="is of another network: calibrate again"):
        ways[how]()
