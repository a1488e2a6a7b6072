"""Which past tokens stay, where, in what precision?"""

from flowcache_core.kv.budget import KVBudget, KVShape, Residency, capacity, least_tokens
from flowcache_core.kv.store import KVStore, Slot

__all__ = ["KVBudget", "KVShape", "KVStore", "Residency", "Slot", "capacity", "least_tokens"]
