"""The released SkyReels-V2 sampler on its toy network, step for step, in all cases in which every key is kept. What to
reuse is taken from the vectors; everything that follows from it (residual, stale keys, solver, latents) is ours."""

import json
from dataclasses import dataclass, replace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from flowcache_core.backbones.wan import WanConfig, WanTransformer
from flowcache_core.generation import Generation, RunSettings
from flowcache_core.plan import diffusion_forcing
from flowcache_core.reuse import Kind
from flowcache_core.reuse.policies.replay import Replay
from flowcache_core.reuse.predictors import Residual
from flowcache_core.solvers import NoiseRule, UniPC, flow_table
from tests.reference import golden


@dataclass(frozen=True)
class Given(NoiseRule):
    """The noise of the vectors."""

    name = "given"
    noise: Tensor | None = None

    def initial(self, seed, shape, chunks):
        return self.noise.expand(shape).clone()

    def fresh(self, seed, shape, chunk, step):
        raise AssertionError("UniPC draws no noise")


class SharedStart(UniPC):
    """The release writes each new sample into the tensor it took the old one from, and its solver still holds that
    tensor after the first step: the first correction sets out from the sample it should correct. This moves a video by
    one first step (5e-2 here), and is in the end-to-end vectors though not in those of the solver alone."""

    def step(self, state, x, velocity, index, table, noise=None):
        following, state = super().step(state, x, velocity, index, table, noise)
        return following, replace(state, start=following) if index == 0 else state


def toy_network(case) -> WanTransformer:
    sizes, config = case["model"], case["config"]
    model = WanTransformer(WanConfig(sizes["dim"], sizes["num_layers"], sizes["ffn_dim"], sizes["num_heads"],
                                     sizes["freq_dim"], sizes["text_dim"], fps=True), fps=config["fps"])
    model.load_state_dict(load_file(golden("sky_toy_weights.safetensors")), strict=True)
    return model.eval().requires_grad_(False)


def decisions(case, window):
    kinds = {0: Kind.REUSE, 1: Kind.COMPUTE}
    return {(chunk, step, call["branch"] + "#0", 0): kinds[computed] for call in case["windows"][window]["calls"]
            for chunk, step, computed in zip(call["chunks"], call["local_step"], call["computed"], strict=True)}


# 1.3e-5 is the tolerance of the vectors, for values up to about 10.
@pytest.mark.parametrize("name", ["noreuse_2x5", "dense_5x5", "thr015_2x5", "thr010_5x5", "sync_thr010_2x5",
                                  "noret_thr020_2x5", "table14b_thr030_2x5"])
@pytest.mark.parametrize("window", [0, 1])
def test_final_latents(name, window):
    path = golden(f"sky_e2e_{name}.json")
    case, tensors = json.loads(path.read_text()), load_file(path.with_suffix(".safetensors"))
    config, model = case["config"], toy_network(case)
    block, chunks, added = config["block"], config["num_chunks"], 0.001 * config["addnoise"]
    plan = diffusion_forcing(block * chunks, block, config["num_steps"], config["ar_step"], prefix_chunks=window)
    assert len(plan.rows) == case["windows"][window]["rows"]
    prefix = (tensors["in.prefix"] * (1 - added) + tensors["in.prefix_noise"] * added)[None] if window else None
    settings = RunSettings(flow_table(config["num_steps"], config["shift"]), config["latent_h"], config["latent_w"],
                           guidance=config["guidance_scale"], solver=SharedStart(),
                           policy=Replay(decisions=decisions(case, window)), predictor=Residual(),
                           noise_rule=Given(tensors[f"in.noise{window}"]),
                           context_timestep=config["addnoise"])
    texts = {f"{role}#0": [model.embed_text(tensors[f"in.{role}"])] * chunks for role in ("cond", "uncond")}
    run, snapshots = Generation(model, plan, settings, texts, prefix), {}
    last_pass = {id(row[-1]): number for number, row in enumerate(plan.rows)}

    def on_progress(progress):
        if id(progress.last) in last_pass:
            snapshots[last_pass[id(progress.last)]] = run.video.latents.clone()

    snapshots["final"] = run.run(on_progress)
    own, checked = slice(window * block, None), 0
    for key, expected in tensors.items():
        if key.startswith(f"out.w{window}.latents_"):
            row = key.rpartition("_")[2].removeprefix("row")
            found = snapshots[row if row == "final" else int(row)][0]
            torch.testing.assert_close(found[:, own], expected[:, own], atol=1.3e-5, rtol=0,
                                       msg=lambda m, k=key: f"{k}: {m}")
            checked += 1
    assert checked >= 3
    skipped = [0] * chunks
    for p in run.trace.passes:
        for lane in p.lanes:
            skipped[lane.chunk] += lane.decision == "reuse" and lane.stream == "cond#0"
    assert skipped == [len(rows) for rows in case["windows"][window]["skip_cond"]]
