"""What the Plan Preview node does with its inputs: everything a run would check and count, and no sampling."""

import time
from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.samplers
import torch

from ..flowcache_core.flops import Architecture, wan_architecture
from ..flowcache_core.forecast import Forecast, forecast
from ..flowcache_core.kv import KVShape
from ..flowcache_core.plan import ChunkPlan
from ..flowcache_core.run_settings import RunSettings
from ..flowcache_core.video_forecast import VideoForecast
from .bridge.chunked import check
from .bridge.memory import kv_bytes
from .bridge.network import inference_dtype, network_of, sizes_of, time_modulation
from .bridge.outer import attach
from .bridge.run import asked as plan_and_settings
from .bridge.run import levels
from .bridge.windows import window_requests, windows_of
from .sampling import Asked, empty_latent, profile_asked, request_of

TEXT_TOKENS = 512   # of Wan's text encoder; the demo's conditionings have fewer


def foretold(model: Any, positive: list, negative: list, asked: Asked, timed: bool) -> VideoForecast:
    """Raises ValueError where a run with these inputs would."""
    model = attach(model)
    profile = profile_asked(model, asked)
    latent = empty_latent(profile, asked) if asked.latent is None else asked.latent["samples"]
    request = request_of(profile, asked, latent.shape[2])
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(asked.cfg or profile.guidance)
    guider.conds = guider.original_conds
    check(guider, model.model_options, latent)
    sigmas = asked.sigmas if asked.sigmas is not None else torch.tensor(levels(profile, request).sigmas)
    windows = windows_of(profile, asked.schedule, asked.chunk_frames, latent.shape[2])
    parts = window_requests(profile, request, windows) if len(windows) > 1 else [request]
    runs = [plan_and_settings(guider, model.model_options, part, sigmas, latent[:, :, window.start:window.stop],
                              asked.seed) for part, window in zip(parts, windows, strict=True)]
    caches = [kv_bytes(model.model, plan, replace(settings, kv_device="gpu")) for plan, settings in runs]
    comfy.model_management.load_models_gpu([model])
    text, rate = positive[0][0].shape[1], None
    if timed:
        frames, size = runs[0][0].chunks[0].frames, latent.shape[-2:]
        tokens = frames * sizes_of(network_of(model.model)).tokens_per_frame(*size)
        rate = forward_seconds(model, (frames, *size), text) / _design(model, text).forward(tokens, tokens)
    return VideoForecast(tuple(windows), tuple(_window(model, plan, settings, text, cache, rate)
                                               for (plan, settings), cache in zip(runs, caches, strict=True)))


def _design(model: Any, text: int) -> Architecture:
    network = network_of(model.model)
    return wan_architecture(network.dim, network.ffn_dim, network.num_layers, text)


def _window(model: Any, plan: ChunkPlan, settings: RunSettings, text: int, cache: int, rate: float | None) -> Forecast:
    """text: rows of the prompt; cache: bytes of the KV cache; rate: seconds a FLOP, where it is known."""
    network, device, dtype = network_of(model.model), model.load_device, inference_dtype(model.model)
    sizes = sizes_of(network)
    shape = KVShape(sizes.layers, len(settings.streams), settings.items, sizes.heads, sizes.head_dim,
                    (settings.kv_dtype or dtype).itemsize)
    with torch.inference_mode():
        return forecast(plan, settings, lambda t: time_modulation(network, t.to(device), dtype), _design(model, text),
                        sizes.tokens_per_frame(settings.height, settings.width), shape, cache, rate)


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
