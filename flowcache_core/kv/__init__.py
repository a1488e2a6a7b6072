"""Which past tokens stay, where, in what precision?"""

from . import mergers, scorers  # noqa: F401  (registers them)
from .budget import KVBudget, KVShape, chunk_tokens
from .compression import Compression, settle
from .host_memory import resident_layers
from .layout import Layout, Slot
from .marks import SALIENCE, Kept, Marks
from .merging import MERGERS, Merged, Merger
from .residency import Residency, Room, capacity, least_tokens
from .scoring import SCORERS, Cached, Scorer
from .storage import format_of
from .store import KVStore

__all__ = ["MERGERS", "SALIENCE", "SCORERS", "Cached", "Compression", "KVBudget", "KVShape", "KVStore", "Kept",
           "Layout", "Marks", "Merged", "Merger", "Residency", "Room", "Scorer", "Slot", "capacity", "chunk_tokens",
           "format_of", "least_tokens", "resident_layers", "settle"]
