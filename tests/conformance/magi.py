"""The released MAGI-1 samplers, rebuilt from our parts in conformance mode."""

from typing import Any

from torch import Tensor

from flowcache_core.backbones.magi import MagiConfig, MagiDistill, MagiTransformer
from flowcache_core.conformance import released_magi_plan
from flowcache_core.generation import COND, Generation, RunSettings
from flowcache_core.kv.scorers.flowcache import FlowCacheScore
from flowcache_core.plan import pipelined
from flowcache_core.reuse.policies.flowcache import FlowCache
from flowcache_core.reuse.policies.off import Off
from flowcache_core.reuse.predictors import Increment
from flowcache_core.run_texts import CONTEXT
from flowcache_core.solvers import Euler
from flowcache_core.solvers.magi_times import SHORTCUT_STEPS, magi_table, magi_times
from tests.conformance.golden import tensors_of
from tests.conformance.rounding import Recorded
from tests.conformance.skyreels import Given


def network(case: dict[str, Any]) -> MagiTransformer:
    sizes, config = case["model"], case["config"]
    shape = MagiConfig(sizes["num_layers"], sizes["hidden_size"], sizes["ffn_hidden_size"],
                       sizes["num_attention_heads"], sizes["num_query_groups"], sizes["kv_channels"],
                       caption_channels=sizes["caption_channels"], caption_max_length=sizes["caption_max_length"],
                       chunk_width=config["chunk_width"], gated=sizes["gated_linear_unit"],
                       half_channel=sizes["half_channel_vae"], eps=sizes["layernorm_epsilon"],
                       cond_hidden_ratio=sizes["cond_hidden_ratio"])
    distill = MagiDistill(config["num_steps"], config["shortcut_mode"]) if config["distill"] else None
    model = MagiTransformer(shape, distill)
    model.load_state_dict(tensors_of(case, case["weights"]), strict=True)
    return model.eval().requires_grad_(False)


def chosen(case: dict[str, Any], tensors: dict[str, Tensor]) -> list[tuple[dict[str, Any], Tensor]]:
    """The compression events and what they kept, in the order in which they were made."""
    return [(e, tensors[f"out.step{e['step']:03d}.layer{e['layer']}.kept"]) for e in case["compression_events"]]


def compression(case: dict[str, Any], tensors: dict[str, Tensor]) -> Recorded | None:
    flowcache = case["config"]["flowcache"]
    if flowcache is None or not flowcache["compress_kv_cache"]:
        return None
    scorer = FlowCacheScore(flowcache["mix_lambda"], 7, flowcache["query_granularity"],
                            flowcache["score_weighting_method"], float(flowcache["power"]))
    return Recorded(scorer, flowcache["compress_strategy"], released_order=True,
                    cached_chunks=flowcache["total_cache_chunk_nums"],
                    given=[kept for _, kept in chosen(case, tensors)])


def magi_run(case: dict[str, Any], tensors: dict[str, Tensor]) -> Generation:
    config, flowcache, model = case["config"], case["config"]["flowcache"], network(case)
    steps, chunks, width = config["num_steps"], config["num_chunks"], config["chunk_width"]
    shortcut = config["shortcut_mode"] if steps == SHORTCUT_STEPS else None
    table = magi_table(steps, shortcut=shortcut)
    late = next(n for n, t in enumerate(magi_times(steps, shortcut=shortcut)) if t > config["nearly_clean_threshold"])
    near_clean = flowcache is None or not flowcache["discard_nearly_clean_chunk"]
    plan = pipelined(chunks * width, width, steps, config["window"], commit=flowcache is None,
                     near_clean_from=late if near_clean else None, ranges=config["noise2clean_kvrange"])
    policy = Off() if flowcache is None else FlowCache(
        str(flowcache["threshold"]), "patch_embedding", flowcache["warmup_steps"], 0, conformance=True)
    settings = RunSettings(table, config["latent_h"], config["latent_w"], solver=Euler(), policy=policy,
                           predictor=Increment(), noise_rule=Given(tensors["in.noise"]),
                           compression=compression(case, tensors), context_timestep=1000 * config["clean_t"])
    words, mask = tensors["in.y"], tensors["in.mask"].bool()
    texts = {COND: [model.embed_text(words[0, c][mask[0, c]][None]) for c in range(chunks)],
             CONTEXT: [model.embed_text(words[1, 0][mask[1, 1]][None])] * chunks}
    return Generation(model, released_magi_plan(plan), settings, texts)
