"""May this step be skipped, and what stands in for it?"""

from . import policies, taylor  # noqa: F401  (registers them)
from .contract import POLICIES, Decision, Kind, ReusePolicy, StepInfo
from .predictors import PREDICTORS, Predictor
from .signals import relative_l1

__all__ = ["POLICIES", "PREDICTORS", "Decision", "Kind", "Predictor", "ReusePolicy", "StepInfo", "relative_l1"]
