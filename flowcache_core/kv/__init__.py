"""Which past tokens stay, where, in what precision?"""

from .budget import KVBudget, KVShape, Residency, capacity, least_tokens
from .store import KVStore, Slot

__all__ = ["KVBudget", "KVShape", "KVStore", "Residency", "Slot", "capacity", "least_tokens"]
