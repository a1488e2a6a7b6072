"""How finished chunks are folded: a scorer values their tokens, and the best of every head stay.

Composable like a press: a scorer is one file, and selection, order and granularity are here once.
"""

from dataclasses import dataclass, field

from torch import Tensor

from .scorers.flowcache import FlowCacheScore
from .scoring import Cached, Scorer
from .select import Granularity, by_position, by_score

GRANULARITIES = ("token", "frame", "chunk")


@dataclass(frozen=True)
class Compression:
    """granularity: what is kept or dropped as a whole. released_order: survivors lie in the order of their scores and
    are pooled in that order, as in the authors' release; otherwise in the order of the video. finished_tokens: fold
    as soon as finished chunks hold more than this many tokens, as the release does on SkyReels-V2, instead of when
    the budget asks for room."""

    scorer: Scorer = field(default_factory=FlowCacheScore)
    granularity: Granularity = "token"
    released_order: bool = False
    finished_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.granularity not in GRANULARITIES:
            raise ValueError(f"granularity {self.granularity!r}: choose one of {', '.join(GRANULARITIES)}")

    def group(self, tokens_per_frame: int, tokens_per_chunk: int) -> int:
        """Tokens that stay or go together."""
        return {"token": 1, "frame": tokens_per_frame, "chunk": tokens_per_chunk}[self.granularity]

    def choose(self, queries: Tensor, cached: Cached, keep: int) -> Tensor:
        """Indices `(items, kv_heads, keep)` of the tokens that stay. queries: `(items, heads, Lq, d)`."""
        score = self.scorer.score(queries if self.scorer.needs_queries else None, cached)
        order = by_score if self.released_order else by_position
        return order(score, keep, self.group(cached.tokens_per_frame, cached.tokens_per_chunk))
