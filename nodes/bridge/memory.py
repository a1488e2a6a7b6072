"""How much memory the host should make free: that of the frames of one pass, and the KV cache, counted in frames."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...flowcache_core.backbones.backbone import Sizes
from ...flowcache_core.plan import ChunkPlan
from ...flowcache_core.run_cache import RunCache
from ...flowcache_core.run_settings import RunSettings
from .network import inference_dtype, network_of, sizes_of


@dataclass(frozen=True)
class _Unplaced:
    """A network as far as the size of its cache goes; the cache itself takes no memory on this device."""

    sizes: Sizes
    dtype: torch.dtype
    device: torch.device = torch.device("meta")


def kv_bytes(model: Any, plan: ChunkPlan, settings: RunSettings) -> int:
    """What the KV cache of the run takes on the model's device. Raises ValueError for a budget that cannot be kept."""
    if settings.kv_device == "cpu":
        return 0
    sizes = sizes_of(network_of(model))
    cache = RunCache(plan, replace(settings, kv_device="gpu"), _Unplaced(sizes, inference_dtype(model)),
                     sizes.tokens_per_frame(settings.height, settings.width))
    return cache.store.allocated_bytes if cache.store else 0


def prepare_sampling(plan: ChunkPlan, cache_bytes: int) -> Callable:
    """A `PREPARE_SAMPLING` wrapper. The host's estimate is linear in the frames, and doubles the batch."""
    frames = max(sum(plan.chunks[c].frames for c in p.chunks) for p in plan.passes())

    def wrapper(executor: Callable, model: Any, noise_shape: Any, conds: Any, *args: Any, **kwargs: Any) -> Any:
        shape = list(noise_shape)
        one, two = (model.model.memory_required([2 * shape[0], shape[1], n, *shape[3:]]) for n in (1, 2))
        shape[2] = frames + math.ceil(cache_bytes / (two - one))
        return executor(model, shape, conds, *args, **kwargs)

    return wrapper
