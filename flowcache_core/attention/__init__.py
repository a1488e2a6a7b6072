"""Which keys does a query really look at, and how much does each of them count?"""

from .weighted import WeightedAttention, attend_masked, attend_widened

__all__ = ["WeightedAttention", "attend_masked", "attend_widened"]
