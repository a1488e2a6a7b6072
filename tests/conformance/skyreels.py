"""The released SkyReels-V2 sampler, rebuilt from our parts in conformance mode."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from flowcache_core.backbones.hooks import BlockInput, Hooks
from flowcache_core.backbones.wan import WanConfig, WanTransformer
from flowcache_core.conformance import ReleasedUniPC, released_plan
from flowcache_core.generation import Generation, RunSettings
from flowcache_core.kv.scorers.flowcache import FlowCacheScore
from flowcache_core.plan import diffusion_forcing
from flowcache_core.reuse.policies.flowcache import FlowCache
from flowcache_core.reuse.policies.off import Off
from flowcache_core.reuse.polynomials import NO_TABLE, TABLES
from flowcache_core.reuse.predictors import Residual
from flowcache_core.solvers import NoiseRule, flow_table
from tests.conformance.golden import tensors_of
from tests.conformance.rounding import Recorded

IDENTITY = [0, 0, 0, 1, 0]   # ours without a table


@dataclass(frozen=True)
class Given(NoiseRule):
    """The noise of the vectors."""

    name = "given"
    noise: Tensor | None = None

    def initial(self, seed, shape, chunks):
        return self.noise.expand(shape).clone()

    def fresh(self, seed, shape, chunk, step):
        raise AssertionError("UniPC draws no noise")


class RoundedBlocks(WanTransformer):
    """The released network in bf16's shadow: hidden states are rounded to bfloat16 after every block, and a layer norm
    of such a state is rounded too."""

    def __init__(self, config: WanConfig, fps: float) -> None:
        super().__init__(config, fps)
        for block in self.blocks:
            block.forward = self._rounded(block, block.forward)

    @staticmethod
    def _rounded(block, forward):
        def run(x: BlockInput, hooks: Hooks) -> Tensor:
            return forward(x, hooks).bfloat16().float()
        return run


def network(case: dict[str, Any]) -> WanTransformer:
    sizes, config = case["model"], case["config"]
    kind = RoundedBlocks if config["residual_dtype"] == "bfloat16" else WanTransformer
    model = kind(WanConfig(sizes["dim"], sizes["num_layers"], sizes["ffn_dim"], sizes["num_heads"], sizes["freq_dim"],
                           sizes["text_dim"], fps=True), fps=config["fps"])
    model.load_state_dict(tensors_of(case, case["weights"]), strict=True)
    return model.eval().requires_grad_(False)


def calibration(case: dict[str, Any]) -> str:
    """Our name of a case's polynomial: that of its coefficients, which are what counts."""
    names = [name for name, table in TABLES.items() if list(table.coefficients) == case["coefficients"]]
    if case["coefficients"] in (IDENTITY, None):
        return NO_TABLE
    if not names:
        raise ValueError(f"coefficients {case['coefficients']} of a case: none of our tables has them")
    return names[0]


def policy(config: dict[str, Any]):
    if not config["reuse"]:
        return Off()
    return FlowCache(str(config["threshold"]), "time_modulation", config["forced_first_steps"],
                     config["num_steps"] - config["cutoff"], calibration=calibration(config), conformance=True)


def window_run(case: dict[str, Any], tensors: dict[str, Tensor], window: int) -> Generation:
    """The run of one of the case's two windows; window 1 has a prefix chunk."""
    config, model = case["config"], network(case)
    block, chunks, added = config["block"], config["num_chunks"], 0.001 * config["addnoise"]
    plan = diffusion_forcing(block * chunks, block, config["num_steps"], config["ar_step"], prefix_chunks=window)
    every_row = bool(window) and not (config["reuse"] and config["ar_step"])
    plan = released_plan(plan, config["kvrange"] if config["use_kvrange"] else None,
                         config["use_compress"], every_row)
    prefix = (tensors["in.prefix"] * (1 - added) + tensors["in.prefix_noise"] * added)[None] if window else None
    compression = Recorded(FlowCacheScore(), released_order=True, finished_chunks=config["budget_block"],
                           given=[kept for _, kept in chosen(case, tensors, window)])
    settings = RunSettings(flow_table(config["num_steps"], config["shift"]), config["latent_h"], config["latent_w"],
                           guidance=config["guidance_scale"], solver=ReleasedUniPC(), policy=policy(config),
                           predictor=Residual(), noise_rule=Given(tensors[f"in.noise{window}"]),
                           compression=compression if config["use_compress"] else None,
                           context_timestep=config["addnoise"])
    texts = {f"{role}#0": [model.embed_text(tensors[f"in.{role}"])] * chunks for role in ("cond", "uncond")}
    return Generation(model, plan, settings, texts, prefix)


def chosen(case: dict[str, Any], tensors: dict[str, Tensor], window: int) -> list[tuple[dict[str, Any], Tensor]]:
    """The compression events of a window and what they kept, in the order in which our run makes them: streams go
    together, layer by layer."""
    events = [e for e in case["compression_events"] if e["window"] == window]
    events.sort(key=lambda e: (e["call"] // 2, e["group"], e["layer"], e["branch"] != "cond"))
    return [(e, tensors[f"out.w{window}.call{e['call']:03d}.group{e['group']}.layer{e['layer']}.kept"])
            for e in events]
