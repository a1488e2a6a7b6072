"""The start of a sampling run on a model that carries a template: who samples decides what is put in place."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from comfy.model_patcher import create_model_options_clone
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...flowcache_core.reuse.policies.off import Off
from .chunked import ChunkedSampler
from .foreign import refuse_context_windows, refuse_multi_gpu, refuse_step_caches
from .model_hooks import KEY
from .template import Template, template_of
from .whole import WholeVideo

logger = logging.getLogger(__name__)
AR_SAMPLER = "sample_ar_video"   # the host's own, which calls neither wrappers nor patches of the network


def attach(model: Any, **changes: Any) -> Any:
    """A clone of the model whose template has these changes; the model itself stays as it is."""
    clone = model.clone()
    template = replace(template_of(clone.model_options), **changes)
    clone.model_options.setdefault("transformer_options", {})[KEY] = template
    if not clone.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY):
        clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, outer_sample)
    return clone


def outer_sample(executor: Callable, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *args: Any,
                 **kwargs: Any) -> Tensor:
    """An `OUTER_SAMPLE` wrapper: the run gets model options of its own, and what it holds is freed however it ends."""
    guider = executor.class_obj
    saved, template = guider.model_options, template_of(guider.model_options)
    guider.model_options = options = create_model_options_clone(saved)
    run = None
    try:
        if isinstance(sampler, ChunkedSampler):
            sampler.prepare(guider, options, noise, sigmas)
        elif not isinstance(template.policy, Off):
            run = _whole_video(guider, options, template, sampler, noise, sigmas)
        else:
            _note_idle(template)
        out = executor(noise, latent, sampler, sigmas, *args, **kwargs)
        if run is not None:
            run.report()
        return out
    finally:
        if run is not None:
            run.close()
        guider.model_options = saved


def _whole_video(guider: Any, options: dict[str, Any], template: Template, sampler: Any, noise: Tensor,
                 sigmas: Tensor) -> WholeVideo:
    if getattr(getattr(sampler, "sampler_function", None), "__name__", "") == AR_SAMPLER:
        raise ValueError(f"policy {template.policy.name} with the sampler ar_video, which calls no hooks, so nothing "
                         "would be skipped: use the Chunked AR Sampler, or remove the policy")
    refuse_step_caches(options)
    refuse_context_windows(options)
    refuse_multi_gpu(options)
    _note_idle(template)
    return WholeVideo(guider, options, template, sigmas, noise.shape)


def _note_idle(template: Template) -> None:
    if template.budget.amount is not None:
        logger.warning("FlowCache: the KV budget does nothing here, since this sampler denoises the whole video as one "
                       "chunk and caches no keys; use the Chunked AR Sampler")
    if template.sparse is not None:
        logger.warning("FlowCache: sparse attention does nothing here, since this sampler denoises the whole video as "
                       "one chunk without a past; use the Chunked AR Sampler")
