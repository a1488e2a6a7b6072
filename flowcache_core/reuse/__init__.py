"""May this step be skipped, and what stands in for it?"""

from flowcache_core.reuse import policies  # noqa: F401  (registers them)
from flowcache_core.reuse.contract import POLICIES, Decision, Kind, ReusePolicy, StepInfo
from flowcache_core.reuse.predictors import PREDICTORS, Predictor
from flowcache_core.reuse.signals import relative_l1

__all__ = ["POLICIES", "PREDICTORS", "Decision", "Kind", "Predictor", "ReusePolicy", "StepInfo", "relative_l1"]
