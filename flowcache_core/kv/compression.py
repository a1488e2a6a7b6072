"""How finished chunks are folded: a scorer values their tokens, and the best of every head stay.

Composable like a press: a scorer is one file, and selection, order and granularity are here once.
"""

from dataclasses import dataclass, field

from torch import Tensor

from .scorers.flowcache import FlowCacheScore
from .scoring import Cached, Scorer
from .select import Granularity, by_position, by_score
from .store import KVStore

GRANULARITIES = ("token", "frame", "chunk")


@dataclass(frozen=True)
class Compression:
    """granularity: what is kept or dropped as a whole.

    The rest is for comparison with the authors' release. released_order: survivors lie in the order of their scores
    and are pooled in that order, instead of the video's. finished_tokens (SkyReels-V2): fold as soon as finished
    chunks hold more than this, instead of when the budget asks for room. cached_chunks (MAGI-1): fold one chunk away
    at the end of each stage in which so many are cached, with the queries of the last chunk that was computed.
    """

    scorer: Scorer = field(default_factory=FlowCacheScore)
    granularity: Granularity = "token"
    released_order: bool = False
    finished_tokens: int | None = None
    cached_chunks: int | None = None

    def __post_init__(self) -> None:
        if self.granularity not in GRANULARITIES:
            raise ValueError(f"granularity {self.granularity!r}: choose one of {', '.join(GRANULARITIES)}")

    @property
    def marks(self) -> tuple[str, ...]:
        """What the store must keep beside each token."""
        return ()

    def group(self, tokens_per_frame: int, tokens_per_chunk: int) -> int:
        """Tokens that stay or go together."""
        return {"token": 1, "frame": tokens_per_frame, "chunk": tokens_per_chunk}[self.granularity]

    def choose(self, queries: Tensor, cached: Cached, keep: int) -> Tensor:
        """Indices `(items, kv_heads, keep)` of the tokens that stay. queries: `(items, heads, Lq, d)`."""
        score = self.scorer.score(queries if self.scorer.needs_queries else None, cached)
        order = by_score if self.released_order else by_position
        return order(score, keep, self.group(cached.tokens_per_frame, cached.tokens_per_chunk))


def settle(store: KVStore, compression: Compression, layer: int, stream: str, queries: Tensor, tokens_per_frame: int,
           tokens_per_chunk: int) -> None:
    """Carries out the announced compression of one layer and stream."""
    keep = store.layout.folded.tokens

    def choose(keys: Tensor, values: Tensor, positions: Tensor) -> Tensor:
        cached = Cached(keys, values, None if compression.released_order else positions, tokens_per_frame,
                        tokens_per_chunk)
        return compression.choose(queries, cached, keep)

    store.settle(layer, stream, choose)
