"""What nodes hang on a model: one frozen value, from which every sampling run makes a state of its own."""

from dataclasses import dataclass, field
from typing import Any

from ...flowcache_core.attention import SparseAttention
from ...flowcache_core.kv import Compression, KVBudget
from ...flowcache_core.profiles import Profile
from ...flowcache_core.reuse import Predictor, ReusePolicy
from ...flowcache_core.reuse.policies.off import Off
from ...flowcache_core.reuse.predictors import Velocity
from .model_hooks import KEY


@dataclass(frozen=True)
class Template:
    """profile: how the model is sampled, None where no node has said; policy, predictor: what may be skipped; budget,
    compression: what the KV cache may hold; sparse: which keys are looked at (None: all); kv_device, kv_dtype: where
    and how exactly the cache holds them, "auto" is up to the run; note: what the preset has to say; reuse_from,
    reuse_until: see `RunSettings`."""

    profile: Profile | None = None
    policy: ReusePolicy = field(default_factory=Off)
    predictor: Predictor = field(default_factory=Velocity)
    budget: KVBudget = field(default_factory=KVBudget)
    compression: Compression | None = None
    sparse: SparseAttention | None = None
    kv_device: str = "auto"
    kv_dtype: str = "auto"
    note: str = ""
    reuse_from: float = 0.0
    reuse_until: float = 1.0


def template_of(options: dict[str, Any]) -> Template:
    """The template in model options; an empty one where no node has put one there."""
    return options.get("transformer_options", {}).get(KEY, Template())
