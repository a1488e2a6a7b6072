"""Which keys does a query really look at, and how much does each of them count?"""

from . import methods  # noqa: F401  (registers them)
from .block_attention import KeySet
from .run import AttentionRun
from .sparse import SPARSE, Place, SparseAttention, SparseMethod
from .weighted import WeightedAttention, attend_masked, attend_widened

__all__ = ["SPARSE", "AttentionRun", "KeySet", "Place", "SparseAttention", "SparseMethod", "WeightedAttention",
           "attend_masked", "attend_widened"]
