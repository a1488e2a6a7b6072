"""Whether the windows of a video can be run, before the first of them is."""

from types import SimpleNamespace

import torch

from ..backbones.backbone import Backbone
from ..plan import ChunkPlan
from ..run_cache import RunCache
from ..run_settings import RunSettings, check_plan


def check_window(plan: ChunkPlan, settings: RunSettings, backbone: Backbone, first: bool) -> None:
    """Raises ValueError for a plan, or a KV budget (naming the least), that cannot be. first: the window is made at
    once, which checks its budget."""
    check_plan(plan, settings, hasattr(backbone, "shift_keys"))
    if not first and settings.budget.amount is not None:
        weightless = SimpleNamespace(sizes=backbone.sizes, dtype=backbone.dtype, device=torch.device("meta"))
        RunCache(plan, settings, weightless, backbone.sizes.tokens_per_frame(settings.height, settings.width)).close()
