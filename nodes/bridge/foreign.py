"""What else a user may have put on the model or into the conditioning, and does not go together with this pack."""

from typing import Any

from .guidance import Conds

STEP_CACHES = {"easycache": "EasyCache or LazyCache", "rel_l1_thresh": "TeaCache", "teacache_model": "TeaCache",
               "magcache_thresh": "MagCache", "magcache_model": "MagCache"}
"""Keys that other step caches leave in `transformer_options`."""

WHOLE_VIDEO = {"c_concat": "image channels", "time_dim_concat": "added frames", "reference_latent": "a reference image",
               "context_latents": "reference latents", "vace_context": "VACE frames", "control": "a ControlNet",
               "gligen": "GLIGEN boxes", "area": "an area", "mask": "a mask"}
"""Parts of a conditioning that belong to the whole video, or to a part of the picture."""


def refuse_step_caches(options: dict[str, Any]) -> None:
    """Raises ValueError where another cache skips steps on the same model."""
    found = [name for key, name in STEP_CACHES.items() if key in options.get("transformer_options", {})]
    if found:
        raise ValueError(f"{found[0]} and FlowCache are both on this model, and would skip each other's steps: remove "
                         f"{found[0]}, or FlowCache's policy")


def refuse_context_windows(options: dict[str, Any]) -> None:
    """Raises ValueError where the host cuts the video into windows of its own."""
    if options.get("context_handler") is not None:
        raise ValueError("context windows and FlowCache are both on this model, and cut the same video into parts: "
                         "remove the context windows node; for a long video use the Chunked AR Sampler")


def refuse_conditioning(conds: Conds) -> None:
    """Raises ValueError for a conditioning that cannot be cut into chunks."""
    for kind, group in conds.items():
        for cond in group or []:
            parts = {**{key: cond.get(key) for key in WHOLE_VIDEO}, **cond.get("model_conds", {})}
            found = [name for key, name in WHOLE_VIDEO.items() if parts.get(key) is not None]
            if found:
                raise ValueError(f"{kind} conditioning with {found[0]}: chunks are sampled from text alone; remove the "
                                 "node that adds it, or use an ordinary sampler")
            if "timestep_start" in cond or "timestep_end" in cond:
                raise ValueError(f"{kind} conditioning for a part of the steps: every chunk takes all steps with one "
                                 "conditioning; remove Set Timestep Range, or use prompts per chunk")


def refuse_multi_gpu(options: dict[str, Any]) -> None:
    """Raises ValueError where the host spreads a step over several devices."""
    if "multigpu_clones" in options:
        raise ValueError("multi-GPU work units and FlowCache are both on this model: keys and skipped steps live on "
                         "one device; remove the multi-GPU node")
