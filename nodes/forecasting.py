"""What the Plan Preview node does with its inputs: everything a run would check and count, and no sampling."""

import time
from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.samplers
import torch

from ..flowcache_core.flops import wan_architecture
from ..flowcache_core.forecast import Forecast, forecast
from ..flowcache_core.kv import KVShape
from .bridge.chunked import check
from .bridge.memory import kv_bytes
from .bridge.network import inference_dtype, network_of, sizes_of, time_modulation
from .bridge.outer import attach
from .bridge.run import asked as plan_and_settings
from .bridge.run import levels, profile_of
from .bridge.template import template_of
from .sampling import Asked, empty_latent, request_of

TEXT_TOKENS = 512   # of Wan's text encoder; the demo's conditionings have fewer


def foretold(model: Any, positive: list, negative: list, asked: Asked, timed: bool) -> Forecast:
    """Raises ValueError where a run with these inputs would."""
    model = attach(model)
    profile = profile_of(template_of(model.model_options))
    latent = empty_latent(profile, asked) if asked.latent is None else asked.latent["samples"]
    request = request_of(profile, asked, latent.shape[2])
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(asked.cfg or profile.guidance)
    guider.conds = guider.original_conds
    check(guider, model.model_options, latent)
    sigmas = asked.sigmas if asked.sigmas is not None else torch.tensor(levels(profile, request).sigmas)
    plan, settings = plan_and_settings(guider, model.model_options, request, sigmas, latent, asked.seed)
    network, device = network_of(model.model), model.load_device
    sizes, text = sizes_of(network), positive[0][0].shape[1]
    design = wan_architecture(network.dim, network.ffn_dim, network.num_layers, text)
    tokens = sizes.tokens_per_frame(*latent.shape[-2:])
    frames, dtype = plan.chunks[0].frames, inference_dtype(model.model)
    rate = None
    comfy.model_management.load_models_gpu([model])
    if timed:
        rate = forward_seconds(model, (frames, *latent.shape[-2:]), text) / design.forward(frames * tokens,
                                                                                            frames * tokens)
    shape = KVShape(sizes.layers, len(settings.streams), settings.items, sizes.heads, sizes.head_dim,
                    (settings.kv_dtype or dtype).itemsize)
    cache = kv_bytes(model.model, plan, replace(settings, kv_device="gpu"))
    with torch.inference_mode():
        return forecast(plan, settings, lambda t: time_modulation(network, t.to(device), dtype), design, tokens, shape,
                        cache, rate)


def forward_seconds(model: Any, size: tuple[int, int, int], text: int) -> float:
    """Measured seconds of one forward of a chunk of this latent size; the first of two forwards is not counted."""
    network, device, dtype = network_of(model.model), model.load_device, inference_dtype(model.model)
    x = torch.zeros(1, network.in_dim, *size, device=device, dtype=dtype)
    context = torch.zeros(1, text, network.text_dim, device=device, dtype=dtype)
    seconds = 0.0
    with torch.inference_mode():
        for _ in range(2):
            begin = time.perf_counter()
            float(network(x, torch.full((1,), 500.0, device=device), context, transformer_options={}).flatten()[0])
            seconds = time.perf_counter() - begin   # reading a number has waited for the device
    return seconds
